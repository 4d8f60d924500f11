/*
 * Acts: rows of floats, and the integers that products read in their place.
 *
 * Integers are made when a product first needs them, and kept until the act is written again or a
 * product needs more of them: the three products of a normalised row share one set.  From then
 * on operations by rows (but for the sum beside a norm) and attention with heads of whole blocks
 * make them as they write, while it is in the cache and without a meeting of workers.
 *
 * The hard idea: rows go into panels as far as whole ones are filled, where the instruction set
 * has them (isa.h); the rest are rows by themselves, and so are words, and all that products of
 * experts read.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "kernels/cpu/cpu.h"

static size_t block_bytes(const struct backend *b, enum form form)
{
	return form == FORM_PANELS ? PANEL_BLOCK(b->n_plane) : form == FORM_WORDS ? 32 * sizeof(int16_t) : 32 * b->n_plane;
}

size_t cpu_row_bytes(const struct backend *b, const struct act *a, enum form form)
{
	return block_bytes(b, form) * (a->width / 32);
}

uint32_t cpu_panel_rows(const struct backend *b)
{
	return b->isa->quantize_panel ? b->n_row / PANEL_ROWS * PANEL_ROWS : 0;
}

/* 0 or -ENOMEM.  What no product reads is never touched. */
static int rows_new(const struct backend *b, struct act *a, enum form form)
{
	const size_t n_block = (size_t)b->n_row_max * (a->width / 32), n_array = (n_block + 15) / 16 * 16;
	struct ints *ints = &a->ints[form];
	float *d = ints->blocks = cpu_alloc(5 * n_array * sizeof(float) + 3 * n_array * sizeof(int32_t));

	ints->of.q = cpu_alloc(n_block * block_bytes(b, form));
	if (!d || !ints->of.q)
		return -ENOMEM;
	ints->of.d = d;
	ints->of.e = d + n_array;
	for (int i = 0; i < 3; i++) {
		ints->of.s[i] = d + (2 + i) * n_array;
		ints->of.start[i] = (int32_t *)(d + 5 * n_array) + i * n_array;
	}
	return 0;
}

static int panels_new(const struct backend *b, struct act *a)
{
	const size_t n = b->isa->quantize_panel ? b->n_row_max / PANEL_ROWS : 0;

	if (n == 0)
		return 0;
	a->ints[FORM_PANELS].panels = cpu_alloc(n * cpu_row_bytes(b, a, FORM_PANELS));
	return a->ints[FORM_PANELS].panels ? 0 : -ENOMEM;
}

int cpu_act_new(struct backend *b, uint32_t width, struct act **out)
{
	struct act *a = NULL;

	assert(out);
	if (width == 0 || width > 1u << 28)
		return -EINVAL;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->width = width;
	a->stride = 16 * (((size_t)width + 15) / 16 | 1);        /* odd: columns of rows lie in different sets of a cache */
	a->x = cpu_alloc(b->n_row_max * a->stride * sizeof(float));
	if (!a->x || (width % 32 == 0 && (rows_new(b, a, FORM_BYTES) || rows_new(b, a, FORM_WORDS) || panels_new(b, a)))) {
		cpu_act_free(b, a);
		return -ENOMEM;
	}
	*out = a;
	return 0;
}

void cpu_act_free(struct backend *b, struct act *a)
{
	(void)b;
	if (!a)
		return;
	cpu_free(a->x);
	for (int i = 0; i < N_FORM; i++) {
		cpu_free(a->ints[i].of.q);
		cpu_free(a->ints[i].blocks);
		cpu_free(a->ints[i].panels);
	}
	free(a);
}

void cpu_act_written(struct act *a)
{
	for (int i = 0; i < N_FORM; i++)
		a->ints[i].n_row = 0;
}

struct quanta cpu_quanta(const struct backend *b, const struct act *a, enum form form, size_t block)
{
	const struct quanta *of = &a->ints[form].of;

	if (!a->ints[form].blocks)
		return *of;
	return (struct quanta){
		of->q + block * block_bytes(b, form), of->d + block, of->e + block, { of->s[0] + block, of->s[1] + block, of->s[2] + block },
		{ of->start[0] + block, of->start[1] + block, of->start[2] + block }, of->halves,
	};
}

const uint8_t *cpu_panels(const struct backend *b, const struct act *a, uint32_t row)
{
	return a->ints[FORM_PANELS].panels + row / PANEL_ROWS * cpu_row_bytes(b, a, FORM_PANELS);
}

/* The rows that a wanted form is made of: first..end-1. */
static uint32_t first_row(const struct backend *b, const struct act *a, enum form form)
{
	return form == FORM_BYTES && !a->ints[form].all ? cpu_panel_rows(b) : 0;
}

static uint32_t end_row(const struct backend *b, enum form form)
{
	return form == FORM_PANELS ? cpu_panel_rows(b) : b->n_row;
}

/* Of blocks block..block+n-1 of a row. */
static void make(const struct backend *b, const struct act *a, enum form form, uint32_t row, uint32_t block, uint32_t n)
{
	const struct ints *ints = &a->ints[form];
	const float *x = a->x + row * a->stride + block * 32;
	const size_t at = row * (size_t)(a->width / 32) + block;

	if (!ints->wanted || row < first_row(b, a, form) || row >= end_row(b, form))
		return;
	switch (form) {
	case FORM_BYTES: b->isa->quantize(x, n * 32, b->n_plane, cpu_quanta(b, a, form, at)); break;
	case FORM_WORDS: b->isa->quantize_words(x, n * 32, cpu_quanta(b, a, form, at)); break;
	case FORM_PANELS:
		b->isa->quantize_panel(x, n * 32, b->n_plane, ints->panels + row / PANEL_ROWS * cpu_row_bytes(b, a, form)
		                       + block * block_bytes(b, form), row % PANEL_ROWS, ints->of.halves);
		break;
	case N_FORM: break;
	}
}

/* Panels are wanted beside bytes only. */
bool cpu_ints_wanted(const struct act *a)
{
	return a->ints[FORM_BYTES].wanted || a->ints[FORM_WORDS].wanted;
}

void cpu_ints_make(const struct backend *b, const struct act *a, uint32_t row, uint32_t block, uint32_t n)
{
	for (int i = 0; i < N_FORM; i++)
		make(b, a, (enum form)i, row, block, n);
}

void cpu_ints_made(const struct backend *b, struct act *a)
{
	for (int i = 0; i < N_FORM; i++)
		a->ints[i].n_row = a->ints[i].wanted ? b->n_row : 0;
}

struct quantize {
	struct backend *b;
	struct act *a;
	enum form form;
};

static void quantize_row(void *ctx, uint32_t row, unsigned worker)
{
	const struct quantize *q = ctx;

	(void)worker;
	make(q->b, q->a, q->form, row, 0, q->a->width / 32);
}

static void need(struct backend *b, struct act *a, enum form form, bool halves, bool all)
{
	struct quantize q = { b, a, form };
	struct ints *ints = &a->ints[form];

	ints->wanted = true;
	if ((halves && !ints->of.halves) || (all && !ints->all))
		ints->n_row = 0;
	ints->of.halves = ints->of.halves || halves;
	ints->all = ints->all || all;
	if (ints->n_row != b->n_row && first_row(b, a, form) < end_row(b, form))
		cpu_by_rows(b, quantize_row, &q, b->n_row, (size_t)b->n_row * a->width);
	ints->n_row = b->n_row;
}

void cpu_ints_need(struct backend *b, const struct weight *w, const struct act *in, bool routed)
{
	/* a cache of x that only this file writes: it does not change the act */
	struct act *a = (struct act *)(uintptr_t)in;
	const bool halves = w->pack == PACK_INT && w->quant->n_sub < 32;

	if (w->pack == PACK_WORD) {
		need(b, a, FORM_WORDS, false, false);
		return;
	}
	need(b, a, FORM_BYTES, halves, routed);
	if (!routed && b->isa->quantize_panel)
		need(b, a, FORM_PANELS, halves, false);
}
