/*
 * Memory of the CPU backend: zeroed blocks, and shelves for weights.
 *
 * A step reads all weights, each once, and most are smaller than a large page: each in a
 * block of its own they lie in pages of 4 KB, and finding these takes longer than reading
 * them (measured: 14 to 20 % of a token of a model of 190 MB).  So weights lie one behind
 * another, in the order in which they are loaded, on shelves of many large pages.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu.h"

struct block {                           /* in front of what is given out */
	void *base;
	size_t mapped;                   /* 0: from malloc */
};

#define MAP_FROM (1u << 16)              /* its pages cost nothing before they are touched */
#define LARGE_PAGE ((size_t)2 << 20)

void *cpu_alloc(size_t n)
{
	struct block *block;
	uint8_t *base;

	if (n > SIZE_MAX - 2 * CPU_ALIGN)
		return NULL;
	n = (n + 2 * CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
	if (n < MAP_FROM) {
		base = aligned_alloc(CPU_ALIGN, n);
		if (!base)
			return NULL;
		memset(base, 0, n);
	} else {
		base = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (base == MAP_FAILED)
			return NULL;
		if (n >= LARGE_PAGE)
			madvise(base, n, MADV_HUGEPAGE);         /* a wish */
	}
	block = (struct block *)(void *)base;
	block->base = base;
	block->mapped = n < MAP_FROM ? 0 : n;
	return base + CPU_ALIGN;
}

void cpu_free(void *p)
{
	struct block *block;

	if (!p)
		return;
	block = (struct block *)(void *)((uint8_t *)p - CPU_ALIGN);
	if (block->mapped)
		munmap(block->base, block->mapped);
	else
		free(block->base);
}

/* ---- shelves ---- */

#define SHELF_BYTES ((size_t)32 << 20)   /* at least; what is not written costs nothing */

struct shelf {
	struct shelf *next;
	uint8_t *base;
	size_t n_byte, used;
	uint32_t n_weight;               /* that lie there still */
};

/* n bytes, a multiple of large pages, that begin with one. */
static uint8_t *map_large(size_t n)
{
	uint8_t *p = mmap(NULL, n + LARGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)p % LARGE_PAGE;
	if (before)
		munmap(p, before);
	munmap(p + before + n, LARGE_PAGE - before);
	madvise(p + before, n, MADV_HUGEPAGE);           /* a wish */
	return p + before;
}

static struct shelf *shelf_new(struct backend *b, size_t n)
{
	struct shelf *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->n_byte = (n < SHELF_BYTES ? SHELF_BYTES : n + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
	s->base = map_large(s->n_byte);
	if (!s->base) {
		free(s);
		return NULL;
	}
	s->next = b->shelves;
	b->shelves = s;
	return s;
}

void *cpu_shelf_take(struct backend *b, size_t n)
{
	struct shelf *s = b->shelves;
	void *p;

	if (n > SIZE_MAX / 2)
		return NULL;
	n = (n + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
	if (!s || n > s->n_byte - s->used)
		s = shelf_new(b, n);
	if (!s)
		return NULL;
	p = s->base + s->used;
	s->used += n;
	s->n_weight++;
	return p;
}

void cpu_shelf_give(struct backend *b, void *p)
{
	struct shelf **at = &b->shelves, *s;

	if (!p)
		return;
	while (*at && ((uint8_t *)p < (*at)->base || (uint8_t *)p >= (*at)->base + (*at)->n_byte))
		at = &(*at)->next;
	s = *at;
	assert(s && s->n_weight > 0);
	if (--s->n_weight > 0)
		return;
	*at = s->next;
	munmap(s->base, s->n_byte);
	free(s);
}
