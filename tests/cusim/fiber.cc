/*
 * Fibers: stacks, and the switch between them.
 *
 * The hard idea: a sanitizer must be told of every switch, and what it believes of a
 * stack must be true again when another thread uses the stack.  AddressSanitizer
 * learns the bounds of the stack that is entered.  ThreadSanitizer has a fiber of
 * its own for each of ours, always the same one, and no switch synchronizes.
 *
 * It knows nothing of lanes, warps and blocks.
 */
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#include "tests/cusim/inside.h"

#define STACK_BYTES (128u << 10)
/* The tops of stacks are apart by a few cache lines, or they would share the same few sets. */
#define COLOUR_BYTES 448u
#define COLOURS 64u

struct fiber {
#if defined(__x86_64__)
	void *sp;                      /* when it does not run */
#else
	ucontext_t context;
#endif
	void *fake;                    /* AddressSanitizer's */
	void *thread;                  /* ThreadSanitizer's */
};

static fiber home, fibers[CUSIM_FIBERS];
static const fiber *left;              /* the one that switched last */
static unsigned char *stacks;
static void (*body)(void);
static unsigned free_list[CUSIM_FIBERS], n_free;

static unsigned char *stack_of(const fiber *f)
{
	return stacks + (size_t)(f - fibers) * STACK_BYTES;
}

static size_t stack_size(const fiber *f)
{
	return STACK_BYTES - (size_t)(f - fibers) % COLOURS * COLOUR_BYTES;
}

#if defined(__SANITIZE_ADDRESS__)
static const void *home_stack;
static size_t home_size;

static void leave(fiber *from, const fiber *to, bool dies)
{
	const bool is_home = to == &home;

	__sanitizer_start_switch_fiber(dies ? NULL : &from->fake, is_home ? home_stack : stack_of(to),
	                               is_home ? home_size : stack_size(to));
}

static void arrive(fiber *me)
{
	const void *stack;
	size_t n;

	__sanitizer_finish_switch_fiber(me ? me->fake : NULL, &stack, &n);
	if (left == &home) {
		home_stack = stack;
		home_size = n;
	}
}
#else
static void leave(fiber *, const fiber *to, bool) { cusim_thread_be(to->thread, false); }
static void arrive(fiber *) {}
#endif

static void start(void)
{
	arrive(NULL);
	body();
	abort();
}

#if defined(__x86_64__)
extern "C" void cusim_switch(void **save, void *to);
/* Callee-saved registers on the stack, then the other stack's. */
__asm__(".text\n.globl cusim_switch\n.type cusim_switch,@function\ncusim_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size cusim_switch,.-cusim_switch\n");

static void make(fiber *f)
{
	void **top = (void **)(void *)(stack_of(f) + stack_size(f));

	*--top = NULL;                 /* alignment, and where a call would return to */
	*--top = (void *)start;
	for (int i = 0; i < 6; i++)
		*--top = NULL;
	f->sp = top;
}

static void change(fiber *from, fiber *to) { cusim_switch(&from->sp, to->sp); }
#else
static void make(fiber *f)
{
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = stack_of(f);
	f->context.uc_stack.ss_size = stack_size(f);
	f->context.uc_link = NULL;
	makecontext(&f->context, start, 0);
}

static void change(fiber *from, fiber *to) { swapcontext(&from->context, &to->context); }
#endif

void cusim_fibers_begin(void (*what)(void))
{
	body = what;
	home.thread = cusim_thread();
	if (stacks)
		return;
	stacks = (unsigned char *)mmap(NULL, (size_t)CUSIM_FIBERS * STACK_BYTES, PROT_READ | PROT_WRITE,
	                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (stacks == MAP_FAILED)
		abort();
	/* The lowest page of each is closed: what grows too large faults. */
	for (unsigned i = 0; i < CUSIM_FIBERS; i++)
		mprotect(stacks + (size_t)i * STACK_BYTES, 4096, PROT_NONE);
	cusim_fibers_forget();
}

/* What a thread did that will not go on happens before what home does now. */
static void end_thread(fiber *f)
{
	if (!f->thread)
		return;
	cusim_thread_be(f->thread, false);
	cusim_thread_be(home.thread, true);
	cusim_thread_end(f->thread);
	f->thread = NULL;
}

void cusim_fibers_forget(void)
{
	n_free = CUSIM_FIBERS;
	for (unsigned i = 0; i < CUSIM_FIBERS; i++) {
		free_list[i] = CUSIM_FIBERS - 1 - i;
		fibers[i].fake = NULL;
		end_thread(&fibers[i]);
#if defined(__SANITIZE_ADDRESS__)
		__asan_unpoison_memory_region(stack_of(&fibers[i]) + 4096, STACK_BYTES - 4096);
#endif
	}
}

unsigned cusim_fiber_take(unsigned wanted)
{
	if (CUSIM_FIBERS_SHARED) {
		if (n_free == 0)
			abort();
		wanted = free_list[--n_free];
	} else if (!fibers[wanted].thread) {
		fibers[wanted].thread = cusim_thread_new();
	}
#if defined(__SANITIZE_ADDRESS__)        /* who died on this stack left its frames poisoned */
	__asan_unpoison_memory_region(stack_of(&fibers[wanted]) + 4096, STACK_BYTES - 4096);
#endif
	make(&fibers[wanted]);
	return wanted;
}

void cusim_fiber_give(unsigned i)
{
	if (CUSIM_FIBERS_SHARED)
		free_list[n_free++] = i;
}

void cusim_fiber_switch(unsigned from, unsigned to, bool dies)
{
	fiber *f = from == CUSIM_HOME ? &home : &fibers[from], *t = to == CUSIM_HOME ? &home : &fibers[to];

	left = f;
	leave(f, t, dies);
	change(f, t);
	arrive(f);
}
