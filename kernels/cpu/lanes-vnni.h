/*
 * Products of bytes where they are added up in 32 bits at once: activations of fifteen bits
 * are two rows of eight.  Included by lanes, behind dots_ and what lanes-planes.h uses.
 */
#ifndef KERNELS_CPU_LANES_VNNI_H
#define KERNELS_CPU_LANES_VNNI_H

#include "kernels/cpu/lanes-planes.h"

typedef struct { v16i of[SUMS]; } vsums;

INLINE vsums vw_dots(const vw *w, const int n, const int8_t *const *x, const int32_t *start, int from, int to)
{
	const vplanes_ p = dots_(w, n, x, start, from, to);
	vsums r;

	UNROLL for (int i = 0; i < n; i++)
		r.of[i] = p.of[i];
	return r;
}

INLINE vsums vw15_dots(const vw15 *w, const int n, const int8_t *const *x, const int32_t *start, int from, int to)
{
	const int8_t *q[2 * ABREAST];
	int32_t begin[2 * ABREAST] = { 0 };
	vplanes_ p;
	vsums r;

	UNROLL for (int i = 0; i < n; i++) {
		q[i] = x[i] + 32;
		q[n + i] = x[i];
		begin[i] = start[i];
	}
	p = dots_(w, 2 * n, q, begin, from, to);
	UNROLL for (int i = 0; i < n; i++)
		r.of[i] = v_join(p.of[n + i], p.of[i]);
	return r;
}

#endif
