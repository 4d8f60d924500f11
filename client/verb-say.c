/*
 * say and generate: ask for an answer, stream it.  The request has a key, so that
 * it is done once however often the connection is lost.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"

const struct option options_say[] = {
	{ "-n", "N", "max_tokens", OPTION_UINT, "most tokens of the answer" },
	OPTIONS_SAMPLING,
	{ "--until-disconnect", NULL, "until_disconnect", OPTION_FLAG, "the answer ends when this client does" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};
const struct option options_generate[] = {
	{ "-n", "N", "max_tokens", OPTION_UINT, "most tokens to generate" },
	OPTIONS_SAMPLING,
	{ "--until-disconnect", NULL, "until_disconnect", OPTION_FLAG, "the answer ends when this client does" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};

static int session_create(struct client *c, const char *name, struct sink_error *e)
{
	struct sink_answer a = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", name);
	rc = link_patient(c, "session.create", &p, &a, e);
	if (rc == 0)
		fprintf(stderr, "sink: made session %s\n", name);
	else if (is_error(e, "session_exists"))
		rc = 0;
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* Sends the request and streams its answer.  create: make the session where it is
 * missing. */
static int answer_get(struct client *c, const char *method, const struct params *p, bool create)
{
	struct sink_answer a = { 0 };
	struct sink_error e = { 0 };
	int rc;

	signals_take();
	rc = link_order(c, method, p, &a, &e);
	if (rc && create && !c->stop && is_error(&e, "no_session") && !strchr(c->argv[0], ':')) {
		rc = session_create(c, c->argv[0], &e);
		c->sent = false;
		if (rc == 0)
			rc = link_order(c, method, p, &a, &e);
	}
	if (rc && c->stop && is_error(&e, "no_session")) {
		e.name[0] = 0;             /* nothing is to be made of it any more */
		rc = EXIT_INTERRUPTED;
	}
	if (rc && e.name[0])
		say_error(&e, SINK_REFUSED);
	if (rc == EXIT_INTERRUPTED && c->sent)
		say_left(c);
	if (rc == 0)
		rc = stream_answer(c, answer_uint(&a.result, "request"),
		                   answer_uint(&a.result, "seq") + 1);
	sink_answer_free(&a);
	return rc;
}

static int request_run(struct client *c, const char *method, const char *text, size_t n)
{
	unsigned char key[REQUEST_KEY];
	struct params p;
	int rc;

	params_init(&p);
	rc = params_options(&p, c);
	if (rc == 0) {
		request_key(key);
		params_request_key(&p, key);
		if (text)
			params_text(&p, "text", text, n);
		rc = answer_get(c, method, &p, text != NULL);
	}
	params_free(&p);
	return rc;
}

int verb_say(struct client *c)
{
	char *text = NULL;
	size_t n = 0;
	int rc;

	rc = link_open_soon(c);             /* no daemon: said before input is read */
	if (rc == 0)
		rc = text_gather(c, 1, TEXT_MOST, &text, &n);
	if (rc == 0 && n == 0)
		rc = usage_error("there is nothing to say; sink generate %s goes on without a turn", c->argv[0]);
	if (rc == 0)
		rc = request_run(c, "session.say", text, n);
	free(text);
	return rc;
}

int verb_generate(struct client *c)
{
	int rc = link_open_soon(c);

	return rc ? rc : request_run(c, "session.generate", NULL, 0);
}
