/*
 * The merge loop that byte-level BPE and SentencePiece share: a chain of symbols
 * and a heap of the pairs that could merge.
 *
 * The one hard idea: the heap is never searched.  A pair whose symbols have changed
 * since it was pushed stays in it and is dropped when it comes up, told by its
 * length, so n symbols cost O(n log n) however they merge.  Equal ranks merge from
 * the left, as in both reference implementations.
 *
 * It must not know what a rank means.
 */
#include "daemon/model/tokenizer-parts.h"

#include <errno.h>
#include <stdlib.h>

struct bigram {
	uint64_t key;              /* rank, then the left symbol */
	uint32_t right, n;
	int32_t id;
};

int merger_reserve(struct merger *m, size_t n)
{
	m->n = m->n_heap = 0;
	if (n <= m->room)
		return 0;
	if (n < 256)
		n = 256;
	merger_free(m);
	m->symbols = malloc(n * sizeof *m->symbols);
	/* n - 1 pairs to begin with, and a merge takes one out and puts at most two in. */
	m->heap = malloc(2 * n * sizeof *m->heap);
	if (!m->symbols || !m->heap) {
		merger_free(m);
		return ERROR(-ENOMEM);
	}
	m->room = n;
	return 0;
}

void merger_free(struct merger *m)
{
	free(m->symbols);
	free(m->heap);
	*m = (struct merger){ 0 };
}

void merger_push(struct merger *m, uint32_t at, uint32_t n, int32_t id)
{
	int32_t i = (int32_t)m->n++;

	m->symbols[i] = (struct symbol){ at, n, id, i - 1, -1 };
	if (i)
		m->symbols[i - 1].next = i;
}

static void heap_push(struct merger *m, struct bigram b)
{
	size_t i = m->n_heap++, up;

	while (i > 0 && m->heap[up = (i - 1) / 2].key > b.key) {
		m->heap[i] = m->heap[up];
		i = up;
	}
	m->heap[i] = b;
}

static struct bigram heap_pop(struct merger *m)
{
	struct bigram top = m->heap[0], b = m->heap[--m->n_heap];
	size_t i = 0, down;

	while ((down = 2 * i + 1) < m->n_heap) {
		if (down + 1 < m->n_heap && m->heap[down + 1].key < m->heap[down].key)
			down++;
		if (m->heap[down].key >= b.key)
			break;
		m->heap[i] = m->heap[down];
		i = down;
	}
	m->heap[i] = b;
	return top;
}

static void consider(struct merger *m, int32_t left, int32_t right, merge_pair *pair, const void *ctx)
{
	uint32_t rank;
	int32_t id;

	if (left < 0 || right < 0 || !pair(ctx, &m->symbols[left], &m->symbols[right], &rank, &id))
		return;
	heap_push(m, (struct bigram){ (uint64_t)rank << 32 | (uint32_t)left, (uint32_t)right,
	                              m->symbols[left].n + m->symbols[right].n, id });
}

void merger_run(struct merger *m, merge_pair *pair, const void *ctx)
{
	for (size_t i = 1; i < m->n; i++)
		consider(m, (int32_t)i - 1, (int32_t)i, pair, ctx);
	while (m->n_heap) {
		struct bigram b = heap_pop(m);
		int32_t l = (int32_t)(uint32_t)b.key;
		struct symbol *left = &m->symbols[l], *right = &m->symbols[b.right];

		if (left->n == 0 || right->n == 0 || left->n + right->n != b.n)
			continue;
		left->n += right->n;
		left->id = b.id;
		left->next = right->next;
		if (right->next >= 0)
			m->symbols[right->next].prev = l;
		right->n = 0;
		consider(m, left->prev, l, pair, ctx);
		consider(m, l, left->next, pair, ctx);
	}
}
