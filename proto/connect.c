/*
 * Finding a daemon: the places where one may listen, in order.
 */
#include "proto/connect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SYSTEM_SOCKET "/run/sinkd/sinkd.sock"

_Static_assert(sizeof ((struct sockaddr_un *)0)->sun_path <= CONNECT_PATH_MAX, "a path that connects fits");

static int socket_connect(const char *path, bool now)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, rc;

	if (strlen(path) >= sizeof addr.sun_path)
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (now ? SOCK_NONBLOCK : 0), 0);
	if (fd < 0)
		return -errno;
	do
		rc = connect(fd, (struct sockaddr *)&addr, sizeof addr);
	while (rc < 0 && errno == EINTR);
	if (rc == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

struct places { size_t n; char path[2][256]; };

static void places_find(struct places *at, const char *path)
{
	const char *env = getenv("SINKD_SOCKET"), *dir = getenv("XDG_RUNTIME_DIR");

	at->n = 0;
	if (path || (env && *env)) {
		snprintf(at->path[at->n++], sizeof at->path[0], "%s", path ? path : env);
		return;
	}
	if (dir && *dir)
		snprintf(at->path[at->n++], sizeof at->path[0], "%s/sinkd/sinkd.sock", dir);
	snprintf(at->path[at->n++], sizeof at->path[0], "%s", SYSTEM_SOCKET);
}

int daemon_connect(const char *path, bool now, char found[CONNECT_PATH_MAX], char *why, size_t n_why)
{
	struct places places;
	int fd, rc = -ENOENT;
	size_t i;

	places_find(&places, path);
	for (i = 0; i < places.n; i++) {
		fd = socket_connect(places.path[i], now);
		if (fd >= 0) {
			snprintf(found, CONNECT_PATH_MAX, "%s", places.path[i]);
			return fd;
		}
		if (fd != -ENOENT)
			rc = fd;
		if (fd != -ENOENT && fd != -ECONNREFUSED)
			break;
	}
	snprintf(why, n_why, "no daemon at %s%s%s: %s", places.path[0], i > 0 && places.n > 1 ? " or " : "",
	         i > 0 && places.n > 1 ? places.path[1] : "",
	         rc == -EAGAIN ? "it accepts no connection" : strerror(-rc));
	return rc;
}
