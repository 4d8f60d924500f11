/*
 * Sockets that listen: those a service manager hands over (named "sinkd", or the
 * only ones), else our own.  The slab comes the same way, by its name.
 *
 * A path that is taken is tried first: where somebody answers, it is theirs and
 * we refuse to start; where nobody does, it is left over from a daemon that was
 * killed, and replaced.  Only a path that still is our socket is removed at the
 * end.
 */
#include "daemon/serve/listen.h"

#include <errno.h>
#include <grp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/serve/peer.h"

#define ACCEPT_TURN 16
#define PAUSE_MS 100

/* ---- accepting ---- */

static void set_accepting(struct serve *s, bool on)
{
	size_t i;

	for (i = 0; i < s->n_listener; i++) {
		if (on)
			event_add(s->listeners[i].event, NULL);
		else
			event_del(s->listeners[i].event);
	}
}

static void on_pause_end(evutil_socket_t fd, short what, void *ctx)
{
	(void)fd;
	(void)what;
	set_accepting(ctx, true);
}

/* Out of file numbers or memory: trying again at once would only spin. */
static void pause_accepting(struct serve *s, int error)
{
	struct timeval t = { .tv_usec = PAUSE_MS * 1000 };
	char text[128];

	log_warning("accept: %s; waiting a little", strerror_r(error, text, sizeof text));
	if (event_add(s->accept_pause, &t) == 0)       /* nobody else would end the pause */
		set_accepting(s, false);
}

static void on_accept(evutil_socket_t fd, short what, void *ctx)
{
	struct serve *s = ctx;
	int i, client;

	(void)what;
	for (i = 0; i < ACCEPT_TURN; i++) {
		client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (client >= 0) {
			peer_accept(s, client);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			pause_accepting(s, errno);
		else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			ERROR(-errno);
		return;
	}
}

static int add_listener(struct serve *s, int fd)
{
	if (s->n_listener == N_LISTENER)
		return ERROR(-E2BIG);
	s->listeners[s->n_listener].fd = fd;
	s->listeners[s->n_listener].event = event_new(s->base, fd, EV_READ | EV_PERSIST, on_accept, s);
	if (!s->listeners[s->n_listener].event)
		return ERROR(-ENOMEM);
	return event_add(s->listeners[s->n_listener++].event, NULL) < 0 ? ERROR(-ENOMEM) : 0;
}

/* ---- inherited ---- */

static int take_inherited(struct serve *s, struct reason *why)
{
	char **names = NULL;
	int i, n = sd_listen_fds_with_names(1, &names), fd, rc = 0;

	if (n < 0)
		return ERROR(n);
	for (i = 0; i < n && !rc; i++) {
		fd = SD_LISTEN_FDS_START + i;
		if (strcmp(names[i], SLAB_NAME) == 0 && !s->slab_fd) {
			s->slab_fd = fd;
		} else if (n > 1 && strcmp(names[i], "sinkd") != 0) {
			log_notice("the inherited file %s is not for us: closed", names[i]);
			close(fd);
		} else if (sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0) {
			rc = refuse(why, "bad_config", "the inherited file %s is not a listening Unix stream socket",
			            names[i]);
		} else {
			evutil_make_socket_nonblocking(fd);
			rc = add_listener(s, fd);
		}
	}
	for (i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
	return rc;
}

/* ---- our own ---- */

/* 0: the path is free, or was left over and is free now. */
static int clear_path(const struct sockaddr_un *to, struct reason *why)
{
	struct stat st;
	int fd, rc;

	if (lstat(to->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : refuse(why, "bad_config", "socket %s: %m", to->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return refuse(why, "bad_config", "socket %s: there is a file that is no socket", to->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ERROR(-errno);
	rc = connect(fd, (const struct sockaddr *)to, sizeof *to) < 0 ? errno : 0;
	close(fd);
	if (rc != ECONNREFUSED && rc != ENOENT)        /* EAGAIN: alive, with a full backlog */
		return refuse(why, "state_in_use", "another daemon listens on %s", to->sun_path);
	if (unlink(to->sun_path) < 0 && errno != ENOENT)
		return refuse(why, "bad_config", "socket %s: %m", to->sun_path);
	log_notice("replaced the socket %s that nobody listened on", to->sun_path);
	return 0;
}

/* Only the last component: more would be a mistake in the path. */
static void make_directory(const struct serve *s)
{
	char *path = strdup(s->socket), *slash = path ? strrchr(path, '/') : NULL;

	if (slash && slash != path) {
		*slash = '\0';
		if (mkdir(path, 0700) == 0 && s->params.system)
			chmod(path, 0755);     /* others must reach the socket */
	}
	free(path);
}

static int set_mode(const struct serve *s)
{
	struct group *g = s->params.system ? getgrnam("sinkd") : NULL;

	if (!g)
		return chmod(s->socket, 0600) < 0 ? ERROR(-errno) : 0;
	if (chown(s->socket, 0, g->gr_gid) < 0 || chmod(s->socket, 0660) < 0)
		return ERROR(-errno);
	return 0;
}

static int bind_own(struct serve *s, int fd, const struct sockaddr_un *at, struct reason *why)
{
	struct stat st;
	int rc;

	if (bind(fd, (const struct sockaddr *)at, sizeof *at) < 0)
		return refuse(why, "bad_config", "socket %s: %m", s->socket);
	s->own_socket = true;
	rc = set_mode(s);
	if (rc)
		return rc;
	if (listen(fd, SOMAXCONN) < 0 || lstat(s->socket, &st) < 0)
		return ERROR(-errno);
	s->socket_dev = st.st_dev;
	s->socket_ino = st.st_ino;
	return 0;
}

static int open_own(struct serve *s, struct reason *why)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd, rc;

	if (!s->socket)
		return refuse(why, "bad_config", "no socket: give --socket (there is no XDG_RUNTIME_DIR)");
	if (strlen(s->socket) >= sizeof at.sun_path)
		return refuse(why, "bad_config", "socket %s: a path of over %zu bytes", s->socket,
		              sizeof at.sun_path - 1);
	strcpy(at.sun_path, s->socket);
	make_directory(s);
	rc = clear_path(&at, why);
	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ERROR(-errno);
	rc = bind_own(s, fd, &at, why);
	if (rc) {
		close(fd);
		return rc;
	}
	return add_listener(s, fd);
}

int listen_open(struct serve *s, struct reason *why)
{
	int rc;

	s->accept_pause = evtimer_new(s->base, on_pause_end, s);
	if (!s->accept_pause)
		return ERROR(-ENOMEM);
	rc = take_inherited(s, why);
	if (rc || s->n_listener > 0)
		return rc;
	return open_own(s, why);
}

const char *listen_where(const struct serve *s)
{
	return s->own_socket ? s->socket : "a socket of the service manager's";
}

void listen_close(struct serve *s)
{
	struct stat st;
	size_t i;

	if (s->own_socket && lstat(s->socket, &st) == 0 && st.st_dev == s->socket_dev && st.st_ino == s->socket_ino)
		unlink(s->socket);
	s->own_socket = false;
	for (i = 0; i < s->n_listener; i++) {
		event_free(s->listeners[i].event);
		close(s->listeners[i].fd);
	}
	s->n_listener = 0;
	if (s->accept_pause)
		event_free(s->accept_pause);
	s->accept_pause = NULL;
}
