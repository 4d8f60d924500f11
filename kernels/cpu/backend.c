/*
 * The CPU backend: opening it, the instruction set, a step's begin and end, and
 * the table.  The rest of the room: cpu.h.
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

#define THREADS_MOST 256u

/* ---- errors ---- */

int cpu_why(struct backend_why *why, int rc, const char *fmt, ...)
{
	va_list args;

	if (!why)
		return rc;
	va_start(args, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, args);
	va_end(args);
	return rc;
}

void cpu_fail(struct backend *b, int rc, const char *text)
{
	if (b->rc == 0)
		b->rc = cpu_why(&b->why, rc, "%s", text);
}

/* ---- scratch ---- */

/* Grows one of the rooms of every worker; old contents are not kept. */
static int room(float **p, size_t floats)
{
	cpu_free(*p);
	*p = cpu_alloc(floats * sizeof(float));
	return *p ? 0 : -ENOMEM;
}

int cpu_scratch_tile(struct backend *b, uint32_t n_in)
{
	int rc = 0;

	if (n_in <= b->tile_in)
		return 0;
	for (unsigned i = 0; i < pool_threads(b->pool) && rc == 0; i++)
		rc = room(&b->scratch[i].tile, (size_t)n_in * 16);
	b->tile_in = rc < 0 ? 0 : n_in;
	return rc;
}

int cpu_scratch_heads(struct backend *b, uint32_t dim_pad)
{
	int rc = 0;

	if (dim_pad <= b->dim_pad)
		return 0;
	for (unsigned i = 0; i < pool_threads(b->pool) && rc == 0; i++) {
		struct scratch *s = &b->scratch[i];

		rc = room(&s->q, ATTEND_TILE * (size_t)dim_pad);
		if (rc == 0)
			rc = room(&s->score, ATTEND_TILE * SPLIT_KEYS);
		if (rc == 0)
			rc = room(&s->o, 2 * ATTEND_TILE * (size_t)dim_pad);
		if (!s->planes)
			s->planes = cpu_alloc(ATTEND_TILE * sizeof *s->planes);
		if (!s->planes)
			rc = -ENOMEM;
	}
	b->dim_pad = rc < 0 ? 0 : dim_pad;
	return rc;
}

/* ---- instruction sets, best first ---- */

static bool always(void)
{
	return true;
}

#ifdef CPU_X86
static bool has_avx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
	       && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")
	       && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2")
	       && __builtin_cpu_supports("f16c");
}

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
	       && __builtin_cpu_supports("f16c");
}

static bool has_avxvnni(void)
{
	return has_avx2() && __builtin_cpu_supports("avxvnni");
}
#endif

static const struct {
	const struct isa *isa;
	bool (*here)(void);
} isas[] = {
#ifdef CPU_X86
	{ &isa_avx512, has_avx512 },
	{ &isa_avxvnni, has_avxvnni },
	{ &isa_avx2, has_avx2 },
#endif
	{ &isa_scalar, always },
};

static int choose_isa(const char *name, const struct isa **out, struct backend_why *why)
{
	for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
		if (name && strcmp(name, isas[i].isa->name) != 0)
			continue;
		if (isas[i].here()) {
			*out = isas[i].isa;
			return 0;
		}
		if (name)
			return cpu_why(why, -ENOTSUP, "this processor has no %s", isas[i].isa->title);
	}
	return cpu_why(why, -ENOTSUP, "instruction set %s is not known: scalar, avx2, avxvnni or avx512", name);
}

/* ---- open ---- */

static unsigned threads_here(void)
{
	cpu_set_t set;
	int n = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = CPU_COUNT(&set);
	return n < 1 ? 1 : (unsigned)n;
}

static void cpu_close(struct backend *b)
{
	unsigned n;

	if (!b)
		return;
	n = b->pool && b->scratch ? pool_threads(b->pool) : 0;
	pool_close(b->pool);
	for (unsigned i = 0; i < n; i++) {
		cpu_free(b->scratch[i].tile);
		cpu_free(b->scratch[i].q);
		cpu_free(b->scratch[i].score);
		cpu_free(b->scratch[i].o);
		cpu_free(b->scratch[i].planes);
	}
	free(b->scratch);
	free(b->choices);
	cpu_top_free(b);
	free(b);
}

static int cpu_open(struct backend **out, const struct backend_params *p, struct backend_why *why)
{
	unsigned n_thread = p->n_thread ? p->n_thread : threads_here();
	struct backend *b;
	int rc;

	if (p->n_row_max == 0 || p->n_row_max > 1u << 16)
		return cpu_why(why, -EINVAL, "a batch of %u rows is not possible", p->n_row_max);
	if (n_thread > THREADS_MOST)
		n_thread = THREADS_MOST;
	if (p->n_act_bit != 0 && p->n_act_bit != 15 && p->n_act_bit != 8)
		return cpu_why(why, -EINVAL, "activations of %u bits: 15 or 8", p->n_act_bit);
	b = calloc(1, sizeof(*b));
	if (!b)
		return cpu_why(why, -ENOMEM, "out of memory");
	b->n_row_max = p->n_row_max;
	b->n_plane = p->n_act_bit == 8 ? 1 : 2;
	rc = choose_isa(p->isa, &b->isa, why);
	if (rc < 0)
		goto out;
	rc = pool_open(&b->pool, n_thread);
	if (rc < 0) {
		cpu_why(why, rc, "cannot start %u threads", n_thread);
		goto out;
	}
	b->scratch = calloc(n_thread, sizeof(*b->scratch));
	b->choices = calloc(p->n_row_max, sizeof(*b->choices));
	if (!b->scratch || !b->choices || cpu_top_new(b) < 0) {
		rc = cpu_why(why, -ENOMEM, "out of memory");
		goto out;
	}
	snprintf(b->description, sizeof(b->description), "cpu: %s, %u thread%s%s", b->isa->title,
	         n_thread, n_thread == 1 ? "" : "s", b->n_plane == 1 ? ", activations of eight bits" : "");
	*out = b;
	b = NULL;
out:
	cpu_close(b);
	return rc;
}

static const char *cpu_describe(const struct backend *b)
{
	return b->description;
}

/* ---- a step ---- */

static void cpu_begin(struct backend *b, struct kv *kv, const struct batch *batch)
{
	assert(!b->batch);
	b->kv = kv;
	check_batch(batch, b->n_row_max, kv ? &kv->shape : NULL);
	b->batch = batch;
	b->rc = 0;
	b->n_row = batch->n_row;
	b->selected = false;
	memset(b->ropes, 0, sizeof(b->ropes));
	if (kv)
		cpu_kv_begin(b);
}

static int cpu_end(struct backend *b, struct backend_why *why)
{
	assert(b->batch);
	cpu_products(b);
	pool_rest(b->pool);
	b->batch = NULL;
	b->kv = NULL;
	if (b->rc && why)
		*why = b->why;
	return b->rc;
}

const struct backend_ops backend_cpu = {
	.version = BACKEND_VERSION, .build = PACKAGE_VERSION, .name = "cpu", .bitwise = true,
	.open = cpu_open, .close = cpu_close, .describe = cpu_describe,
	.weight_load = cpu_weight_load, .weight_free = cpu_weight_free, .weight_bytes = cpu_weight_bytes,
	.weight_size = cpu_weight_size,
	.act_new = cpu_act_new, .act_free = cpu_act_free,
	.kv_bytes = cpu_kv_bytes, .slot_bytes = cpu_slot_bytes, .kv_layout = cpu_kv_layout, .kv_open = cpu_kv_open,
	.kv_close = cpu_kv_close, .kv_read = cpu_kv_read, .kv_write = cpu_kv_write,
	.begin = cpu_begin, .end = cpu_end,
	.embed = cpu_embed, .norm = cpu_norm, .matmul = cpu_matmul, .store = cpu_store,
	.attend = cpu_attend, .glu = cpu_glu, .add = cpu_add, .select = cpu_select,
	.softcap = cpu_softcap, .clamp = cpu_clamp, .add_norm = cpu_add_norm,
	.route = cpu_route, .matmul_routed = cpu_matmul_routed, .add_routed = cpu_add_routed,
	.candidates = cpu_candidates, .read = cpu_read,
};
