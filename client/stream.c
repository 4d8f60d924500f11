/*
 * An answer as it comes, and transcripts.
 *
 * The one idea: a cursor into the session's log, which is followed.  Whatever
 * happens to the connection or the daemon, following begins again at the cursor, so
 * nothing is printed twice and nothing is missed.  To follow, not to read again and
 * again, is what brings a token when it is made: a read is answered between two steps.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/client.h"
#include "proto/frame.h"

#define BEGIN_MS 200           /* how long Ctrl-C waits to see whether the answer has begun */

struct stream {
	struct client *c;
	struct follow f;
	uint64_t request;
	bool begun, ended, failed, cancelled;
	char last;                 /* character printed */
};

/* ---- following ---- */

void session_name(struct client *c, const msgpack_object *event)
{
	const msgpack_object_str *name = answer_str(event, "session");
	char *renamed;

	if (!name || (strlen(c->argv[0]) == name->size && memcmp(c->argv[0], name->ptr, name->size) == 0))
		return;
	renamed = strndup(name->ptr, name->size);
	if (!renamed)
		abort();
	free(c->renamed);
	c->argv[0] = c->renamed = renamed;
}

/* News that nothing more will come of a session: says why. */
static bool session_over(const msgpack_object *event)
{
	static const struct { const char *state, *why; } ends[] = {
		{ "deleted", "no_session: the session was deleted" },
		{ "damaged", "session_damaged: its log does not verify; sink info says where" },
		{ "set_aside", "session_set_aside: the engine ended, or its device failed, again and again while computing it" },
	};
	size_t i;

	for (i = 0; i < sizeof ends / sizeof ends[0]; i++)
		if (answer_is(event, "kind", "state") && answer_is(event, "state", ends[i].state)) {
			fprintf(stderr, "sink: %s\n", ends[i].why);
			return true;
		}
	return false;
}

/* Follows from the cursor, unless this connection does. */
static int follow_begin(struct follow *f)
{
	struct sink_answer a = { 0 };
	struct sink_error e = { 0 };
	struct params p;
	int rc;

	if (f->n_link == f->c->n_link)
		return 0;
	fflush(stdout);            /* this may take long */
	params_init(&p);
	params_str(&p, "session", f->c->argv[0]);
	params_uint(&p, "from", f->from);
	rc = link_patient(f->c, "session.follow", &p, &a, &e);
	if (rc && e.name[0])
		say_error(&e, SINK_REFUSED);
	if (rc == 0)
		f->n_link = f->c->n_link;
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* 0: it is one to be seen; SINK_TIMEOUT: not this one. */
static int follow_take(struct follow *f, const msgpack_object *event)
{
	uint64_t seq = answer_uint(event, "seq");

	session_name(f->c, event);
	if (answer_is(event, "kind", "lagged")) {
		f->n_link = 0;             /* follow again, from the cursor */
		return SINK_TIMEOUT;
	}
	if (session_over(event))
		return EXIT_REFUSED;
	if (seq > 0 && seq < f->from)
		return SINK_TIMEOUT;
	if (seq > 0)
		f->from = seq + 1;
	return 0;
}

int follow_next(struct follow *f, struct sink_answer *event)
{
	struct sink_error e;
	int rc;

	while ((rc = follow_begin(f)) == 0) {
		rc = sink_next(f->c->sink, 0, event, &e);
		if (rc == SINK_TIMEOUT)
			return rc;
		if (rc == SINK_GONE) {
			fflush(stdout);
			rc = link_again(f->c);
			if (rc)
				return rc;
			continue;
		}
		if (rc)
			return say_error(&e, rc);
		rc = follow_take(f, &event->result);
		if (rc == 0)
			return 0;
		sink_answer_free(event);
		if (rc != SINK_TIMEOUT)
			return rc;
	}
	return rc;
}

bool follow_pending(const struct follow *f)
{
	return f->n_link != f->c->n_link || sink_pending(f->c->sink);
}

void follow_wait(const struct follow *f, int64_t end)
{
	struct pollfd p[2] = { { .fd = sink_fd(f->c->sink), .events = POLLIN },
	                       { .fd = signal_fd(), .events = POLLIN } };
	int64_t left = end ? end - clock_ms() : -1;

	poll(p, 2, end && left < 0 ? 0 : (int)left);
}

/* ---- an answer ---- */

static int stream_put(struct stream *s, const char *text, size_t n)
{
	if (output_put(s->c, text, n))
		return 0;
	perror("sink: standard output");
	return EXIT_REFUSED;
}

static int stream_text(struct stream *s, const msgpack_object *event)
{
	const msgpack_object_str *text = answer_str(event, "text");

	if (!text || text->size == 0)
		return 0;
	s->last = text->ptr[text->size - 1];
	return stream_put(s, text->ptr, text->size);
}

static int stream_json(struct stream *s, const msgpack_object *event)
{
	char *line = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&line, &n);
	int rc;

	if (!f)
		abort();
	json_print(f, event);
	fputc('\n', f);
	fclose(f);
	rc = stream_put(s, line, n);
	free(line);
	return rc;
}

static int stream_event(struct stream *s, const msgpack_object *event)
{
	int rc = 0;

	if (answer_uint(event, "request") != s->request)
		return 0;
	if (s->c->json)
		rc = stream_json(s, event);
	if (answer_is(event, "kind", "turn")) {
		s->begun = true;
		s->ended = answer_is(event, "state", "end");
		s->failed = answer_is(event, "reason", "error");
		s->cancelled = answer_is(event, "reason", "cancelled");
	} else if (s->begun && !s->c->json && answer_is(event, "kind", "text")) {
		rc = stream_text(s, event);
	}
	return rc;
}

/* A notification: an entry, or news, which say nothing of an answer. */
static int stream_take(struct stream *s, const msgpack_object *event)
{
	return answer_uint(event, "seq") == 0 || s->ended ? 0 : stream_event(s, event);
}

int answer_cancel(struct client *c)
{
	struct sink_answer a = { 0 };
	struct sink_error e = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", c->argv[0]);
	rc = link_patient(c, "session.cancel", &p, &a, &e);
	if (rc && e.name[0])
		say_error(&e, SINK_REFUSED);
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* What has come, or one wait for it.  A refusal is said; a lost daemon is waited for. */
static int stream_read(struct stream *s, int64_t end)
{
	struct sink_answer event;
	int rc = follow_next(&s->f, &event);

	if (rc == 0) {
		rc = stream_take(s, &event.result);
		sink_answer_free(&event);
	} else if (rc == SINK_TIMEOUT) {
		follow_wait(&s->f, end);
		rc = 0;
	} else if (rc == EXIT_INTERRUPTED) {
		rc = 0;                    /* seen by the caller */
	}
	return rc;
}

/* Has the session nothing else to do?  Then a cancel stops ours, also one that has not begun. */
static int is_alone(struct stream *s, bool *alone)
{
	struct sink_answer a = { 0 };
	struct sink_error e = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", s->c->argv[0]);
	rc = link_patient(s->c, "session.info", &p, &a, &e);
	*alone = rc == 0 && answer_uint(&a.result, "queued") == 1;
	if (rc && e.name[0])
		say_error(&e, SINK_REFUSED);
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

void say_left(const struct client *c)
{
	if (option_given(c, "--until-disconnect"))
		return;
	fprintf(stderr, "sink: where the daemon has taken it, it will still be answered; sink cancel %s stops it\n",
	        c->argv[0]);
}

/* All that has come. */
static int stream_come(struct stream *s)
{
	struct sink_answer event;
	int rc;

	while ((rc = follow_next(&s->f, &event)) == 0) {
		rc = stream_take(s, &event.result);
		sink_answer_free(&event);
		if (rc)
			return rc;
	}
	return rc == SINK_TIMEOUT ? 0 : rc;
}

/* Sees whether the answer has begun: only who follows the session can. */
static int stream_begun(struct stream *s)
{
	int64_t end = clock_ms() + BEGIN_MS;
	int rc = 0;

	while (rc == 0 && s->c->sink && !s->begun && clock_ms() < end) {
		if (signal_taken())
			return EXIT_INTERRUPTED;
		if (s->f.n_link == s->c->n_link) {
			rc = stream_read(s, end);
		} else {
			rc = follow_begin(&s->f);
			end = clock_ms() + BEGIN_MS;
		}
	}
	return rc == 0 && !s->c->sink ? EXIT_INTERRUPTED : rc;
}

/* After Ctrl-C: stop the answer where it is ours that runs, print what there is of it. */
static int stream_cancel(struct stream *s)
{
	bool alone = true;
	int rc;

	s->c->stop = false;
	s->c->end = clock_ms() + BEGIN_MS + CANCEL_MS;
	rc = stream_begun(s);
	if (rc == 0 && !s->begun) {
		rc = is_alone(s, &alone);
		if (rc == 0)
			rc = stream_come(s);       /* it may have begun, or ended, meanwhile */
	}
	if (rc == 0 && !s->begun && !alone) {
		if (!option_given(s->c, "--until-disconnect"))
			fprintf(stderr, "sink: it waits behind other requests, and will still be answered; "
			        "sink cancel %s stops what runs\n", s->c->argv[0]);
		return EXIT_INTERRUPTED;
	}
	if (rc == 0 && !s->ended)
		rc = answer_cancel(s->c);
	if (rc && rc != EXIT_REFUSED)
		say_left(s->c);
	while (rc == 0 && s->c->sink && !s->ended && clock_ms() < s->c->end && !signal_taken())
		rc = stream_read(s, s->c->end);
	return EXIT_INTERRUPTED;
}

int stream_answer(struct client *c, uint64_t request, uint64_t from)
{
	struct stream s = { .c = c, .f = { .c = c, .from = from }, .request = request };
	int rc = 0;

	while (rc == 0 && !s.ended) {
		if (c->stop || signal_taken())
			rc = stream_cancel(&s);
		else if (!c->sink)
			rc = link_again(c);
		else
			rc = stream_read(&s, 0);
	}
	if (s.last && s.last != '\n')
		output_put(c, "\n", 1);
	if (rc == 0 && s.failed) {
		fprintf(stderr, "sink: internal: the answer ended with an error; the daemon's log says more\n");
		return EXIT_REFUSED;
	}
	if (rc == 0 && s.cancelled)
		fprintf(stderr, "sink: cancelled\n");
	return rc;
}

/* ---- transcripts ---- */

static void role_begin(struct transcript *t, const msgpack_object_str *role, FILE *f)
{
	if (t->raw || (role->size < sizeof t->role && strlen(t->role) == role->size &&
	               memcmp(t->role, role->ptr, role->size) == 0))
		return;
	transcript_end(t, f);
	snprintf(t->role, sizeof t->role, "%.*s", (int)role->size, role->ptr);
	fprintf(f, "%s: ", t->role);
	t->mid_line = true;
}

static void text_print(struct transcript *t, const msgpack_object *event, FILE *f)
{
	const msgpack_object_str *text = answer_str(event, "text");
	const msgpack_object *bytes = frame_get(event, "bytes");
	const char *p = text ? text->ptr : NULL;
	size_t n = text ? text->size : 0;

	if (t->exact && bytes && bytes->type == MSGPACK_OBJECT_BIN) {
		p = bytes->via.bin.ptr;
		n = bytes->via.bin.size;
	}
	if (n == 0)
		return;
	fwrite(p, 1, n, f);
	t->mid_line = p[n - 1] != '\n';
}

void transcript_print(struct transcript *t, const msgpack_object *event, FILE *f)
{
	const msgpack_object_str *role = answer_str(event, "role"), *text = answer_str(event, "text");
	bool turn = answer_is(event, "kind", "turn");

	if (role && ((turn && answer_is(event, "state", "begin")) ||
	             (answer_is(event, "kind", "text") && text && text->size > 0)))
		role_begin(t, role, f);
	if (turn && answer_is(event, "state", "end") && !t->raw) {
		transcript_end(t, f);
		t->role[0] = 0;
	}
	if (answer_is(event, "kind", "text"))
		text_print(t, event, f);
}

void transcript_end(struct transcript *t, FILE *f)
{
	if (t->mid_line)
		fputc('\n', f);
	t->mid_line = false;
}
