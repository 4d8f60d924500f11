/*
 * Errors of the wire, as a table: X(symbol, code, "name", "what it means").
 * An error travels as the string "name: message", or after hello {errors: "map"}
 * as {code, name, message}.  Codes are never used again; PROTOCOL.md is checked
 * against this table.
 */
#ifndef PROTO_ERRORS_H
#define PROTO_ERRORS_H

#include <stddef.h>

#define PROTO_ERRORS(X) \
	X(PARSE,            1, "parse",            "not a MessagePack-RPC message") \
	X(TOO_LARGE,        2, "too_large",        "a message or value over a limit") \
	X(NO_METHOD,        3, "no_method",        "no such method") \
	X(BAD_PARAM,        4, "bad_param",        "an unknown, missing or ill-typed parameter") \
	X(NOT_FINISHED,     5, "not_finished",     "a method that this version does not have yet") \
	X(NO_SESSION,      10, "no_session",       "no session of this name") \
	X(SESSION_EXISTS,  11, "session_exists",   "the name is taken") \
	X(BAD_NAME,        12, "bad_name",         "not a session name") \
	X(NOT_ALLOWED,     13, "not_allowed",      "not the caller's to do") \
	X(WINDOW_TOO_LARGE,14, "window_too_large", "sinks + window + 1 is over the model's context, or over a slot") \
	X(ROLE_UNKNOWN,    15, "role_unknown",     "the session's chat format has no such role") \
	X(MODEL_CHANGED,   16, "model_changed",    "the session belongs to another model") \
	X(SESSION_DAMAGED, 17, "session_damaged",  "its log does not verify") \
	X(SESSION_SET_ASIDE,18,"session_set_aside","the engine ended, or its device failed, again and again while computing it") \
	X(CAP_SESSIONS,    20, "cap_sessions",     "as many sessions as one user may have") \
	X(CAP_CONNECTIONS, 21, "cap_connections",  "as many connections as one user may have") \
	X(CAP_QUEUED,      22, "cap_queued",       "as many queued bytes as one user may have") \
	X(CAP_STORED,      23, "cap_stored",       "as many stored bytes as one user may have") \
	X(MEMORY,          24, "memory",           "no memory for it") \
	X(LOADING,         30, "loading",          "the model is still loading") \
	X(STOPPING,        31, "stopping",         "the daemon is stopping") \
	X(BAD_MODEL,       32, "bad_model",        "the model file is damaged or not one") \
	X(UNSUPPORTED,     33, "unsupported",      "something in the model file that sinkd does not have") \
	X(STATE_IN_USE,    34, "state_in_use",     "another daemon holds the state directory") \
	X(BAD_STATE,       35, "bad_state",        "the state directory cannot be used") \
	X(READ_ONLY,       36, "read_only",        "the database is damaged and open for reading only") \
	X(BAD_CHECKPOINT,  37, "bad_checkpoint",   "a checkpoint that does not verify") \
	X(BAD_CONFIG,      38, "bad_config",       "an option that cannot be used") \
	X(DISK,            39, "disk",             "writing to disk failed") \
	X(BACKEND,         40, "backend",          "the device failed") \
	X(CANCELLED,       41, "cancelled",        "cancelled by a client") \
	X(DEVICE_LOST,     42, "device_lost",      "the device fails again and again, or does not come back") \
	X(INTERNAL,        50, "internal",         "a mistake of the daemon's own; see its log")

enum proto_error {
#define X(symbol, code, name, help) PROTO_##symbol = code,
	PROTO_ERRORS(X)
#undef X
};

struct proto_error_row { int code; const char *name, *help; };
const struct proto_error_row *proto_error_at(size_t i);            /* NULL past the end */
const struct proto_error_row *proto_error_find(const char *name);  /* NULL: unknown */

#endif
