/*
 * The copies, a list from the newest to the oldest.
 *
 * The hard idea: a copy has two lives that end in any order.  It is held while the
 * store writes a checkpoint from it, and it is kept while its session may come back
 * to it; its memory goes when both are over.  Memory that the device can reach is
 * slow to get, so the last copy that was spent stays as it is and becomes the next
 * one of its size.
 *
 * It must not know what is in a copy, nor when one is valid.
 */
#include "daemon/session/swap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/error.h"

struct swap {
	struct swap_memory memory;
	uint64_t most, n_kept, n_byte;         /* bytes: may be kept, are kept, all */
	struct swap_copy *newest, *oldest;
};

int swap_open(struct swap **out, uint64_t n_byte, const struct swap_memory *m)
{
	struct swap *s = calloc(1, sizeof *s);

	if (s == NULL)
		return ERROR(-ENOMEM);
	s->memory = *m;
	s->most = n_byte;
	*out = s;
	return 0;
}

/* ---- the list ---- */

static void link_newest(struct swap *s, struct swap_copy *c)
{
	c->newer = NULL;
	c->older = s->newest;
	*(s->newest != NULL ? &s->newest->newer : &s->oldest) = c;
	s->newest = c;
}

static void link_out(struct swap *s, struct swap_copy *c)
{
	*(c->newer != NULL ? &c->newer->older : &s->newest) = c->older;
	*(c->older != NULL ? &c->older->newer : &s->oldest) = c->newer;
}

static void free_copy(struct swap *s, struct swap_copy *c)
{
	assert(!c->held);
	link_out(s, c);
	s->n_byte -= c->n;
	s->n_kept -= c->kept ? c->n : 0;
	s->memory.give(s->memory.ctx, c->c.kv);
	free(c);
}

void swap_close(struct swap *s)
{
	if (s == NULL)
		return;
	while (s->newest != NULL)
		free_copy(s, s->newest);
	free(s);
}

/* The oldest that nobody holds; a spent one before all others. */
static struct swap_copy *oldest(const struct swap *s)
{
	struct swap_copy *c, *found = NULL;

	for (c = s->oldest; c != NULL; c = c->newer)
		if (!c->held && (found == NULL || (c->session == 0 && found->session != 0)))
			found = c;
	return found;
}

/* ---- making one ---- */

/* The memory of a copy that has to go anyhow, as a new one. */
static struct swap_copy *take_over(struct swap *s, struct swap_copy *c)
{
	void *kv = c->c.kv;

	link_out(s, c);
	s->n_kept -= c->kept ? c->n : 0;
	memset(&c->c, 0, sizeof c->c);
	c->c.kv = kv;
	c->kept = false;
	return c;
}

static struct swap_copy *fresh(struct swap *s, size_t n)
{
	struct swap_copy *c = calloc(1, sizeof *c);

	if (c == NULL)
		abort();
	c->n = n;
	c->c.kv = s->memory.take(s->memory.ctx, n);
	if (c->c.kv == NULL) {
		free(c);
		return NULL;
	}
	s->n_byte += n;
	return c;
}

struct swap_copy *swap_new(struct swap *s, uint64_t session, size_t n)
{
	struct swap_copy *c = NULL, *old = swap_find(s, session);

	assert(session != 0);
	if (old != NULL)
		swap_spend(s, old);
	old = oldest(s);
	if (old != NULL && old->session == 0 && old->n == n)
		c = take_over(s, old);
	while (n <= s->most && s->n_kept > s->most - n && (old = oldest(s)) != NULL) {
		if (c == NULL && old->n == n)
			c = take_over(s, old);
		else
			free_copy(s, old);
	}
	while (c == NULL && (c = fresh(s, n)) == NULL)
		if (!swap_shrink(s))
			return NULL;
	c->session = session;
	c->held = true;
	c->c.n_kv = n;
	link_newest(s, c);
	return c;
}

void swap_keep(struct swap *s, struct swap_copy *c)
{
	if (c->kept || c->n > s->most || s->n_kept > s->most - c->n)
		return;
	c->kept = true;
	s->n_kept += c->n;
}

void swap_release(struct swap *s, struct swap_copy *c)
{
	assert(c->held);
	c->held = false;
	if (c->session == 0)           /* spent or forgotten meanwhile */
		free_copy(s, c);
	else if (!c->kept)
		swap_spend(s, c);
}

/* ---- finding one ---- */

struct swap_copy *swap_find(struct swap *s, uint64_t session)
{
	struct swap_copy *c;

	for (c = s->newest; c != NULL; c = c->older)
		if (c->kept && c->session == session)
			return c;
	return NULL;
}

/* One spent copy stays, within the bound; the one before it goes. */
void swap_spend(struct swap *s, struct swap_copy *c)
{
	struct swap_copy *before = oldest(s);

	if (before != NULL && before->session == 0)
		free_copy(s, before);
	c->session = 0;
	if (c->held)
		return;
	if (!c->kept)
		swap_keep(s, c);
	if (!c->kept)
		free_copy(s, c);
}

void swap_forget(struct swap *s, uint64_t session)
{
	struct swap_copy *c, *older;

	for (c = s->newest; c != NULL; c = older) {
		older = c->older;
		if (c->session == session && c->held)
			c->session = 0;        /* goes with its checkpoint's job */
		else if (c->session == session)
			free_copy(s, c);
	}
}

bool swap_shrink(struct swap *s)
{
	struct swap_copy *c = oldest(s);

	if (c != NULL)
		free_copy(s, c);
	return c != NULL;
}

bool swap_busy(const struct swap *s)
{
	const struct swap_copy *c;

	for (c = s->newest; c != NULL; c = c->older)
		if (c->held)
			return true;
	return false;
}

uint64_t swap_bytes(const struct swap *s)
{
	return s->n_byte;
}
