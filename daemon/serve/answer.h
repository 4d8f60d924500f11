/* Values to MessagePack, and messages to peers; see answer.c. */
#ifndef DAEMON_SERVE_ANSWER_H
#define DAEMON_SERVE_ANSWER_H

#include "daemon/serve/inside.h"

/* Packs an error into the room's buffer; false: no memory. */
bool answer_pack(struct serve *s, uint32_t id, bool as_map, const char *name, const char *text);
void answer_result(struct peer *p, uint32_t id, const struct value *v);    /* NULL: the empty map */
/* The same of what has been done: where there is no memory for the answer the connection ends, since an error
 * would say that it has not been. */
void answer_done(struct peer *p, uint32_t id, const struct value *v);
void answer_error(struct peer *p, uint32_t id, const char *name, const char *text);
/* rc of the engine, not 0: its reason, or `internal`. */
void answer_reason(struct peer *p, uint32_t id, int rc, const struct reason *why);
void answer_event(struct peer *p, const struct value *v);                  /* session.event */
/* Puts prefix before the session names of a page's events. */
void answer_rename(struct value *events, const char *prefix);

#endif
