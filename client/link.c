/*
 * The link to the daemon: connecting, connecting again, calls, errors, Ctrl-C.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/client.h"

int64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int say_error(const struct sink_error *e, int rc)
{
	if (rc == SINK_GONE)
		fprintf(stderr, "sink: %s\n", e->message);
	else
		fprintf(stderr, "sink: %s: %s\n", e->name, e->message);
	return rc == SINK_GONE ? EXIT_NO_DAEMON : EXIT_REFUSED;
}

bool is_error(const struct sink_error *e, const char *name)
{
	return strcmp(e->name, name) == 0;
}

/* SINK_TIMEOUT: the daemon has to accept others first.  To wait for that in connect()
 * would be deaf to Ctrl-C. */
static int link_try(struct client *c, const char *path, struct sink_error *e)
{
	int rc = sink_open_now(&c->sink, path, e);

	if (rc == 0) {
		snprintf(c->path, sizeof c->path, "%s", sink_path(c->sink));
		c->n_link++;
	}
	return rc;
}

/* Sleeps, unless Ctrl-C comes. */
static void pause_ms(int ms)
{
	struct pollfd p = { .fd = signal_fd(), .events = POLLIN };

	poll(&p, 1, ms);
}

static bool signal_waiting(void)
{
	struct pollfd p = { .fd = signal_fd(), .events = POLLIN };

	return p.fd >= 0 && poll(&p, 1, 0) > 0;
}

static bool given_up(const struct client *c)
{
	return signal_waiting() || (c->end && clock_ms() >= c->end);
}

/* For poll(); -1: for ever. */
static int patience_left(const struct client *c)
{
	int64_t left = c->end - clock_ms();

	return c->end == 0 ? -1 : left < 0 ? 0 : (int)left;
}

static int link_open_within(struct client *c, int ms)
{
	int64_t now = clock_ms(), end = now + ms, full_end = now + PATIENCE_MS;
	struct sink_error e;
	int rc;

	if (c->sink)
		return 0;
	/* Who has had a daemon wants that one again. */
	while ((rc = link_try(c, c->n_link > 0 ? c->path : c->socket, &e))) {
		if (given_up(c))
			return EXIT_INTERRUPTED;
		if (clock_ms() >= (rc == SINK_TIMEOUT ? full_end : e.code == ECONNREFUSED ? end : now))
			return say_error(&e, SINK_GONE);
		pause_ms(rc == SINK_TIMEOUT ? 20 : 50);
	}
	return 0;
}

int link_open(struct client *c)
{
	return link_open_within(c, 0);
}

int link_open_soon(struct client *c)
{
	return link_open_within(c, SOON_MS);
}

int link_again(struct client *c)
{
	int64_t end = clock_ms() + PATIENCE_MS;
	struct sink_error e;
	int rc, ms = 20;

	sink_close(c->sink);
	c->sink = NULL;
	for (;;) {
		rc = link_try(c, c->path, &e);
		if (rc == 0)
			return 0;
		if (given_up(c))
			return EXIT_INTERRUPTED;
		if (clock_ms() >= end)
			return say_error(&e, SINK_GONE);
		pause_ms(ms);
		ms = ms < 500 ? ms * 2 : 500;
	}
}

void link_begin(struct client *c, const char *method, const struct params *p)
{
	msgpack_packer *pk = sink_begin(c->sink, method);

	msgpack_pack_map(pk, p->n);
	pk->callback(pk->data, p->buf.data, p->buf.size);
}

int link_call(struct client *c, const char *method, const struct params *p, struct sink_answer *out)
{
	struct sink_error e;
	int rc = link_open(c);

	if (rc)
		return rc;
	link_begin(c, method, p);
	rc = sink_call(c->sink, out, &e);
	return rc ? say_error(&e, rc) : 0;
}

/* Ctrl-C ends it, but that an order's first one sets c->stop: a cancel stops whatever
 * answer a session is at, which before ours is accepted is another's. */
static int call_wait(struct client *c, uint32_t id, bool order, struct sink_answer *out, struct sink_error *e)
{
	struct pollfd p[2] = { { .fd = sink_fd(c->sink), .events = POLLIN }, { .fd = signal_fd(), .events = POLLIN } };
	int rc;

	while ((rc = sink_wait_ms(c->sink, id, 0, out, e)) == SINK_TIMEOUT) {
		if (!given_up(c)) {
			poll(p, 2, patience_left(c));
			continue;
		}
		/* The signal stays where it is, for the caller to take. */
		if (!order || c->stop || !signal_taken())
			return EXIT_INTERRUPTED;
		c->stop = true;
		fprintf(stderr, "sink: it is stopped when the daemon has accepted it; Ctrl-C again leaves it\n");
	}
	return rc;
}

/* Ctrl-C ends it, and then the connection: half a request stands on it, which nobody takes. */
static int call_send(struct client *c, uint32_t *id, struct sink_error *e)
{
	struct pollfd p[2] = { { .fd = sink_fd(c->sink), .events = POLLIN | POLLOUT },
	                       { .fd = signal_fd(), .events = POLLIN } };
	int rc;

	while ((rc = sink_send_ms(c->sink, 0, id, e)) == SINK_TIMEOUT) {
		if (given_up(c)) {
			sink_close(c->sink);
			c->sink = NULL;
			return EXIT_INTERRUPTED;
		}
		poll(p, 2, patience_left(c));
	}
	return rc;
}

static int call(struct client *c, bool order, struct sink_answer *out, struct sink_error *e)
{
	uint32_t id;
	int rc;

	if (given_up(c))
		return EXIT_INTERRUPTED;
	rc = call_send(c, &id, e);
	c->sent = rc == 0;
	if (rc == 0)
		rc = call_wait(c, id, order, out, e);
	if (rc == SINK_REFUSED)
		c->sent = false;
	return rc;
}

static int patient(struct client *c, const char *method, const struct params *p, bool order,
                   struct sink_answer *out, struct sink_error *e)
{
	bool said = false, maybe = false;      /* one before may have been taken */
	int rc = link_open(c);

	c->sent = false;
	while (rc == 0) {
		link_begin(c, method, p);
		rc = call(c, order, out, e);
		maybe = maybe || (c->sent && rc == SINK_GONE);
		c->sent = c->sent || maybe;
		if (rc == SINK_GONE) {
			rc = link_again(c);
		} else if (rc == SINK_REFUSED && (is_error(e, "loading") || is_error(e, "stopping"))) {
			if (!said && is_error(e, "loading"))
				fprintf(stderr, "sink: the model is loading\n");
			said = true;
			rc = given_up(c) || c->stop ? EXIT_INTERRUPTED : 0;
			pause_ms(200);
		} else if (rc == SINK_REFUSED) {
			return EXIT_REFUSED;
		} else if (rc == 0) {
			return 0;
		} else if (rc != EXIT_INTERRUPTED) {
			rc = say_error(e, rc);
		}
	}
	e->name[0] = 0;
	return rc;
}

int link_patient(struct client *c, const char *method, const struct params *p,
                 struct sink_answer *out, struct sink_error *e)
{
	return patient(c, method, p, false, out, e);
}

int link_order(struct client *c, const char *method, const struct params *p,
               struct sink_answer *out, struct sink_error *e)
{
	return patient(c, method, p, true, out, e);
}

/* ---- standard output ---- */

#define OUTPUT_PIECE 4096      /* a pipe that is writable takes as much */

/* It may be a pipe that nobody empties, or a terminal that is stopped. */
static bool output_wait(struct client *c)
{
	struct pollfd p[2] = { { .fd = STDOUT_FILENO, .events = POLLOUT }, { .fd = signal_fd(), .events = POLLIN } };

	while (!c->mute && !p[0].revents)
		if (poll(p, 2, patience_left(c)) >= 0 && !p[0].revents)
			c->mute = true;
	return !c->mute;
}

bool output_put(struct client *c, const char *s, size_t n)
{
	size_t piece;

	for (; n > 0 && output_wait(c); s += piece, n -= piece) {
		piece = n < OUTPUT_PIECE ? n : OUTPUT_PIECE;
		if (fwrite(s, 1, piece, stdout) != piece || fflush(stdout))
			return false;
	}
	return true;
}

/* ---- Ctrl-C as something to read ---- */

static int signal_pipe[2] = { -1, -1 };

static void signal_note(int sig)
{
	int keep = errno;
	char b = (char)sig;

	if (write(signal_pipe[1], &b, 1) < 0) {
		/* full: it is readable already */
	}
	errno = keep;
}

void signals_take(void)
{
	struct sigaction sa = { .sa_handler = signal_note }, old;

	if (signal_pipe[0] >= 0 || (sigaction(SIGINT, NULL, &old) == 0 && old.sa_handler == SIG_IGN) ||
	    pipe(signal_pipe))
		return;
	fcntl(signal_pipe[0], F_SETFL, O_NONBLOCK);
	fcntl(signal_pipe[1], F_SETFL, O_NONBLOCK);
	fcntl(signal_pipe[0], F_SETFD, FD_CLOEXEC);
	fcntl(signal_pipe[1], F_SETFD, FD_CLOEXEC);
	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
}

int signal_fd(void)
{
	return signal_pipe[0];
}

bool signal_taken(void)
{
	char b[16];

	return signal_pipe[0] >= 0 && read(signal_pipe[0], b, sizeof b) > 0;
}
