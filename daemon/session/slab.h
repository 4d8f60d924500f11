/*
 * The slab: memory of all sessions' caches, equal slots in one memfd, so that a
 * service manager can keep it across restarts.  Slots are sparse: a session's
 * bytes are reserved when it gets a slot (slab_take) and given back to the
 * system when it leaves (slab_drop).  Owned by the engine's thread.
 */
#ifndef DAEMON_SESSION_SLAB_H
#define DAEMON_SESSION_SLAB_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/base/error.h"

struct slab;

int slab_open(struct slab **out, size_t slot_bytes, uint32_t n_slot, struct reason *why);
void slab_close(struct slab *s);
void *slab_memory(struct slab *s);             /* n_slot * slot_bytes, page aligned, zeroed */
/* Reserves n bytes of a free slot; -1: none free (positive REFUSED memory: the
 * system has none). */
int slab_take(struct slab *s, size_t n, uint32_t *slot, struct reason *why);
void slab_drop(struct slab *s, uint32_t slot); /* zeroed and returned to the system */
int slab_fd(const struct slab *s);

#endif
