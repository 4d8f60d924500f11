/*
 * read: the transcript, from the log; with -f it goes on as the session does.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/client.h"
#include "proto/frame.h"

const struct option options_read[] = {
	{ "--from", "SEQ", NULL, OPTION_UINT, "first entry" },
	{ "-f", NULL, NULL, OPTION_FLAG, "follow: go on as text comes" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};

struct reader {
	struct client *c;
	struct follow f;
	uint64_t until;            /* last entry when it began */
	bool ended;
	struct transcript t;
};

/* The cursor to begin with, and is it a session without roles? */
static int reader_open(struct reader *r)
{
	struct sink_answer a = { 0 };
	struct params p;
	const msgpack_object *raw;
	int rc;

	params_init(&p);
	params_str(&p, "session", r->c->argv[0]);
	rc = link_call(r->c, "session.info", &p, &a);
	raw = rc == 0 ? frame_get(&a.result, "raw") : NULL;
	r->until = rc == 0 ? answer_uint(&a.result, "seq") : 0;
	r->t.exact = !isatty(STDOUT_FILENO);
	r->t.raw = raw && raw->type == MSGPACK_OBJECT_BOOLEAN && raw->via.boolean;
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

static void event_print(struct reader *r, const msgpack_object *event)
{
	if (r->c->json)
		json_line(event);
	else
		transcript_print(&r->t, event, stdout);
}

static void events_print(struct reader *r, const msgpack_object *result)
{
	const msgpack_object *events = frame_get(result, "events");
	uint64_t next = answer_uint(result, "next");
	uint32_t i, n = events && events->type == MSGPACK_OBJECT_ARRAY ? events->via.array.size : 0;

	for (i = 0; i < n; i++) {
		session_name(r->c, &events->via.array.ptr[i]);
		event_print(r, &events->via.array.ptr[i]);
	}
	if (next > r->f.from)
		r->f.from = next;
	/* While an answer is made there is always something newer. */
	r->ended = n == 0 || r->f.from > r->until;
}

static int reader_step(struct reader *r)
{
	struct sink_answer a = { 0 };
	struct sink_error e = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", r->c->argv[0]);
	params_uint(&p, "from", r->f.from);
	rc = link_patient(r->c, "session.read", &p, &a, &e);
	if (rc == 0)
		events_print(r, &a.result);
	else if (e.name[0])
		say_error(&e, SINK_REFUSED);
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* What has come, or one wait for it. */
static int reader_follow(struct reader *r)
{
	struct sink_answer event;
	int rc = follow_next(&r->f, &event);

	if (rc == SINK_TIMEOUT) {
		if (fflush(stdout) == 0)
			follow_wait(&r->f, 0);
		return 0;
	}
	if (rc)
		return rc;
	if (answer_uint(&event.result, "seq") > 0)     /* not news */
		event_print(r, &event.result);
	sink_answer_free(&event);
	if (!follow_pending(&r->f))
		fflush(stdout);            /* seen now, whatever becomes of the daemon */
	return 0;
}

int verb_read(struct client *c)
{
	struct reader r = { .c = c, .f = { .c = c, .from = 1 } };
	int (*step)(struct reader *r) = option_given(c, "-f") ? reader_follow : reader_step;
	const char *from = option_value(c, "--from");
	char *end;
	int rc;

	if (from) {
		errno = 0;
		r.f.from = strtoull(from, &end, 10);
		if (*from < '0' || *from > '9' || *end || errno)
			return usage_error("--from wants a number, not %s", from);
	}
	rc = reader_open(&r);
	while (rc == 0 && !r.ended && !ferror(stdout))
		rc = step(&r);
	if (!c->json && !(r.t.raw && r.t.exact))       /* just the text, to the byte */
		transcript_end(&r.t, stdout);
	return rc;
}
