/*
 * What every backend refuses or asserts before it touches memory: a batch that does
 * not keep its promises, a cache or a tensor whose sizes could overflow.
 *
 * Inline, for .c and .cu: the module and the daemon each have their own.
 */
#ifndef KERNELS_CHECK_H
#define KERNELS_CHECK_H

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "kernels/backend.h"

/* What backend.h's comments promise of a batch, for our own mistakes.  kv: NULL where
 * the step has no caches. */
static inline void check_batch(const struct batch *batch, uint32_t n_row_max, const struct kv_shape *kv)
{
	uint32_t run = 0;

	assert(batch->n_row > 0 && batch->n_row <= n_row_max);
	assert(batch->n_seq > 0 && batch->n_seq <= batch->n_row && batch->n_output <= batch->n_row);
	for (uint32_t i = 0; i < batch->n_row; i++) {
		const struct batch_row *r = &batch->rows[i];

		assert(r->seq < batch->n_seq);
		run = i > 0 && r->seq == r[-1].seq ? run + 1 : 1;
		assert(run == 1 || r->pos == r[-1].pos + 1);
		assert(!kv || run <= kv->n_chunk);
		assert(r->pos < batch->seqs[r->seq].window.n_sink || r->pos >= batch->seqs[r->seq].start);
	}
	for (uint32_t i = 0; i < batch->n_seq; i++)
		assert(!kv || batch->seqs[i].slot < kv->n_slot);
	for (uint32_t i = 0; i < batch->n_output; i++)
		assert(batch->outputs[i] < batch->n_row && (i == 0 || batch->outputs[i] > batch->outputs[i - 1]));
	(void)run;
}

/* Is every size of these caches in range?  Heads have at most dim_most values and are
 * padded to whole dim_pads; a layer is padded by less than 4096 bytes. */
static inline bool check_shape(const struct kv_shape *s, uint32_t dim_most, uint32_t dim_pad)
{
	const uint32_t most = 1u << 26;
	size_t sum = 0, one;

	if (s->n_layer == 0 || s->n_layer > 65536 || s->n_chunk == 0 || s->n_chunk > most || s->n_slot == 0
	    || s->most.n_sink > most || s->most.n_recent > most || s->type > KV_Q8)
		return false;
	for (uint32_t l = 0; l < s->n_layer; l++) {
		const struct kv_layer *k = &s->layers[l];

		if (k->n_head_kv == 0 || k->n_head_kv > 4096 || k->head_dim == 0 || k->head_dim > dim_most)
			return false;
		one = (size_t)k->n_head_kv * ((k->head_dim + dim_pad - 1) / dim_pad * dim_pad) * 2 * sizeof(float);
		if (__builtin_mul_overflow(one, (size_t)span_places(window_span(s->most, k->local, s->n_chunk)), &one)
		    || __builtin_add_overflow(sum, one + 4096, &sum))
			return false;
	}
	return !__builtin_mul_overflow(sum, (size_t)s->n_slot, &sum) && sum < SIZE_MAX / 2;
}

/* A tensor of a file; q: its format, NULL: unknown.  0, or -ENOTSUP with a sentence in
 * why.  The limits keep every size within 64 bits. */
static inline int check_weight(const struct quant *q, uint32_t type, uint64_t n_in, uint64_t n_out,
                               struct backend_why *why)
{
	struct backend_why unheard;
	char *text = why ? why->text : unheard.text;

	if (!q)
		snprintf(text, sizeof(why->text), "tensor format %u is not known", type);
	else if (n_in == 0 || n_out == 0 || n_in > (1u << 24) || n_out > (1u << 28))
		snprintf(text, sizeof(why->text), "a tensor of %llu x %llu is not supported",
		         (unsigned long long)n_in, (unsigned long long)n_out);
	else if (n_in % q->n_block)
		snprintf(text, sizeof(why->text), "rows of %llu values cannot be %s, whose blocks have %u",
		         (unsigned long long)n_in, q->name, q->n_block);
	else
		return 0;
	return -ENOTSUP;
}

#endif
