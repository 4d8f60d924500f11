/*
 * libsink: the small C client library.  Connects to a daemon, calls methods,
 * follows sessions.  Blocking, one thread a connection, no global state.
 *
 *   struct sink *s; struct sink_error e;
 *   if (sink_open(&s, NULL, &e)) ...            // $SINKD_SOCKET, the user's, the system's
 *   msgpack_packer *p = sink_begin(s, "session.info");     // then pack ONE map
 *   if (sink_call(s, &answer, &e)) ...
 *
 * Errors: 0; SINK_REFUSED (the daemon said no: e has name and message);
 * SINK_GONE (no daemon, or it went away; errno in e.code); SINK_BAD (not our
 * protocol).
 */
#ifndef PROTO_LIBSINK_H
#define PROTO_LIBSINK_H

#include <msgpack.h>
#include <stdbool.h>
#include <stdint.h>

enum { SINK_REFUSED = 1, SINK_GONE = 2, SINK_BAD = 3 };

struct sink;

struct sink_error {
	int code;
	char name[64];
	char message[512];
};

struct sink_answer {
	msgpack_zone zone;
	msgpack_object result;     /* views into the zone */
};
void sink_answer_free(struct sink_answer *a);

/* path NULL: $SINKD_SOCKET, $XDG_RUNTIME_DIR/sinkd/sinkd.sock, /run/sinkd/sinkd.sock. */
int sink_open(struct sink **out, const char *path, struct sink_error *e);
void sink_close(struct sink *s);
int sink_fd(const struct sink *s);
const char *sink_path(const struct sink *s);

/* Starts a request; the caller packs one map into the packer. */
msgpack_packer *sink_begin(struct sink *s, const char *method);
/* Sends what was begun without waiting; *id is its number. */
int sink_send(struct sink *s, uint32_t *id, struct sink_error *e);
/* Waits for the answer to id.  Notifications that arrive meanwhile are kept. */
int sink_wait(struct sink *s, uint32_t id, struct sink_answer *out, struct sink_error *e);
/* sink_send and sink_wait. */
int sink_call(struct sink *s, struct sink_answer *out, struct sink_error *e);
/* The next notification, waiting at most timeout_ms (-1: for ever). 
 * 0: *out is its map; SINK_TIMEOUT: none came. */
enum { SINK_TIMEOUT = 4 };
int sink_next(struct sink *s, int timeout_ms, struct sink_answer *out, struct sink_error *e);

#endif
