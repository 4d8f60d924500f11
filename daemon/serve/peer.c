/*
 * A connection: bytes in, whole messages out of them, bytes back.
 *
 * The one hard idea is back pressure: a peer is read from only while it has few
 * requests under way and takes its answers, and only when everything read from
 * it has been scanned.  So what a peer can make us hold is bounded: one message,
 * its requests under way, and its unread answers.
 *
 * Never frees a peer while a caller may still hold it (see inside.h), never
 * looks into a message before the scanner has passed it.
 */
#include "daemon/serve/peer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/serve/answer.h"
#include "daemon/serve/follow.h"
#include "daemon/serve/method.h"

#define READ_BYTES 65536
/* Connections over the cap that are still told so, as the answer to their first
 * request; even more are closed at once. */
#define SURPLUS 16
#define TOO_MANY "this user has as many connections as one may have"
#define TURN_MESSAGES 32       /* of one peer before others have their turn */
#define TURN_GONE 16

/* ---- users ---- */

static struct user *user_get(struct serve *s, uid_t uid)
{
	struct user *u;

	LIST_FOREACH(u, &s->users, link)
		if (u->uid == uid)
			return u;
	u = calloc(1, sizeof *u);
	if (u) {
		u->uid = uid;
		LIST_INSERT_HEAD(&s->users, u, link);
	}
	return u;
}

static void user_put(struct user *u)
{
	if (u->n_peer > 0)
		return;
	LIST_REMOVE(u, link);
	free(u);
}

/* A user that held too much holds less: its connections go on. */
static void user_wake(struct serve *s, const struct user *u)
{
	struct peer *p;

	LIST_FOREACH(p, &s->peers, link)
		if (p->user == u)
			event_active(p->readable, EV_READ, 0);
}

static void charge(struct peer *p)
{
	struct user *u = p->user;
	bool was_over = u->n_byte >= USER_BYTES;
	uint64_t now = p->ended ? 0 : p->n_call_byte + evbuffer_get_length(p->in) + evbuffer_get_length(p->out);

	u->n_byte += now - p->charged;
	p->charged = now;
	if (was_over && u->n_byte < USER_BYTES)
		user_wake(p->serve, u);
}

/* ---- calls ---- */

struct call *peer_call(struct serve *s, struct peer *p, uint32_t id, size_t n_byte)
{
	struct call *c = calloc(1, sizeof *c);

	if (!c)
		return NULL;
	c->peer = p;
	c->id = id;
	c->n_byte = n_byte;
	s->n_call++;
	if (p) {
		LIST_INSERT_HEAD(&p->calls, c, link);
		p->n_call++;
		p->n_call_byte += n_byte;
	}
	return c;
}

void peer_call_end(struct serve *s, struct call *c)
{
	s->n_call--;
	if (c->peer) {
		LIST_REMOVE(c, link);
		c->peer->n_call--;
		c->peer->n_call_byte -= c->n_byte;
	}
	free(c);
}

struct request *peer_request(const struct peer *p, enum verb verb)
{
	struct request *r = request_new(verb);

	if (!r)
		return NULL;
	r->peer = p->number;
	r->uid = r->owner = p->uid;
	r->gid = p->gid;
	if (p->n_group > 0) {
		r->groups = calloc(p->n_group, sizeof *r->groups);
		if (!r->groups) {
			request_free(r);
			return NULL;
		}
		memcpy(r->groups, p->groups, p->n_group * sizeof *r->groups);
		r->n_group = p->n_group;
	}
	return r;
}

bool engine_takes(const struct serve *s)
{
	return s->engine && s->state != SERVE_FAILED && !s->stopping;
}

void peer_post(struct serve *s, struct call *c, struct request *r)
{
	r->tag = (uint64_t)(uintptr_t)c;
	if (c->peer)
		c->peer->posted = true;
	engine_post(s->engine, r);
}

/* ---- input ---- */

static bool may_take(const struct peer *p)
{
	return !p->ended && !p->closing && peer_unread(p) < PEER_HIGH_WATER && p->n_call + p->n_wait < PEER_CALLS &&
	       p->n_call_byte < PEER_CALL_BYTES && p->user->n_byte < USER_BYTES;
}

static bool unscanned(const struct peer *p)
{
	return evbuffer_get_length(p->in) > p->n_scanned;
}

/* Walks what has come; SCAN_DONE: the first n_scanned bytes are a message. */
static enum scan_result scan_input(struct peer *p)
{
	enum scan_result rc = SCAN_MORE;
	struct evbuffer_iovec v;
	struct evbuffer_ptr at;
	size_t used;

	while (rc == SCAN_MORE && unscanned(p)) {
		evbuffer_ptr_set(p->in, &at, p->n_scanned, EVBUFFER_PTR_SET);
		if (evbuffer_peek(p->in, -1, &at, &v, 1) < 1)
			break;
		rc = scan_feed(&p->scan, v.iov_base, v.iov_len, &used);
		p->n_scanned += used;
	}
	return rc;
}

/* The id of a request whose rest cannot be read; 0: none to be seen. */
static uint32_t request_id(struct peer *p)
{
	uint8_t b[7] = { 0 };
	ev_ssize_t n = evbuffer_copyout(p->in, b, sizeof b);

	if (n < 3 || b[0] != 0x94 || b[1] != FRAME_REQUEST)
		return 0;
	if (b[2] < 0x80)
		return b[2];
	if (b[2] == 0xcc && n >= 4)
		return b[3];
	if (b[2] == 0xcd && n >= 5)
		return (uint32_t)b[3] << 8 | b[4];
	if (b[2] == 0xce && n >= 7)
		return (uint32_t)b[3] << 24 | (uint32_t)b[4] << 16 | (uint32_t)b[5] << 8 | b[6];
	return 0;
}

/* What follows a message that is none cannot be told apart: the peer is told why
 * and finished. */
static void refuse_input(struct peer *p, uint32_t id, const char *name, const char *text)
{
	log_debug("peer %llu (uid %u): %s: %s", (unsigned long long)p->number, (unsigned)p->uid, name, text);
	answer_error(p, id, name, text);
	evbuffer_drain(p->in, evbuffer_get_length(p->in));
	p->n_scanned = 0;
	peer_finish(p);
}

static void take_message(struct peer *p)
{
	size_t n = p->n_scanned;
	const unsigned char *bytes = evbuffer_pullup(p->in, (ev_ssize_t)n);
	uint32_t id = request_id(p);
	struct frame f = { .open = false };
	char why[160];
	int rc = bytes ? frame_parse(&f, bytes, n, why, sizeof why) : FRAME_NO_MEMORY;

	if (rc == FRAME_NO_MEMORY && id == 0) {
		refuse_input(p, 0, "memory", "no memory for the message");
		frame_close(&f);
		return;
	}
	if (rc == FRAME_NO_MEMORY) {
		answer_error(p, id, "memory", "no memory for the message");
	} else if (rc) {
		if (!f.has_id) {
			refuse_input(p, 0, "parse", why);
			frame_close(&f);
			return;
		}
		answer_error(p, f.id, "parse", why);   /* where the next one begins is known */
	} else if (p->surplus) {
		refuse_input(p, f.id, "cap_connections", TOO_MANY);
	} else if (f.kind == FRAME_REQUEST) {      /* we ask nothing, and know no notification */
		method_call(p, &f, n);
	}
	frame_close(&f);
	if (!p->ended && !p->closing)
		evbuffer_drain(p->in, n);
	p->n_scanned = 0;
	scan_reset(&p->scan, PROTO_MESSAGE_MAX);
}

static void work(struct peer *p)
{
	int turn;

	for (turn = 0; turn < TURN_MESSAGES && may_take(p) && unscanned(p); turn++) {
		switch (scan_input(p)) {
		case SCAN_MORE:
			return;
		case SCAN_DONE:
			take_message(p);
			break;
		case SCAN_TOO_LARGE:
			refuse_input(p, request_id(p), "too_large", "a message is at most 1 MiB");
			return;
		case SCAN_TOO_DEEP:
			refuse_input(p, request_id(p), "parse", "nested too deeply");
			return;
		case SCAN_BAD:
			refuse_input(p, request_id(p), "parse", "not MessagePack");
			return;
		}
	}
}

/* End of input.  One that has only shut its writing side still gets the answers
 * to what it has asked, and what it follows; one that is gone holds nothing up.
 * Nothing is read any more that would tell of its end: it lies among those that
 * are watched for nothing else. */
static void input_end(struct peer *p)
{
	struct epoll_event end_only = { .data.ptr = p };

	p->eof = true;
	if (epoll_ctl(p->serve->half_closed, EPOLL_CTL_ADD, p->fd, &end_only) < 0) {
		ERROR(-errno);
		peer_end(p);
	}
}

void peer_on_gone(evutil_socket_t fd, short what, void *ctx)
{
	struct epoll_event gone[TURN_GONE];
	int i, n = epoll_wait(fd, gone, TURN_GONE, 0);

	(void)what;
	(void)ctx;
	for (i = 0; i < n; i++)
		peer_end(gone[i].data.ptr);
}

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
	struct peer *p = ctx;
	int n;

	if (what & EV_TIMEOUT) {
		refuse_input(p, 0, "cap_connections", TOO_MANY);
		return;
	}
	if (may_take(p) && !p->eof && !unscanned(p)) {
		n = evbuffer_read(p->in, fd, READ_BYTES);
		if (n == 0)
			input_end(p);
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			peer_end(p);   /* what it sent is lost */
	}
	if (!p->ended)
		work(p);
	peer_update(p);
}

/* ---- output ---- */

size_t peer_unread(const struct peer *p)
{
	return evbuffer_get_length(p->out);
}

void peer_break(struct peer *p)
{
	if (p->ended || p->broken)
		return;
	p->broken = p->closing = true;
	event_active(p->writable, EV_WRITE, 0);
}

void peer_send(struct peer *p, const void *data, size_t n)
{
	if (p->ended || p->closing)
		return;
	if (evbuffer_add(p->out, data, n) < 0 || event_add(p->writable, NULL) < 0)
		peer_break(p);
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
	struct peer *p = ctx;
	int n = 0;

	(void)what;
	if (peer_unread(p) > 0)
		n = evbuffer_write(p->out, fd);
	if (p->broken || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		peer_end(p);
		return;
	}
	if (peer_unread(p) < PEER_HIGH_WATER / 2)
		follow_resume(p);
	peer_update(p);
}

/* ---- life ---- */

static bool is_done(const struct peer *p)
{
	if (evbuffer_get_length(p->out) > 0)
		return false;
	return p->closing || (p->eof && !unscanned(p) && p->n_call == 0 && LIST_EMPTY(&p->watches));
}

void peer_update(struct peer *p)
{
	if (!p->ended && is_done(p))
		peer_end(p);
	if (p->ended)
		return;
	charge(p);
	if (peer_unread(p) > 0 && event_add(p->writable, NULL) < 0)
		peer_break(p);
	if (!may_take(p)) {
		event_del(p->readable);
		return;
	}
	if (p->eof)
		event_del(p->readable);
	else if (event_add(p->readable, NULL) < 0)
		peer_break(p);         /* it would never be heard again */
	if (unscanned(p))
		event_active(p->readable, EV_READ, 0);
}

void peer_finish(struct peer *p)
{
	p->closing = true;
	peer_update(p);
}

void peer_end(struct peer *p)
{
	struct serve *s = p->serve;
	struct watch *w;
	struct call *c;

	if (p->ended)
		return;
	while ((w = LIST_FIRST(&p->watches)))
		watch_free(w);
	while ((c = LIST_FIRST(&p->calls))) {
		LIST_REMOVE(c, link);
		c->peer = NULL;
	}
	p->ended = true;
	charge(p);
	p->user->n_peer--;
	user_put(p->user);
	p->user = NULL;
	event_del(p->readable);
	event_del(p->writable);
	LIST_REMOVE(p, link);
	LIST_INSERT_HEAD(&s->ended, p, link);
	s->n_peer--;
	event_active(s->sweep, EV_TIMEOUT, 0);
	if (p->posted && engine_takes(s)) {
		p->leaving->peer = p->number;
		p->leaving->uid = p->uid;
		engine_post(s->engine, p->leaving);
		p->leaving = NULL;
	}
	log_debug("peer %llu (uid %u) has left", (unsigned long long)p->number, (unsigned)p->uid);
}

/* ---- birth ---- */

static int read_credentials(struct peer *p)
{
	struct ucred cred;
	socklen_t n = sizeof cred;

	if (getsockopt(p->fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
		return -errno;
	p->uid = cred.uid;
	p->gid = cred.gid;
	p->pid = cred.pid;
	n = 0;
	if (getsockopt(p->fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &n) == 0 || errno != ERANGE || n == 0)
		return 0;              /* none, or a kernel without it */
	p->groups = malloc(n);
	if (!p->groups)
		return -ENOMEM;
	if (getsockopt(p->fd, SOL_SOCKET, SO_PEERGROUPS, p->groups, &n) < 0)
		return -errno;
	p->n_group = n / sizeof *p->groups;
	return 0;
}

static void peer_free(struct peer *p)
{
	if (p->readable)
		event_free(p->readable);
	if (p->writable)
		event_free(p->writable);
	if (p->in)
		evbuffer_free(p->in);
	if (p->out)
		evbuffer_free(p->out);
	if (p->fd >= 0)
		close(p->fd);
	request_free(p->leaving);
	free(p->groups);
	free(p);
}

void peer_sweep(struct serve *s)
{
	struct peer *p;

	while ((p = LIST_FIRST(&s->ended))) {
		LIST_REMOVE(p, link);
		peer_free(p);
	}
}

/* One message to someone who does not become a peer. */
static void turn_away(struct serve *s, struct peer *p, const char *name, const char *text)
{
	if (answer_pack(s, 0, false, name, text))
		send(p->fd, s->scratch.data, s->scratch.size, MSG_NOSIGNAL | MSG_DONTWAIT);
	log_info("a connection of uid %u was refused: %s", (unsigned)p->uid, name);
	peer_free(p);
}

static int prepare(struct serve *s, struct peer *p)
{
	p->in = evbuffer_new();
	p->out = evbuffer_new();
	p->readable = event_new(s->base, p->fd, EV_READ | EV_PERSIST, on_readable, p);
	p->writable = event_new(s->base, p->fd, EV_WRITE, on_writable, p);
	p->user = user_get(s, p->uid);
	p->leaving = request_new(VERB_PEER_GONE);
	if (!p->in || !p->out || !p->readable || !p->writable || !p->user || !p->leaving)
		return -ENOMEM;
	return 0;
}

void peer_accept(struct serve *s, int fd)
{
	static const struct timeval patience = { .tv_sec = 2 };
	struct peer *p = calloc(1, sizeof *p);
	int rc;

	if (!p) {
		close(fd);
		return;
	}
	p->serve = s;
	p->fd = fd;
	rc = read_credentials(p);
	if (rc == 0)
		rc = prepare(s, p);
	if (rc) {
		ERROR(rc);
		if (p->user)
			user_put(p->user);
		turn_away(s, p, rc == -ENOMEM ? "memory" : "internal", "the connection cannot be served");
		return;
	}
	if (p->user->n_peer >= (uint64_t)s->params.n_connection + SURPLUS) {
		turn_away(s, p, "cap_connections", TOO_MANY);
		return;
	}
	p->surplus = p->user->n_peer >= s->params.n_connection;
	if (p->surplus)
		log_info("a connection of uid %u is one too many", (unsigned)p->uid);
	p->user->n_peer++;
	p->number = ++s->n_number;
	scan_reset(&p->scan, PROTO_MESSAGE_MAX);
	LIST_INSERT_HEAD(&s->peers, p, link);
	s->n_peer++;
	if (event_add(p->readable, p->surplus ? &patience : NULL) < 0)
		peer_break(p);
	log_debug("peer %llu: uid %u, pid %d", (unsigned long long)p->number, (unsigned)p->uid, (int)p->pid);
}
