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
 * protocol).  After SINK_GONE and SINK_BAD the connection is of no more use.
 */
#ifndef PROTO_LIBSINK_H
#define PROTO_LIBSINK_H

#include <msgpack.h>
#include <stdbool.h>
#include <stdint.h>

enum { SINK_REFUSED = 1, SINK_GONE = 2, SINK_BAD = 3, SINK_TIMEOUT = 4 };

#define SINK_ANSWER_MAX (32u << 20)    /* longest message taken from a daemon */
#define SINK_KEPT_MAX (4u << 20)       /* bytes of notifications kept for sink_next */

struct sink;

struct sink_error {
	int code;              /* of proto/errors.h where refused, errno where gone */
	char name[64];
	char message[512];
};

struct sink_answer {
	msgpack_zone zone;
	msgpack_object result;     /* views into the zone */
	bool open;
};
/* What it holds, not a itself.  Calls leave an answer empty where they fail. */
void sink_answer_free(struct sink_answer *a);

/* path NULL: $SINKD_SOCKET where it is set, and no other; else the first that has a
 * daemon of $XDG_RUNTIME_DIR/sinkd/sinkd.sock and /run/sinkd/sinkd.sock. */
int sink_open(struct sink **out, const char *path, struct sink_error *e);
/* The same, but SINK_TIMEOUT where it would wait for the daemon to accept others first. */
int sink_open_now(struct sink **out, const char *path, struct sink_error *e);
void sink_close(struct sink *s);       /* NULL is fine */
int sink_fd(const struct sink *s);     /* for poll(); see sink_pending */
const char *sink_path(const struct sink *s);

/* Starts a request; the caller packs one map into the packer. */
msgpack_packer *sink_begin(struct sink *s, const char *method);
/* Sends what was begun without waiting for the answer; *id is its number.  What
 * arrives meanwhile is read, so that neither side waits for the other. */
int sink_send(struct sink *s, uint32_t *id, struct sink_error *e);
/* The same, giving up after timeout_ms with SINK_TIMEOUT: called again it goes on, and
 * until all is sent nothing else may be begun on this connection. */
int sink_send_ms(struct sink *s, int timeout_ms, uint32_t *id, struct sink_error *e);
/* Waits for the answer to id.  Other answers that arrive meanwhile are kept, and
 * notifications up to SINK_KEPT_MAX; those beyond it are left out, and sink_next
 * says so by a `lagged` of our own with the seq to read on from. */
int sink_wait(struct sink *s, uint32_t id, struct sink_answer *out, struct sink_error *e);
/* The same, giving up after timeout_ms with SINK_TIMEOUT; the answer may be waited
 * for again. */
int sink_wait_ms(struct sink *s, uint32_t id, int timeout_ms, struct sink_answer *out, struct sink_error *e);
/* sink_send and sink_wait. */
int sink_call(struct sink *s, struct sink_answer *out, struct sink_error *e);
/* The next notification, waiting at most timeout_ms (-1: for ever).
 * 0: *out is its map; SINK_TIMEOUT: none came. */
int sink_next(struct sink *s, int timeout_ms, struct sink_answer *out, struct sink_error *e);
/* Is there a notification that poll() on sink_fd would not tell of? */
bool sink_pending(const struct sink *s);

#endif
