/* Methods of the wire to verbs of the engine, and back; see method.c. */
#ifndef DAEMON_SERVE_METHOD_H
#define DAEMON_SERVE_METHOD_H

#include "daemon/serve/inside.h"

/* A whole request of the peer: answered now, or later. */
void method_call(struct peer *p, const struct frame *f, size_t n_byte);
/* The engine's answer to c, whose peer is alive; r stays the caller's. */
void method_answer(struct call *c, struct request *r);

#endif
