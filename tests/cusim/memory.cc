/*
 * Device and pinned memory: pieces in a list.
 *
 * Each piece is an allocation of its own, so that AddressSanitizer sees an access
 * past its end; without it, a fence sees a write.  In the unreadable mode a piece is whole pages instead, and they
 * are closed except while the device works.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/cusim/inside.h"

#define FENCE_BYTES 64u                  /* behind a piece, looked at when it is freed */
#define FENCE 0xa5

struct piece {
	piece *next;
	unsigned char *p;
	size_t n, mapped;              /* mapped 0: from malloc */
	cusim_kind kind;
};

static piece *pieces;

static void *fresh(piece *m, size_t n)
{
	if (m->kind == CUSIM_DEVICE && cusim_modes.unreadable) {
		m->mapped = (n + 4095) / 4096 * 4096;
		void *p = mmap(NULL, m->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return NULL;
		madvise(p, m->mapped, MADV_HUGEPAGE);          /* or opening and closing megabytes takes most of the time */
		return p;
	}
	void *p = NULL;
	if (posix_memalign(&p, 256, n + CUSIM_FENCED * FENCE_BYTES) != 0)
		return NULL;
	memset((unsigned char *)p + n, FENCE, CUSIM_FENCED * FENCE_BYTES);
	return p;
}

void *cusim_memory_new(size_t n, cusim_kind kind)
{
	piece *m;

	if (kind == CUSIM_DEVICE && (n > cusim_modes.memory || cusim_memory_taken() > cusim_modes.memory - n))
		return NULL;
	m = (piece *)calloc(1, sizeof *m);
	if (!m)
		return NULL;
	m->kind = kind;
	m->n = n;
	m->p = (unsigned char *)fresh(m, n);
	if (!m->p) {
		free(m);
		return NULL;
	}
	if (cusim_modes.poison || cusim_modes.n_fail_bytes)    /* failcopy: nothing is found of what lay there before */
		memset(m->p, 0xff, n);
	if (m->mapped)
		mprotect(m->p, m->mapped, PROT_NONE);
	m->next = pieces;
	pieces = m;
	return m->p;
}

static void look_at_fence(const piece *m)
{
	for (size_t i = 0; !m->mapped && i < CUSIM_FENCED * FENCE_BYTES; i++)
		if (m->p[m->n + i] != FENCE) {
			cusim_fault("something wrote past %zu bytes of memory at %p", m->n, (void *)m->p);
			return;
		}
}

static void discard(piece *m)
{
	look_at_fence(m);
	if (m->mapped)
		munmap(m->p, m->mapped);
	else
		free(m->p);
	free(m);
}

bool cusim_memory_free(void *p, cusim_kind kind)
{
	for (piece **at = &pieces; *at; at = &(*at)->next) {
		piece *m = *at;

		if (m->p != p || m->kind != kind)
			continue;
		*at = m->next;
		discard(m);
		return true;
	}
	return false;
}

void cusim_memory_drop(void)
{
	while (pieces) {
		piece *m = pieces;

		pieces = m->next;
		discard(m);
	}
}

bool cusim_memory_holds(const void *p, size_t n)
{
	const unsigned char *q = (const unsigned char *)p;

	for (piece *m = pieces; m; m = m->next)
		if (m->kind == CUSIM_DEVICE && q >= m->p && q - m->p <= (ptrdiff_t)m->n && n <= m->n - (size_t)(q - m->p))
			return true;
	return false;
}

bool cusim_memory_touches(const void *p)
{
	return cusim_memory_holds(p, 1);
}

size_t cusim_memory_held(void)
{
	size_t n = 0;

	for (piece *m = pieces; m; m = m->next)
		n += m->n;
	return n;
}

size_t cusim_memory_taken(void)
{
	size_t n = 0;

	for (piece *m = pieces; m; m = m->next)
		n += m->kind == CUSIM_DEVICE ? m->n : 0;
	return n;
}

size_t cusim_held(void)
{
	return cusim_memory_held();
}

static void __attribute__((destructor)) say_leak(void)
{
	if (pieces)
		fprintf(stderr, "cusim: %zu bytes of device and pinned memory were not freed\n", cusim_memory_held());
}

void cusim_memory_open(bool open)
{
	for (piece *m = pieces; m && cusim_modes.unreadable; m = m->next)
		if (m->mapped)
			mprotect(m->p, m->mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}
