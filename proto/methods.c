/*
 * The method table.  A method is a row: what it takes, what it needs, whether
 * this version has it.  What a parameter is, is said once, in PROTO_PARAMS.
 */
#include "proto/methods.h"

#include <string.h>

const struct proto_param_row proto_params[N_PARAM] = {
#define X(symbol, key, type, help) { key, type, help },
	PROTO_PARAMS(X)
#undef X
};

#define P(symbol) PARAM(symbol)

/* How a session generates, unless a generation says otherwise. */
#define SETTINGS \
	(P(TEMPERATURE) | P(TOP_K) | P(TOP_P) | P(MIN_P) | P(REPEAT_PENALTY) | P(SEED) | \
	 P(STOP) | P(MAX_TOKENS))
#define GENERATION (P(SESSION) | SETTINGS | P(KEY) | P(UNTIL_DISCONNECT))

static const struct proto_method methods[] = {
	{ "hello", P(CLIENT) | P(PROTOCOL) | P(ERRORS), 0, true,
	  "who is there; optional" },
	{ "session.create",
	  P(SESSION) | P(SINKS) | P(WINDOW) | P(SYSTEM) | P(PIN) | P(RAW) | P(SHARE) | SETTINGS,
	  P(SESSION), true, "make a session" },
	{ "session.list", 0, 0, true, "the sessions that the caller may see" },
	{ "session.info", P(SESSION), P(SESSION), true, "one session" },
	{ "session.append", P(SESSION) | P(TEXT) | P(TOKENS) | P(ROLE) | P(KEY) | P(WAIT),
	  P(SESSION), true, "add text (or tokens) without generating" },
	{ "session.generate", GENERATION, P(SESSION), true, "generate an answer" },
	{ "session.say", GENERATION | P(TEXT), P(SESSION) | P(TEXT), true,
	  "append a user turn and generate, as one step" },
	{ "session.read", P(SESSION) | P(FROM) | P(LIMIT) | P(WAIT_MS), P(SESSION), true,
	  "entries of the log" },
	{ "session.follow", P(SESSION) | P(FROM), P(SESSION), true,
	  "entries and news as notifications" },
	{ "session.unfollow", P(SESSION), P(SESSION), true, "no more notifications" },
	{ "session.cancel", P(SESSION), P(SESSION), true, "stop the generation that runs" },
	{ "session.show", P(SESSION), P(SESSION), true, "exactly what the model still sees" },
	{ "session.set", P(SESSION) | SETTINGS | P(SHARE) | P(MODEL), P(SESSION), true,
	  "change settings" },
	{ "session.rename", P(SESSION) | P(NEW_NAME), P(SESSION) | P(NEW_NAME), true, "a new name" },
	{ "session.delete", P(SESSION), P(SESSION), true, "remove a session and all its text" },
	{ "session.fork", P(SESSION) | P(NEW_NAME) | P(SEED), P(SESSION) | P(NEW_NAME), false,
	  "a second session that goes on from here" },
	{ "session.rewind", P(SESSION) | P(FROM), P(SESSION) | P(FROM), false,
	  "forget everything from an entry on" },
	{ "session.export", P(SESSION), P(SESSION), false, "a session as a file" },
	{ "session.import", P(SESSION) | P(TEXT), P(SESSION), false, "a session from a file" },
	{ "score", P(TEXT) | P(SINKS) | P(WINDOW) | P(CHUNK) | P(FROM) | P(EXACT) | P(PER_TOKEN),
	  P(TEXT), true, "likelihood of a text, in a session that is thrown away" },
	{ "model.tokenize", P(TEXT), P(TEXT), true, "text to token ids" },
	{ "model.detokenize", P(TOKENS), P(TOKENS), true, "token ids to text" },
	{ "server.info", 0, 0, true, "model, backend, memory, limits" },
	{ "server.stats", 0, 0, true, "counters" },
};

const struct proto_method *proto_method_at(size_t i)
{
	return i < sizeof methods / sizeof methods[0] ? &methods[i] : NULL;
}

const struct proto_method *proto_method_find(const char *name, size_t n)
{
	const struct proto_method *m;
	size_t i;

	for (i = 0; (m = proto_method_at(i)); i++)
		if (strlen(m->name) == n && memcmp(m->name, name, n) == 0)
			return m;
	return NULL;
}
