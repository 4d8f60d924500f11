/* Readers: follows and reads that wait; see follow.c. */
#ifndef DAEMON_SERVE_FOLLOW_H
#define DAEMON_SERVE_FOLLOW_H

#include "daemon/serve/inside.h"
#include "daemon/serve/params.h"

/* session.follow: answers, then notifications.  r: a VERB_READ from the first
 * wanted seq; taken over. */
void follow_begin(struct peer *p, uint32_t id, const struct args *a, struct request *r);
void follow_end(struct peer *p, uint32_t id, const struct request *r);
/* session.read with wait_ms. */
void follow_wait(struct peer *p, uint32_t id, const struct args *a, struct request *r);
/* The engine's answer to a page asked for c->watch. */
void follow_answer(struct call *c, struct request *r);
void follow_published(struct serve *s, const struct published *e);
void follow_renamed(struct serve *s, uint64_t session, const char *name);
void follow_resume(struct peer *p);            /* it has read some */
void follow_stop(struct serve *s);             /* answers every read that waits */
void watch_free(struct watch *w);

#endif
