/* Parameters of the wire to the fields of a struct request; see params.c. */
#ifndef DAEMON_SERVE_PARAMS_H
#define DAEMON_SERVE_PARAMS_H

#include <msgpack.h>

#include "daemon/base/error.h"
#include "daemon/session/engine.h"
#include "proto/methods.h"

struct args {
	struct request *request;   /* owned by the caller; filled */
	uint64_t given;            /* set of PARAM(...) */
	/* what is serve's own */
	uint64_t protocol, wait_ms;
	bool error_map;
	char client[64];
	char prefix[64];           /* "USER:" of the session, as spelled */
};

/* More is taken as this. */
#define WAIT_MS_MAX 60000
#define LIMIT_MAX 1000

/* A name of a client's, for an error or the log: printable, cut to fit into to[size]. */
void printable(char *to, size_t size, const char *s, size_t n);
/* params: a map or nil.  a->request->uid and owner are set: an unqualified name
 * is the caller's.  REFUSED: bad_param, bad_name, no_session, too_large. */
int params_read(struct args *a, const struct proto_method *m, const msgpack_object *params,
                struct reason *why);

#endif
