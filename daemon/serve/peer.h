/* Connections; see peer.c. */
#ifndef DAEMON_SERVE_PEER_H
#define DAEMON_SERVE_PEER_H

#include "daemon/serve/inside.h"

/* Takes fd over: a new peer, or a refusal written to it and closed. */
void peer_accept(struct serve *s, int fd);
/* Queues bytes for the peer. */
void peer_send(struct peer *p, const void *data, size_t n);
/* Ends at the next turn of the loop: something that it was to get is lost. */
void peer_break(struct peer *p);
size_t peer_unread(const struct peer *p);      /* bytes that it has not taken */
/* After anything that changes what the peer holds or may do: charges it to the
 * user and starts or stops reading and writing. */
void peer_update(struct peer *p);
/* No more requests; ends when its output is flushed. */
void peer_finish(struct peer *p);
/* Ends now: off the loop, its watches gone, its calls without an owner. */
void peer_end(struct peer *p);
void peer_sweep(struct serve *s);              /* frees those that have ended */
/* Event of serve->half_closed: some of them have closed the rest. */
void peer_on_gone(evutil_socket_t fd, short what, void *ctx);

/* A request under way, charged with n_byte; peer NULL: serve's own.  NULL: no memory. */
struct call *peer_call(struct serve *s, struct peer *p, uint32_t id, size_t n_byte);
void peer_call_end(struct serve *s, struct call *c);
/* A request that carries who asks.  NULL: no memory. */
struct request *peer_request(const struct peer *p, enum verb verb);
/* Nothing is posted to an engine that has failed or was told to stop. */
bool engine_takes(const struct serve *s);
/* Sends the peer's request r to the engine as c.  The engine's from here. */
void peer_post(struct serve *s, struct call *c, struct request *r);

#endif
