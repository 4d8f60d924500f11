/*
 * Blocks one after another, the threads of a block as fibers.
 *
 * The hard idea: a fiber runs until it returns or reaches a rendezvous; when every
 * live lane of a warp (or thread of the block) waits at the same one, all go on.
 * When no fiber can run and no rendezvous is complete, threads have diverged, and
 * the places where they wait are reported.  The order in which lanes, warps and
 * blocks run is a mode: a right kernel computes the same in all of them.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "tests/cusim/inside.h"

#define THREADS_MOST 1024u
#define STACK_BYTES (64u << 10)

struct cusim_lane *cusim_self;
struct cusim_block cusim_now;
dim3 blockDim, gridDim;

static cusim_lane lanes[THREADS_MOST];
static unsigned n_lane;
static unsigned char *stacks;
static cusim_closure *kernel_now;
static bool failed;
static unsigned n_fault;
static char last_fault[512];

void cusim_fault(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_fault, sizeof last_fault, fmt, args);
	va_end(args);
	fprintf(stderr, "cusim: %s\n", last_fault);
	n_fault++;
	failed = true;
}

unsigned cusim_faults(const char **last)
{
	if (last)
		*last = last_fault;
	return n_fault;
}

/* ---- fibers ---- */

static void fiber_main(void)
{
	kernel_now->run();
	cusim_wait(CUSIM_RETURNED, "", 0);
	abort();
}

static unsigned char *stack_of(const cusim_lane *l)
{
	return stacks + (size_t)(l - lanes) * STACK_BYTES;
}

#if defined(__x86_64__)
static void *home_sp;

extern "C" void cusim_switch(void **save, void *to);
/* Callee-saved registers on the stack, then the other stack's. */
__asm__(".text\n.globl cusim_switch\n.type cusim_switch,@function\ncusim_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size cusim_switch,.-cusim_switch\n");

static void fiber_new(cusim_lane *l)
{
	void **top = (void **)(void *)(stack_of(l) + STACK_BYTES);

	*--top = NULL;                 /* alignment, and where a call would return to */
	*--top = (void *)fiber_main;
	for (int i = 0; i < 6; i++)
		*--top = NULL;
	l->sp = top;
}

static void to_fiber(cusim_lane *l) { cusim_switch(&home_sp, l->sp); }
static void to_home(cusim_lane *l) { cusim_switch(&l->sp, home_sp); }
#else
static ucontext_t home_context, contexts[THREADS_MOST];

static void fiber_new(cusim_lane *l)
{
	ucontext_t *c = &contexts[l - lanes];

	getcontext(c);
	c->uc_stack.ss_sp = stack_of(l);
	c->uc_stack.ss_size = STACK_BYTES;
	c->uc_link = NULL;
	makecontext(c, fiber_main, 0);
}

static void to_fiber(cusim_lane *l) { swapcontext(&home_context, &contexts[l - lanes]); }
static void to_home(cusim_lane *l) { swapcontext(&contexts[l - lanes], &home_context); }
#endif

static void resume(cusim_lane *l)
{
	cusim_self = l;
	l->at = CUSIM_RUNS;
	to_fiber(l);
	cusim_self = NULL;
}

void cusim_wait(int at, const char *file, int line)
{
	cusim_lane *l = cusim_self;

	l->at = at;
	l->file = file;
	l->line = line;
	to_home(l);
}

uint64_t cusim_shuffle(uint64_t give, unsigned mask, int lane, const char *file, int line)
{
	cusim_lane *l = cusim_self;
	const unsigned op = l->n_op++ & 1, first = l->linear / 32 * 32;

	if (failed)
		;                               /* one report is enough */
	else if (mask != ~0u || lane < 0 || lane > 31 || first + (unsigned)lane >= n_lane)
		cusim_fault("%s:%d: thread %u: a warp operation with mask %08x and lane %d", file, line, l->linear, mask, lane);
	l->give[op] = give;
	cusim_wait(CUSIM_WARP, file, line);
	return lanes[(first + (unsigned)(lane & 31)) % THREADS_MOST].give[op];
}

/* ---- the order of things ---- */

static uint64_t rng;

static uint64_t next_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

/* A permutation of 0..n-1 at i, of the mode. */
static void order(unsigned n, unsigned *out)
{
	for (unsigned i = 0; i < n; i++)
		out[i] = cusim_modes.order == cusim_modes::REVERSE ? n - 1 - i : i;
	for (unsigned i = n; i > 1 && cusim_modes.order == cusim_modes::SEEDED; i--) {
		unsigned k = (unsigned)(next_random() % i), t = out[k];

		out[k] = out[i - 1];
		out[i - 1] = t;
	}
}

/* ---- rendezvous ---- */

static bool same_place(unsigned first, unsigned n, int at)
{
	for (unsigned i = first; i < first + n; i++)
		if (lanes[i].at != at || lanes[i].file != lanes[first].file || lanes[i].line != lanes[first].line)
			return false;
	return true;
}

static void report(void)
{
	static const char *const what[] = { "runs", "__syncthreads", "a warp operation", "returned" };
	char text[400] = "";
	size_t n = 0;

	for (unsigned i = 0; i < n_lane && n < 300; i++) {
		const cusim_lane *l = &lanes[i];

		if (i == 0 || l->at != l[-1].at || l->line != l[-1].line || l->file != l[-1].file)
			n += (size_t)snprintf(text + n, sizeof text - n, "%s thread %u: %s %s:%d", i ? ";" : "", i,
			                      what[l->at], l->file, l->line);
	}
	cusim_fault("divergence in block (%u, %u, %u):%s", cusim_now.index.x, cusim_now.index.y, cusim_now.index.z, text);
}

/* Runs a warp until all of its lanes have returned or wait for the block. */
static bool run_warp(unsigned first, unsigned n)
{
	unsigned at[32];

	do {
		order(n, at);
		for (unsigned i = 0; i < n; i++)
			if (lanes[first + at[i]].at == CUSIM_RUNS)
				resume(&lanes[first + at[i]]);
		if (!same_place(first, n, CUSIM_WARP))
			break;
		for (unsigned i = first; i < first + n; i++)
			lanes[i].at = CUSIM_RUNS;
	} while (!failed);
	for (unsigned i = first; i < first + n; i++)
		if (lanes[i].at == CUSIM_WARP)
			return false;
	return true;
}

static bool run_block(void)
{
	const unsigned n_warp = (n_lane + 31) / 32;
	unsigned at[32];

	for (unsigned i = 0; i < n_lane; i++) {
		const unsigned x = blockDim.x, y = blockDim.y;

		lanes[i] = cusim_lane();
		lanes[i].thread = make_uint3(i % x, i / x % y, i / x / y);
		lanes[i].linear = i;
		lanes[i].file = "";
		fiber_new(&lanes[i]);
	}
	for (;;) {
		order(n_warp, at);
		for (unsigned w = 0; w < n_warp; w++) {
			unsigned first = at[w] * 32;

			if (!run_warp(first, n_lane - first < 32 ? n_lane - first : 32)) {
				report();
				return false;
			}
		}
		if (failed)
			return false;
		if (same_place(0, n_lane, CUSIM_RETURNED))
			return true;
		if (!same_place(0, n_lane, CUSIM_BARRIER)) {
			report();
			return false;
		}
		for (unsigned i = 0; i < n_lane; i++)
			lanes[i].at = CUSIM_RUNS;
	}
}

static unsigned char *shared_new(size_t n)
{
	unsigned char *p = NULL;

	if (posix_memalign((void **)&p, 128, n + (n == 0)))
		abort();
	return p;
}

bool cusim_run(const cudaLaunchConfig_t *c, cusim_closure *kernel)
{
	const unsigned n_block = c->gridDim.x * c->gridDim.y * c->gridDim.z;
	unsigned *at = (unsigned *)malloc(n_block * sizeof *at);
	bool ok = true;

	if (!stacks)
		stacks = (unsigned char *)mmap(NULL, (size_t)THREADS_MOST * STACK_BYTES, PROT_READ | PROT_WRITE,
		                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (stacks == MAP_FAILED || !at)
		abort();
	failed = false;
	rng = cusim_modes.seed * 2 + 1;
	n_lane = c->blockDim.x * c->blockDim.y * c->blockDim.z;
	kernel_now = kernel;
	order(n_block, at);
	for (unsigned i = 0; i < n_block && ok; i++) {
		unsigned char *shared = shared_new(c->dynamicSmemBytes);

		memset(shared, 0xff, c->dynamicSmemBytes);        /* NaN */
		gridDim = c->gridDim;
		blockDim = c->blockDim;
		cusim_now.index = make_uint3(at[i] % c->gridDim.x, at[i] / c->gridDim.x % c->gridDim.y,
		                             at[i] / c->gridDim.x / c->gridDim.y);
		cusim_now.shared = (float *)(void *)shared;
		cusim_now.shared_bytes = c->dynamicSmemBytes;
		ok = run_block();
		free(shared);
	}
	free(at);
	return ok;
}
