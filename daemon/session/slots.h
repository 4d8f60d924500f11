/*
 * Slots of the sessions' caches, wherever they lie: in the machine's memory, one
 * slab that outlives the process (slab.h), or on a device, where they are the
 * backend's own and end with it.  Owned by the engine's thread.
 */
#ifndef DAEMON_SESSION_SLOTS_H
#define DAEMON_SESSION_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/error.h"
#include "daemon/session/slab.h"
#include "kernels/backend.h"

struct slots;

struct slots_params {
	const struct backend_ops *ops;
	struct backend *backend;
	const struct kv_shape *shape;
	uint64_t fingerprint;      /* model */
	int fd;                    /* the slab of the process before us, or -1.  Given away, but where
	                              a device's slots could not be opened */
};
/* All memory that slots will ever take, but for what slots_take reserves. */
int slots_open(struct slots **out, const struct slots_params *p, struct reason *why);
void slots_close(struct slots *s);             /* NULL is fine */
struct kv *slots_kv(const struct slots *s);

/* A free slot for n bytes; -1: none free; REFUSED memory: the system has none. */
int slots_take(struct slots *s, size_t n, uint32_t *slot, struct reason *why);
void slots_drop(struct slots *s, uint32_t slot);       /* zeroed, and free again */

/* What is whole in a slot, for a process after us: where there can be none, nothing. */
void slots_stamp(struct slots *s, uint32_t slot, const struct slab_stamp *stamp);
void slots_harmless(struct slots *s);          /* slab_harmless */
bool slots_kept(const struct slots *s);        /* those of an earlier process, taken over */
bool slots_left(struct slots *s, uint32_t slot, struct slab_stamp *out);       /* slab_left */
int slots_fd(const struct slots *s);           /* what outlives us; -1: nothing does */

#endif
