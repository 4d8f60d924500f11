/*
 * Swap: copies of slots in the machine's memory, for sessions that have no slot.  A
 * copy is also what its checkpoint is written from, so there is never a second one.
 *
 *   leaving a slot:  swap_new, the caller fills it, swap_keep, ... swap_release
 *   coming back:     swap_find, the caller reads it, swap_spend
 *
 * A copy is a cache: it may be gone at any time, and what it held is in the
 * checkpoint on disk, or in the log at worst.  One thread owns all of it.
 */
#ifndef DAEMON_SESSION_SWAP_H
#define DAEMON_SESSION_SWAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/session/store.h"

struct swap;

/* Where its memory comes from: the device's pinned memory, or malloc. */
struct swap_memory {
	void *(*take)(void *ctx, size_t n);            /* NULL: there is none */
	void (*give)(void *ctx, void *p);
	void *ctx;
};

struct swap_copy {
	struct swap_copy *newer, *older;
	uint64_t session;          /* 0: spent, its memory waits for the next one */
	size_t n;
	bool held;                 /* the caller's: being filled, or written to disk */
	bool kept;                 /* of the bytes that may be kept */
	struct checkpoint c;       /* what it is a copy of; kv: the n bytes */
};

/* n_byte: most of what is kept; what is only being written comes on top of it. */
int swap_open(struct swap **out, uint64_t n_byte, const struct swap_memory *m);
void swap_close(struct swap *s);               /* NULL is fine; none may be held */

/* Room for n bytes, held by the caller, and no older copy of the session any more.
 * Copies of others go where there is no room, the oldest first.  NULL: no memory. */
struct swap_copy *swap_new(struct swap *s, uint64_t session, size_t n);
/* It is whole and its session has left: found from now on, where it may be kept. */
void swap_keep(struct swap *s, struct swap_copy *c);
void swap_release(struct swap *s, struct swap_copy *c);        /* the caller needs it no more */

struct swap_copy *swap_find(struct swap *s, uint64_t session);         /* NULL: none */
void swap_spend(struct swap *s, struct swap_copy *c);          /* the session goes on without it */
void swap_forget(struct swap *s, uint64_t session);            /* it is deleted: nothing of it stays */
/* Gives the memory of the oldest copy back to the system; false: there is none. */
bool swap_shrink(struct swap *s);
bool swap_busy(const struct swap *s);          /* is any held? */
uint64_t swap_bytes(const struct swap *s);     /* of all copies */

#endif
