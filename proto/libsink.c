/*
 * libsink: one connection to a daemon.
 *
 * Everything read goes through the scanner into whole messages, and those into
 * two lists: answers (taken by id, in any order) and notifications (first in,
 * first out, bounded).  Unpacking happens when one is taken.
 *
 * Its one hard case is a daemon that cannot go on sending while we do not read,
 * and does not read while it cannot send: so sending reads, too.
 */
#include "proto/libsink.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proto/connect.h"
#include "proto/errors.h"
#include "proto/frame.h"
#include "proto/scan.h"

#define READ_SIZE 65536

struct message {               /* whole, scanned */
	struct message *next;
	uint32_t id;           /* of an answer */
	size_t n;
	char *data;
};

struct list { struct message *first, **last; size_t n_bytes; };

struct lag {                   /* events of a session that were left out */
	struct lag *next;
	uint64_t seq;          /* the first of them */
	char session[PROTO_NAME_MAX + 1];
};

struct sink {
	int fd;
	char path[CONNECT_PATH_MAX];
	uint32_t id;           /* of the latest request */
	msgpack_sbuffer out;
	size_t n_sent;         /* bytes of it */
	msgpack_packer packer;
	struct scan scan;
	char *in;              /* of the message that is arriving */
	size_t n_in, room;
	struct list answers, notifications;
	struct lag *lags;
};

static int fail(struct sink_error *e, int rc, int code, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

static int fail(struct sink_error *e, int rc, int code, const char *name, const char *fmt, ...)
{
	va_list ap;

	e->code = code;
	snprintf(e->name, sizeof e->name, "%s", name);
	va_start(ap, fmt);
	vsnprintf(e->message, sizeof e->message, fmt, ap);
	va_end(ap);
	return rc;
}

static int fail_gone(struct sink_error *e, int code)
{
	return fail(e, SINK_GONE, code, "gone", "the daemon went away: %s", strerror(code));
}

static int fail_bad(struct sink_error *e, const char *what)
{
	return fail(e, SINK_BAD, 0, "parse", "the daemon sent what is not our protocol: %s", what);
}

/* ---- lists of messages ---- */

static void list_push(struct list *l, struct message *m)
{
	m->next = NULL;
	*l->last = m;
	l->last = &m->next;
	l->n_bytes += m->n;
}

static struct message *list_take(struct list *l, struct message **at)
{
	struct message *m = *at;

	*at = m->next;
	if (!*at)
		l->last = at;
	l->n_bytes -= m->n;
	return m;
}

static void message_free(struct message *m)
{
	if (m)
		free(m->data);
	free(m);
}

static void list_free(struct list *l)
{
	while (l->first)
		message_free(list_take(l, &l->first));
}

/* ---- connecting ---- */

static int sink_new(struct sink **out, int fd, const char *path)
{
	struct sink *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	s->fd = fd;
	strcpy(s->path, path);
	msgpack_sbuffer_init(&s->out);
	msgpack_packer_init(&s->packer, &s->out, msgpack_sbuffer_write);
	scan_reset(&s->scan, SINK_ANSWER_MAX);
	s->answers.last = &s->answers.first;
	s->notifications.last = &s->notifications.first;
	*out = s;
	return 0;
}

static int sink_connect(struct sink **out, const char *path, bool now, struct sink_error *e)
{
	char found[sizeof (*out)->path], text[sizeof e->message];
	int fd, rc;

	*out = NULL;
	fd = daemon_connect(path, now, found, text, sizeof text);
	if (fd < 0)
		return fail(e, fd == -EAGAIN ? SINK_TIMEOUT : SINK_GONE, -fd, "gone", "%s", text);
	rc = sink_new(out, fd, found);
	if (rc) {
		close(fd);
		return fail_gone(e, -rc);
	}
	return 0;
}

int sink_open(struct sink **out, const char *path, struct sink_error *e)
{
	return sink_connect(out, path, false, e);
}

int sink_open_now(struct sink **out, const char *path, struct sink_error *e)
{
	return sink_connect(out, path, true, e);
}

void sink_close(struct sink *s)
{
	struct lag *lag;

	if (!s)
		return;
	close(s->fd);
	msgpack_sbuffer_destroy(&s->out);
	list_free(&s->answers);
	list_free(&s->notifications);
	while ((lag = s->lags)) {
		s->lags = lag->next;
		free(lag);
	}
	free(s->in);
	free(s);
}

int sink_fd(const struct sink *s)
{
	return s->fd;
}

const char *sink_path(const struct sink *s)
{
	return s->path;
}

bool sink_pending(const struct sink *s)
{
	return s->notifications.first || s->lags;
}

/* ---- what arrives ---- */

/* A notification that is left out: from which seq must its session be read? */
static void lag_note(struct sink *s, const msgpack_object *event)
{
	const msgpack_object *session = frame_get(event, "session"), *seq = frame_get(event, "seq");
	struct lag *lag;

	if (!session || session->type != MSGPACK_OBJECT_STR || session->via.str.size > PROTO_NAME_MAX ||
	    !seq || seq->type != MSGPACK_OBJECT_POSITIVE_INTEGER || seq->via.u64 == 0)
		return;
	for (lag = s->lags; lag; lag = lag->next)
		if (strlen(lag->session) == session->via.str.size &&
		    memcmp(lag->session, session->via.str.ptr, session->via.str.size) == 0)
			return;
	lag = calloc(1, sizeof *lag);
	if (!lag)
		return;
	lag->seq = seq->via.u64;
	memcpy(lag->session, session->via.str.ptr, session->via.str.size);
	lag->next = s->lags;
	s->lags = lag;
}

/* Takes over the message that has arrived whole. */
static int message_keep(struct sink *s, struct sink_error *e)
{
	struct message *m = calloc(1, sizeof *m);
	struct frame f;
	char why[128];
	int rc = 0;

	if (!m)
		return fail_gone(e, ENOMEM);
	m->data = s->in;
	m->n = s->n_in;
	s->in = NULL;
	s->n_in = s->room = 0;
	scan_reset(&s->scan, SINK_ANSWER_MAX);
	if (frame_parse(&f, m->data, m->n, why, sizeof why) || f.kind == FRAME_REQUEST) {
		rc = fail_bad(e, f.kind == FRAME_REQUEST ? "a request" : why);
		message_free(m);
	} else if (f.kind == FRAME_RESPONSE) {
		m->id = f.id;
		list_push(&s->answers, m);
	} else if (s->lags || s->notifications.n_bytes + m->n > SINK_KEPT_MAX) {
		lag_note(s, &f.params);
		message_free(m);
	} else {
		list_push(&s->notifications, m);
	}
	frame_close(&f);
	return rc;
}

static int in_append(struct sink *s, const char *p, size_t n)
{
	size_t room = s->room ? s->room : 1024;
	char *data;

	while (room < s->n_in + n)
		room *= 2;
	if (room != s->room) {
		data = realloc(s->in, room);
		if (!data)
			return ENOMEM;
		s->in = data;
		s->room = room;
	}
	memcpy(s->in + s->n_in, p, n);
	s->n_in += n;
	return 0;
}

static int bytes_take(struct sink *s, const char *p, size_t n, struct sink_error *e)
{
	enum scan_result scanned;
	size_t used;
	int rc;

	while (n > 0) {
		scanned = scan_feed(&s->scan, p, n, &used);
		if (scanned != SCAN_MORE && scanned != SCAN_DONE)
			return fail_bad(e, "a message that the scanner refuses");
		rc = in_append(s, p, used);
		if (rc)
			return fail_gone(e, rc);
		p += used;
		n -= used;
		if (scanned == SCAN_DONE && (rc = message_keep(s, e)))
			return rc;
	}
	return 0;
}

/* Takes what there is to read; a readable fd does not block. */
static int input_read(struct sink *s, struct sink_error *e)
{
	char buf[READ_SIZE];
	ssize_t n;

	do
		n = recv(s->fd, buf, sizeof buf, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n < 0)
		return fail_gone(e, errno);
	if (n == 0)
		return fail(e, SINK_GONE, EPIPE, "gone", "the daemon closed the connection");
	return bytes_take(s, buf, (size_t)n, e);
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits for one of events until deadline (-1: for ever). */
static int wait_for(struct sink *s, short events, int64_t deadline, short *got, struct sink_error *e)
{
	struct pollfd p = { .fd = s->fd, .events = events };
	int64_t left = -1;
	int n;

	do {
		if (deadline >= 0) {
			left = deadline - now_ms();
			if (left < 0)
				left = 0;
		}
		n = poll(&p, 1, (int)left);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return fail_gone(e, errno);
	*got = p.revents;
	return n == 0 ? SINK_TIMEOUT : 0;
}

static int64_t deadline_of(int timeout_ms)
{
	return timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
}

/* ---- calls ---- */

msgpack_packer *sink_begin(struct sink *s, const char *method)
{
	msgpack_sbuffer_clear(&s->out);
	s->n_sent = 0;
	frame_pack_request(&s->packer, ++s->id, method);
	return &s->packer;
}

static int last_words(struct sink *s, int rc, struct sink_error *e);

int sink_send_ms(struct sink *s, int timeout_ms, uint32_t *id, struct sink_error *e)
{
	int64_t deadline = deadline_of(timeout_ms);
	ssize_t n;
	short got;
	int rc;

	*id = s->id;
	while (s->n_sent < s->out.size) {
		n = send(s->fd, s->out.data + s->n_sent, s->out.size - s->n_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			s->n_sent += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			return last_words(s, fail_gone(e, errno), e);
		rc = wait_for(s, POLLIN | POLLOUT, deadline, &got, e);
		if (rc == 0 && (got & (POLLIN | POLLHUP | POLLERR)))
			rc = input_read(s, e);
		if (rc == 0 && deadline >= 0 && now_ms() > deadline)
			rc = SINK_TIMEOUT;         /* whatever still comes in */
		if (rc)
			return last_words(s, rc, e);
	}
	return 0;
}

int sink_send(struct sink *s, uint32_t *id, struct sink_error *e)
{
	return sink_send_ms(s, -1, id, e);
}

/* Moves a message into an answer that owns its bytes. */
static int message_open(struct message *m, struct frame *f, struct sink_answer *out, struct sink_error *e)
{
	char why[128];
	int rc = 0;

	if (frame_parse(f, m->data, m->n, why, sizeof why)) {
		rc = fail_bad(e, why);
	} else if (!msgpack_zone_push_finalizer(&f->zone, free, m->data)) {
		rc = fail_gone(e, ENOMEM);
	} else {
		m->data = NULL;
		out->zone = f->zone;
		out->open = true;
		f->open = false;
	}
	frame_close(f);
	message_free(m);
	return rc;
}

/* "name: message" into its parts. */
static void error_split(struct sink_error *e, const char *s, size_t n)
{
	const struct proto_error_row *row;
	const char *colon = n > 0 ? memchr(s, ':', n) : NULL;
	size_t n_name = colon ? (size_t)(colon - s) : 0;

	if (!colon || n_name >= sizeof e->name || n_name + 2 > n) {
		fail(e, SINK_REFUSED, 0, "internal", "%.*s", (int)n, s);
		return;
	}
	fail(e, SINK_REFUSED, 0, "", "%.*s", (int)(n - n_name - 2), colon + 2);
	memcpy(e->name, s, n_name);
	e->name[n_name] = 0;
	row = proto_error_find(e->name);
	e->code = row ? row->code : 0;
}

static void error_take(struct sink_error *e, const msgpack_object *o)
{
	const msgpack_object *name = frame_get(o, "name"), *message = frame_get(o, "message");
	char text[768];
	int n;

	if (name && message && name->type == MSGPACK_OBJECT_STR && message->type == MSGPACK_OBJECT_STR) {
		n = snprintf(text, sizeof text, "%.*s: %.*s", (int)name->via.str.size, name->via.str.ptr,
		             (int)message->via.str.size, message->via.str.ptr);
		error_split(e, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
	} else if (o->type == MSGPACK_OBJECT_STR) {
		error_split(e, o->via.str.ptr, o->via.str.size);
	} else {
		fail(e, SINK_REFUSED, 0, "internal", "an error that says nothing");
	}
}

static int answer_open(struct message *m, struct sink_answer *out, struct sink_error *e)
{
	struct frame f;
	int rc = message_open(m, &f, out, e);

	if (rc)
		return rc;
	if (f.error.type != MSGPACK_OBJECT_NIL) {
		error_take(e, &f.error);
		sink_answer_free(out);
		return SINK_REFUSED;
	}
	out->result = f.result;
	return 0;
}

/* A daemon that ends a connection may have said why, in an answer with the id 0:
 * then rc SINK_GONE becomes SINK_REFUSED. */
static int last_words(struct sink *s, int rc, struct sink_error *e)
{
	struct sink_error ignored;
	struct sink_answer answer = { 0 };
	struct message **at;
	struct pollfd p = { .fd = s->fd, .events = POLLIN };

	if (rc != SINK_GONE)
		return rc;
	while (poll(&p, 1, 0) > 0 && input_read(s, &ignored) == 0)
		;
	for (at = &s->answers.first; *at; at = &(*at)->next)
		if ((*at)->id == 0) {
			rc = answer_open(list_take(&s->answers, at), &answer, e);
			sink_answer_free(&answer);
			return rc ? rc : SINK_GONE;
		}
	return rc;
}

int sink_wait_ms(struct sink *s, uint32_t id, int timeout_ms, struct sink_answer *out, struct sink_error *e)
{
	int64_t deadline = deadline_of(timeout_ms);
	struct message **at;
	short got;
	int rc;

	memset(out, 0, sizeof *out);
	for (;;) {
		for (at = &s->answers.first; *at; at = &(*at)->next)
			if ((*at)->id == id)
				return answer_open(list_take(&s->answers, at), out, e);
		rc = wait_for(s, POLLIN, deadline, &got, e);
		if (rc == 0)
			rc = input_read(s, e);
		if (rc)
			return last_words(s, rc, e);
	}
}

int sink_wait(struct sink *s, uint32_t id, struct sink_answer *out, struct sink_error *e)
{
	return sink_wait_ms(s, id, -1, out, e);
}

int sink_call(struct sink *s, struct sink_answer *out, struct sink_error *e)
{
	uint32_t id;
	int rc;

	memset(out, 0, sizeof *out);
	rc = sink_send(s, &id, e);
	return rc ? rc : sink_wait(s, id, out, e);
}

/* A `lagged` of our own, as the daemon would send it. */
static int lag_take(struct sink *s, struct sink_answer *out, struct sink_error *e)
{
	struct lag *lag = s->lags;
	struct message *m = calloc(1, sizeof *m);
	msgpack_sbuffer buf;
	msgpack_packer pk;
	struct frame f;
	int rc;

	if (!m)
		return fail_gone(e, ENOMEM);
	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
	frame_pack_notification(&pk, "session.event");
	msgpack_pack_map(&pk, 4);
	frame_pack_str(&pk, "session");
	frame_pack_str(&pk, lag->session);
	frame_pack_str(&pk, "seq");
	msgpack_pack_int(&pk, 0);
	frame_pack_str(&pk, "kind");
	frame_pack_str(&pk, "lagged");
	frame_pack_str(&pk, "next");
	msgpack_pack_uint64(&pk, lag->seq);
	m->n = buf.size;
	m->data = msgpack_sbuffer_release(&buf);
	msgpack_sbuffer_destroy(&buf);
	s->lags = lag->next;
	free(lag);
	rc = message_open(m, &f, out, e);
	if (rc == 0)
		out->result = f.params;
	return rc;
}

int sink_next(struct sink *s, int timeout_ms, struct sink_answer *out, struct sink_error *e)
{
	int64_t deadline = deadline_of(timeout_ms);
	struct frame f;
	short got;
	int rc;

	memset(out, 0, sizeof *out);
	while (!s->notifications.first && !s->lags) {
		rc = wait_for(s, POLLIN, deadline, &got, e);
		if (rc == 0)
			rc = input_read(s, e);
		if (rc)
			return rc;
	}
	if (!s->notifications.first)
		return lag_take(s, out, e);
	rc = message_open(list_take(&s->notifications, &s->notifications.first), &f, out, e);
	if (rc == 0)
		out->result = f.params;
	return rc;
}

void sink_answer_free(struct sink_answer *a)
{
	if (a->open)
		msgpack_zone_destroy(&a->zone);
	a->open = false;
}
