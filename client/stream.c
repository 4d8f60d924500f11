/*
 * An answer as it comes, and transcripts.
 *
 * The one idea: a cursor into the session's log.  Whatever happens to the
 * connection or the daemon, reading goes on at the cursor, so nothing is printed
 * twice and nothing is missed.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/client.h"
#include "proto/frame.h"

#define WAIT_MS 10000
#define CANCEL_MS 5000         /* how long a cancelled answer's end is waited for */

struct stream {
	struct client *c;
	const char *name;
	uint64_t request, from;
	bool begun, ended, failed, cancelled;
	char last;                 /* character printed */
};

static int stream_text(struct stream *s, const msgpack_object *event)
{
	const msgpack_object_str *text = answer_str(event, "text");

	if (!text || text->size == 0)
		return 0;
	s->last = text->ptr[text->size - 1];
	if (fwrite(text->ptr, 1, text->size, stdout) != text->size || fflush(stdout)) {
		perror("sink: standard output");
		return EXIT_REFUSED;
	}
	return 0;
}

static int stream_event(struct stream *s, const msgpack_object *event)
{
	if (answer_uint(event, "request") != s->request)
		return 0;
	if (s->c->json) {
		json_print(stdout, event);
		putchar('\n');
		fflush(stdout);
	}
	if (answer_is(event, "kind", "turn")) {
		s->begun = true;
		s->ended = answer_is(event, "state", "end");
		s->failed = answer_is(event, "reason", "error");
		s->cancelled = answer_is(event, "reason", "cancelled");
	} else if (s->begun && !s->c->json && answer_is(event, "kind", "text")) {
		return stream_text(s, event);
	}
	return 0;
}

static int stream_events(struct stream *s, const msgpack_object *result)
{
	const msgpack_object *events = frame_get(result, "events");
	uint64_t next = answer_uint(result, "next");
	uint32_t i;
	int rc;

	if (events && events->type == MSGPACK_OBJECT_ARRAY)
		for (i = 0; i < events->via.array.size && !s->ended; i++) {
			rc = stream_event(s, &events->via.array.ptr[i]);
			if (rc)
				return rc;
		}
	if (next > s->from)
		s->from = next;
	return 0;
}

static int cancel(struct client *c, const char *name)
{
	struct sink_answer a;
	struct sink_error e;
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", name);
	rc = link_patient(c, "session.cancel", &p, &a, &e);
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* Waits for the answer to a read, or Ctrl-C (EXIT_INTERRUPTED). */
static int read_wait(struct stream *s, uint32_t id, int64_t end, struct sink_answer *out, struct sink_error *e)
{
	struct pollfd p[2] = { { .fd = sink_fd(s->c->sink), .events = POLLIN },
	                       { .fd = signal_fd(), .events = POLLIN } };
	int rc;

	for (;;) {
		rc = sink_wait_ms(s->c->sink, id, 0, out, e);
		if (rc != SINK_TIMEOUT)
			return rc;
		if (end && clock_ms() >= end)
			return SINK_TIMEOUT;
		poll(p, 2, end ? 100 : -1);
		if (p[1].revents)
			return SINK_TIMEOUT;
	}
}

/* One read from the cursor.  A refusal is said; a lost daemon is waited for. */
static int stream_read(struct stream *s, int64_t end)
{
	struct sink_answer a = { 0 };
	struct sink_error e;
	struct params p;
	uint32_t id;
	int rc;

	params_init(&p);
	params_str(&p, "session", s->name);
	params_uint(&p, "from", s->from);
	params_uint(&p, "wait_ms", end ? 200 : WAIT_MS);
	link_begin(s->c, "session.read", &p);
	rc = sink_send(s->c->sink, &id, &e);
	if (rc == 0)
		rc = read_wait(s, id, end, &a, &e);
	if (rc == 0) {
		rc = stream_events(s, &a.result);
	} else if (rc == SINK_GONE) {
		rc = link_again(s->c);
		if (rc == EXIT_INTERRUPTED)
			rc = 0;            /* seen by the caller */
	} else if (rc == SINK_TIMEOUT) {
		rc = 0;
	} else if (is_error(&e, "loading") || is_error(&e, "stopping")) {
		poll(NULL, 0, 200);
		rc = 0;
	} else {
		rc = say_error(&e, rc);
	}
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* After Ctrl-C: stop the answer where it is ours that runs, print what there is of it. */
static int stream_cancel(struct stream *s)
{
	int64_t end = clock_ms() + CANCEL_MS;
	int rc = 0;

	if (s->c->sink && !s->begun)
		rc = stream_read(s, clock_ms() + 200);
	if (!s->c->sink || rc)
		return EXIT_INTERRUPTED;
	if (!s->begun) {
		fprintf(stderr, "sink: it waits behind other requests, and will still be answered; "
		        "sink cancel %s stops what runs\n", s->name);
		return EXIT_INTERRUPTED;
	}
	if (!s->ended)
		rc = cancel(s->c, s->name);
	while (rc == 0 && !s->ended && clock_ms() < end && !signal_taken())
		rc = stream_read(s, end);
	return EXIT_INTERRUPTED;
}

int stream_answer(struct client *c, const char *name, uint64_t request, uint64_t from)
{
	struct stream s = { .c = c, .name = name, .request = request, .from = from };
	int rc = 0;

	signals_take();
	while (rc == 0 && !s.ended) {
		if (signal_taken())
			rc = stream_cancel(&s);
		else if (!c->sink)
			rc = link_again(c);
		else
			rc = stream_read(&s, 0);
	}
	if (s.last && s.last != '\n')
		putchar('\n');
	fflush(stdout);
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
