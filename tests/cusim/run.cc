/*
 * Blocks one after another, the threads of a block as fibers.
 *
 * The hard idea: lanes of a warp run in turn, each until it returns or reaches a
 * rendezvous, and switch to the next one themselves.  When the last of a round has
 * stopped and all of them wait at the same warp operation, the next round begins;
 * else the warp is done until the block's barrier, or threads have diverged, and the
 * places where they wait are reported.  The order in which lanes, warps and blocks
 * run is a mode: a right kernel computes the same in all of them.
 *
 * What happens before what is told to ThreadSanitizer here, as CUDA promises it: a
 * launch, barriers and __syncwarp order memory; shuffles and the order of blocks do
 * not.  So a few blocks, a wave, have shared memory and fibers of their own.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/cusim/inside.h"

#define THREADS_MOST 1024u
#define WARP_MOST (THREADS_MOST / 32)
#define WAVE_MOST 4u
#define WAVE_THREADS 256u                /* of a wave of two blocks or more: clocks of many threads are slow */
#define NO_FIBER UINT32_MAX
#define FENCE_BYTES 64u                  /* behind shared memory; AddressSanitizer has its own */

struct cusim_lane *cusim_self;
struct cusim_block cusim_now;
dim3 blockDim, gridDim;

static cusim_lane lanes[THREADS_MOST];
static unsigned n_lane;
static cusim_closure *kernel_now;
static bool failed;
static unsigned n_fault;
static char last_fault[512];

/* The warp that runs: its lanes in the order of this round, and how many of them wait
 * where the first of them does. */
static struct {
	unsigned first, n, at, n_wait;
	unsigned char order[32];
	const char *file;
	int line;
} warp;

/* For ThreadSanitizer: what a launch, a block and a warp synchronize on.  Two for each
 * barrier in turn, so that who is late takes nothing of the next one. */
static uint64_t begun, ended, barriers[WAVE_MOST][2], warp_barriers[WAVE_MOST][WARP_MOST][2];
static unsigned in_wave;                 /* the block that runs, of its wave */

void cusim_fault(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_fault, sizeof last_fault, fmt, args);
	va_end(args);
	fprintf(stderr, "cusim: %s\n", last_fault);
	n_fault++;
	failed = true;
	cusim_release(last_fault);
}

unsigned cusim_faults(const char **last)
{
	cusim_acquire(last_fault);
	if (last)
		*last = last_fault;
	return n_fault;
}

/* ---- the order of things ---- */

static uint64_t rng;

static uint32_t below(uint32_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)((rng >> 32) * n >> 32);
}

/* A permutation of 0..n-1 at out, of the mode. */
template <typename T> static void order(unsigned n, T *out)
{
	for (unsigned i = 0; i < n; i++)
		out[i] = (T)(cusim_modes.order == cusim_modes::REVERSE ? n - 1 - i : i);
	for (unsigned i = n; i > 1 && cusim_modes.order == cusim_modes::SEEDED; i--) {
		unsigned k = below(i);
		T t = out[k];

		out[k] = out[i - 1];
		out[i - 1] = t;
	}
}

/* ---- lanes ---- */

static void begin_round(void)
{
	warp.at = warp.n_wait = 0;
	if (cusim_modes.order == cusim_modes::SEEDED)
		order(warp.n, warp.order);
}

/* Who runs after the lane that has stopped; NULL: nobody of this warp. */
static cusim_lane *next_lane(void)
{
	if (++warp.at == warp.n) {
		if (warp.n_wait != warp.n || failed)
			return NULL;
		begin_round();
	}
	return &lanes[warp.first + warp.order[warp.at]];
}

static void go(unsigned from, cusim_lane *to, bool dies)
{
	if (to && to->fiber == NO_FIBER)
		to->fiber = cusim_fiber_take(in_wave * n_lane + to->linear);
	cusim_self = to;
	cusim_fiber_switch(from, to ? to->fiber : CUSIM_HOME, dies);
}

/* A fiber runs lanes until one of them waits. */
static void run_lanes(void)
{
	for (;;) {
		cusim_lane *l = cusim_self, *to;
		const unsigned fiber = l->fiber;

		cusim_acquire(&begun);
		kernel_now->run();
		cusim_release(&ended);
		l->at = CUSIM_RETURNED;
		l->file = "";
		l->line = 0;
		l->fiber = NO_FIBER;
		to = next_lane();
		if (CUSIM_FIBERS_SHARED && to && to->fiber == NO_FIBER) {
			to->fiber = fiber;
			cusim_self = to;
			continue;
		}
		cusim_fiber_give(fiber);
		go(fiber, to, true);
	}
}

void cusim_wait(int at, const char *file, int line)
{
	cusim_lane *l = cusim_self, *to;
	uint64_t *const sync = &barriers[in_wave][l->n_barrier & 1];

	l->at = at;
	l->file = file;
	l->line = line;
	if (at == CUSIM_BARRIER) {
		l->n_barrier++;
		cusim_release(sync);
	} else if (warp.n_wait == 0 || (warp.file == file && warp.line == line)) {
		warp.file = file;
		warp.line = line;
		warp.n_wait++;
	}
	to = next_lane();
	if (to != l)
		go(l->fiber, to, false);
	if (at == CUSIM_BARRIER)
		cusim_acquire(sync);
}

uint64_t cusim_shuffle(uint64_t give, unsigned mask, int lane, const char *file, int line)
{
	cusim_lane *l = cusim_self;
	const unsigned op = l->n_op++ & 1, first = warp.first;

	if ((mask != ~0u || lane < 0 || lane > 31 || first + (unsigned)lane >= n_lane) && !failed)   /* one report is enough */
		cusim_fault("%s:%d: thread %u: a warp operation with mask %08x and lane %d", file, line, l->linear, mask, lane);
	l->give[op] = give;
	cusim_wait(CUSIM_WARP, file, line);
	return lanes[(first + (unsigned)(lane & 31)) % THREADS_MOST].give[op];
}

void cusim_sync_warp(unsigned mask, const char *file, int line)
{
	cusim_lane *l = cusim_self;
	uint64_t *const sync = &warp_barriers[in_wave][l->linear / 32][l->n_op & 1];

	cusim_release(sync);
	cusim_shuffle(0, mask, (int)(l->linear % 32), file, line);
	cusim_acquire(sync);
}

/* ---- rendezvous ---- */

static bool all_at(int at)
{
	for (unsigned i = 0; i < n_lane; i++)
		if (lanes[i].at != at || lanes[i].file != lanes[0].file || lanes[i].line != lanes[0].line)
			return false;
	return true;
}

static bool report(void)
{
	static const char *const what[] = { "__syncthreads", "a warp operation", "returned" };
	char text[400] = "";
	size_t n = 0;

	for (unsigned i = 0; i < n_lane && n < 300; i++) {
		const cusim_lane *l = &lanes[i];

		if (i == 0 || l->at != l[-1].at || l->line != l[-1].line || l->file != l[-1].file)
			n += (size_t)snprintf(text + n, sizeof text - n, "%s thread %u: %s%s%s:%d", i ? ";" : "", i,
			                      what[l->at], l->file[0] ? " " : "", l->file, l->line);
	}
	cusim_fault("divergence in block (%u, %u, %u):%s", cusim_now.index.x, cusim_now.index.y, cusim_now.index.z, text);
	return false;
}

/* Runs a warp until all of its lanes have returned or wait for the block; false: some wait
 * for each other, in vain. */
static bool run_warp(unsigned first)
{
	warp.first = first;
	warp.n = n_lane - first < 32 ? n_lane - first : 32;
	order(warp.n, warp.order);
	warp.at = warp.n_wait = 0;
	go(CUSIM_HOME, &lanes[first + warp.order[0]], false);
	for (unsigned i = first; i < first + warp.n; i++)
		if (lanes[i].at == CUSIM_WARP)
			return false;
	return true;
}

static bool run_block(void)
{
	const unsigned n_warp = (n_lane + 31) / 32;
	unsigned char at[WARP_MOST];

	do {
		order(n_warp, at);
		for (unsigned w = 0; w < n_warp; w++)
			if (!run_warp(at[w] * 32u))
				return failed ? false : report();
		if (failed)
			return false;
		if (all_at(CUSIM_RETURNED))
			return true;
	} while (all_at(CUSIM_BARRIER));
	return report();
}

static void set_lanes(dim3 block)
{
	n_lane = block.x * block.y * block.z;
	blockDim = block;
	for (unsigned i = 0; i < n_lane; i++) {
		lanes[i].thread = make_uint3(i % block.x, i / block.x % block.y, i / block.x / block.y);
		lanes[i].linear = i;
		lanes[i].n_op = lanes[i].n_barrier = 0;
		lanes[i].fiber = NO_FIBER;
	}
}

/* ---- a launch ---- */

/* Shared memory of the blocks of a wave: NaN, and a fence behind it. */
static void shared_new(unsigned char **shared, unsigned n_block, size_t n)
{
	for (unsigned i = 0; i < n_block; i++)
		if (posix_memalign((void **)&shared[i], 128, n + CUSIM_FENCED * FENCE_BYTES + (n == 0)))
			abort();
}

static bool fence_holds(const unsigned char *shared, size_t n)
{
	for (unsigned i = 0; i < CUSIM_FENCED * FENCE_BYTES; i++)
		if (shared[n + i] != 0xff) {
			cusim_fault("block (%u, %u, %u) wrote past its %zu bytes of shared memory", cusim_now.index.x,
			            cusim_now.index.y, cusim_now.index.z, n);
			return false;
		}
	return true;
}

static bool run_wave(const cudaLaunchConfig_t *c, unsigned char **shared, const unsigned *blocks, unsigned n_block)
{
	const size_t n = c->dynamicSmemBytes;
	bool ok = true;

	for (unsigned i = 0; i < n_block; i++)
		memset(shared[i], 0xff, n + CUSIM_FENCED * FENCE_BYTES);
	cusim_release(&begun);
	for (unsigned i = 0; i < n_block && ok; i++) {
		in_wave = i;
		cusim_now.index = make_uint3(blocks[i] % c->gridDim.x, blocks[i] / c->gridDim.x % c->gridDim.y,
		                             blocks[i] / c->gridDim.x / c->gridDim.y);
		cusim_now.shared = (float *)(void *)shared[i];
		cusim_now.shared_bytes = n;
		ok = run_block() && fence_holds(shared[i], n);
	}
	if (!ok)
		cusim_fibers_forget();
	cusim_acquire(&ended);
	return ok;
}

bool cusim_run(const cudaLaunchConfig_t *c, cusim_closure *kernel)
{
	const unsigned n_block = c->gridDim.x * c->gridDim.y * c->gridDim.z;
	unsigned *at = (unsigned *)malloc(n_block * sizeof *at), n_wave = 1;
	unsigned char *shared[WAVE_MOST];
	bool ok = true;

	if (!at)
		abort();
	failed = false;
	rng = cusim_modes.seed * 2 + 1;
	kernel_now = kernel;
	gridDim = c->gridDim;
	set_lanes(c->blockDim);
	cusim_fibers_begin(run_lanes);
	while (!CUSIM_FIBERS_SHARED && n_wave < WAVE_MOST && n_wave < n_block && (n_wave + 1) * n_lane <= WAVE_THREADS)
		n_wave++;
	shared_new(shared, n_wave, c->dynamicSmemBytes);
	order(n_block, at);
	for (unsigned i = 0; i < n_block && ok; i += n_wave)
		ok = run_wave(c, shared, at + i, n_block - i < n_wave ? n_block - i : n_wave);
	for (unsigned i = 0; i < n_wave; i++)
		free(shared[i]);
	free(at);
	return ok;
}
