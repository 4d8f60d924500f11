/*
 * Device and pinned memory: pieces in a list.
 *
 * Each piece is an allocation of its own, so that AddressSanitizer sees an access
 * past its end.  In the unreadable mode a piece is whole pages instead, and they
 * are closed except while the device works.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/cusim/inside.h"

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
		return p == MAP_FAILED ? NULL : p;
	}
	void *p = NULL;
	return posix_memalign(&p, 256, n) == 0 ? p : NULL;
}

void *cusim_memory_new(size_t n, cusim_kind kind)
{
	piece *m = (piece *)calloc(1, sizeof *m);

	if (!m)
		return NULL;
	m->kind = kind;
	m->n = n;
	m->p = (unsigned char *)fresh(m, n);
	if (!m->p) {
		free(m);
		return NULL;
	}
	if (cusim_modes.poison)
		memset(m->p, 0xff, n);
	if (m->mapped)
		mprotect(m->p, m->mapped, PROT_NONE);
	m->next = pieces;
	pieces = m;
	return m->p;
}

bool cusim_memory_free(void *p, cusim_kind kind)
{
	for (piece **at = &pieces; *at; at = &(*at)->next) {
		piece *m = *at;

		if (m->p != p || m->kind != kind)
			continue;
		*at = m->next;
		if (m->mapped)
			munmap(m->p, m->mapped);
		else
			free(m->p);
		free(m);
		return true;
	}
	return false;
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

void cusim_memory_open(bool open)
{
	for (piece *m = pieces; m && cusim_modes.unreadable; m = m->next)
		if (m->mapped)
			mprotect(m->p, m->mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}
