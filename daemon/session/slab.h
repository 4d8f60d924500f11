/*
 * The slab: memory of all sessions' caches, equal slots in one memfd, so that a
 * service manager can keep it across restarts.  Slots are sparse: a session's
 * bytes are reserved when it gets a slot (slab_take) and given back to the
 * system when it leaves (slab_drop).  Owned by the engine's thread.
 *
 * A page behind the slots says whose slab it is and, for each slot, what is whole
 * in it (struct slab_stamp).  A new process that is given the memfd takes it over
 * only when everything about it is as its own would be.
 */
#ifndef DAEMON_SESSION_SLAB_H
#define DAEMON_SESSION_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/error.h"
#include "kernels/window.h"

struct slab;

/* What the bytes of a slab mean: of another one they mean something else. */
struct slab_id {
	uint64_t fingerprint;      /* model */
	uint32_t n_chunk;          /* kv_shape.n_chunk */
	char layout[48];           /* kv_layout */
};

/* The cache of a slot is whole for n_computed tokens.  A step that was cut off may
 * have written keys of positions below n_written over the oldest ones. */
struct slab_stamp {
	uint64_t session;          /* 0: nothing is whole */
	struct window window;
	uint64_t n_computed, n_written, start;
};

/* Starts without a finished step after which a slab is not taken over again: it
 * could be what ends the daemon. */
#define SLAB_STARTS 2

/* fd: an earlier process's slab, or -1; the slab owns it from here on.  One that
 * cannot be taken over is closed, its reason logged, and a new one made. */
int slab_open(struct slab **out, const struct slab_id *id, size_t slot_bytes, uint32_t n_slot, int fd,
              struct reason *why);
void slab_close(struct slab *s);               /* NULL is fine */
void *slab_memory(struct slab *s);             /* n_slot * slot_bytes, page aligned, zeroed */
/* Reserves n bytes of a free slot; -1: none free (positive REFUSED memory: the
 * system has none). */
int slab_take(struct slab *s, size_t n, uint32_t *slot, struct reason *why);
void slab_drop(struct slab *s, uint32_t slot); /* zeroed and returned to the system */
int slab_fd(const struct slab *s);
/* Bytes of the machine that can be had without harm to others. */
uint64_t memory_available(void);

bool slab_kept(const struct slab *s);          /* it was taken over */
/* What an earlier process left in a slot: true, and the slot is taken now; false:
 * nothing that is whole. */
bool slab_left(struct slab *s, uint32_t slot, struct slab_stamp *out);
void slab_stamp(struct slab *s, uint32_t slot, const struct slab_stamp *stamp);
/* A step has finished, or the process ends in order: the slab does no harm. */
void slab_harmless(struct slab *s);

#endif
