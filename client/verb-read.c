/*
 * read: the transcript, from the log; with -f it goes on as the session does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/client.h"
#include "proto/frame.h"

#define WAIT_MS 10000

const struct option options_read[] = {
	{ "--from", "SEQ", NULL, OPTION_UINT, "first entry" },
	{ "-f", NULL, NULL, OPTION_FLAG, "follow: go on as text comes" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};

struct reader {
	struct client *c;
	uint64_t from, until;      /* cursor; last entry when it began */
	bool follow, ended;
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

static void events_print(struct reader *r, const msgpack_object *result)
{
	const msgpack_object *events = frame_get(result, "events");
	uint64_t next = answer_uint(result, "next");
	uint32_t i, n = events && events->type == MSGPACK_OBJECT_ARRAY ? events->via.array.size : 0;

	for (i = 0; i < n; i++) {
		if (r->c->json) {
			json_print(stdout, &events->via.array.ptr[i]);
			putchar('\n');
		} else {
			transcript_print(&r->t, &events->via.array.ptr[i], stdout);
		}
	}
	if (next > r->from)
		r->from = next;
	/* While an answer is made there is always something newer. */
	r->ended = !r->follow && (n == 0 || r->from > r->until);
	if (r->follow)
		fflush(stdout);
}

static int reader_step(struct reader *r)
{
	struct sink_answer a = { 0 };
	struct sink_error e;
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", r->c->argv[0]);
	params_uint(&p, "from", r->from);
	if (r->follow)
		params_uint(&p, "wait_ms", WAIT_MS);
	rc = link_patient(r->c, "session.read", &p, &a, &e);
	if (rc == 0)
		events_print(r, &a.result);
	else if (e.name[0])
		say_error(&e, SINK_REFUSED);
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

int verb_read(struct client *c)
{
	struct reader r = { .c = c, .from = 1, .follow = option_given(c, "-f") };
	const char *from = option_value(c, "--from");
	char *end;
	int rc;

	if (from) {
		r.from = strtoull(from, &end, 10);
		if (*from < '0' || *from > '9' || *end)
			return usage_error("--from wants a number, not %s", from);
	}
	rc = reader_open(&r);
	while (rc == 0 && !r.ended && !ferror(stdout))
		rc = reader_step(&r);
	if (!c->json && !(r.t.raw && r.t.exact))       /* just the text, to the byte */
		transcript_end(&r.t, stdout);
	return rc;
}
