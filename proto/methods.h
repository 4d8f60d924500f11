/*
 * Methods and parameters of the wire, as tables.  serve dispatches by them (types
 * are checked before a handler runs), the client's help and PROTOCOL.md are
 * checked against them.  Adding a method is a row here and one in serve.
 */
#ifndef PROTO_METHODS_H
#define PROTO_METHODS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum proto_type {
	TYPE_BOOL, TYPE_UINT, TYPE_REAL, TYPE_NAME /* short str */, TYPE_TEXT /* str or bin */,
	TYPE_KEY /* str or bin, <= 64 bytes */, TYPE_IDS /* list of uint */, TYPE_TEXTS /* str, or list of str */,
};

/* X(symbol, "key", type, "what it is") */
#define PROTO_PARAMS(X) \
	X(CLIENT,   "client",   TYPE_NAME, "name of the client, for the log") \
	X(PROTOCOL, "protocol", TYPE_UINT, "protocol that the client speaks") \
	X(ERRORS,   "errors",   TYPE_NAME, "\"string\" or \"map\"") \
	X(SESSION,  "session",  TYPE_NAME, "NAME, or USER:NAME") \
	X(NEW_NAME, "new_name", TYPE_NAME, "NAME") \
	X(TEXT,     "text",     TYPE_TEXT, "UTF-8 as str, any bytes as bin") \
	X(TOKENS,   "tokens",   TYPE_IDS,  "token ids instead of text") \
	X(ROLE,     "role",     TYPE_NAME, "user, system, tool, raw") \
	X(KEY,      "key",      TYPE_KEY,  "idempotency key") \
	X(WAIT,     "wait",     TYPE_BOOL, "answer when applied") \
	X(SINKS,    "sinks",    TYPE_UINT, "attention sinks, tokens") \
	X(WINDOW,   "window",   TYPE_UINT, "recent window, tokens") \
	X(SYSTEM,   "system",   TYPE_TEXT, "system prompt") \
	X(PIN,      "pin",      TYPE_BOOL, "the system prompt becomes part of the head") \
	X(RAW,      "raw",      TYPE_BOOL, "no chat format") \
	X(TEMPERATURE, "temperature", TYPE_REAL, "0: greedy") \
	X(TOP_K,    "top_k",    TYPE_UINT, "0: off") \
	X(TOP_P,    "top_p",    TYPE_REAL, "1: off") \
	X(MIN_P,    "min_p",    TYPE_REAL, "0: off") \
	X(REPEAT_PENALTY, "repeat_penalty", TYPE_REAL, "1: off") \
	X(SEED,     "seed",     TYPE_UINT, "of the sampler") \
	X(STOP,     "stop",     TYPE_TEXTS, "stop strings") \
	X(MAX_TOKENS, "max_tokens", TYPE_UINT, "of one answer") \
	X(UNTIL_DISCONNECT, "until_disconnect", TYPE_BOOL, "cancel when this client leaves") \
	X(FROM,     "from",     TYPE_UINT, "first seq; of score, first scored token") \
	X(LIMIT,    "limit",    TYPE_UINT, "most entries") \
	X(WAIT_MS,  "wait_ms",  TYPE_UINT, "wait that long for news") \
	X(SHARE,    "share",    TYPE_NAME, "none, group-read, group-write") \
	X(MODEL,    "model",    TYPE_NAME, "\"current\": another chance with the model that is loaded") \
	X(CHUNK,    "chunk",    TYPE_UINT, "tokens of a chunk") \
	X(EXACT,    "exact",    TYPE_BOOL, "weights dequantized, activations in float32") \
	X(PER_TOKEN,"per_token",TYPE_BOOL, "answer with each token's nll")

enum proto_param {
#define X(symbol, key, type, help) PARAM_##symbol,
	PROTO_PARAMS(X)
#undef X
	N_PARAM
};
#define PARAM(symbol) (UINT64_C(1) << PARAM_##symbol)

struct proto_param_row { const char *key; enum proto_type type; const char *help; };
extern const struct proto_param_row proto_params[N_PARAM];

struct proto_method {
	const char *name;          /* "session.append" */
	uint64_t takes, needs;     /* sets of PARAM(...) */
	bool finished;             /* false: refused by name, not_finished */
	const char *help;
};
const struct proto_method *proto_method_at(size_t i);              /* NULL past the end */
const struct proto_method *proto_method_find(const char *name, size_t n);

#define PROTO_VERSION 1
#define PROTO_MESSAGE_MAX (1u << 20)
#define PROTO_DEPTH_MAX 8
#define PROTO_NAME_MAX 256     /* bytes of a TYPE_NAME */

#endif
