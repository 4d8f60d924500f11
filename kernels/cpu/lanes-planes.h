/*
 * Activations of fifteen bits as two planes of bytes, 32 high ones and 32 low ones: for
 * instruction sets whose sums of products of bytes have room for them.  Included by their
 * lanes, behind what it uses.
 */
#ifndef KERNELS_CPU_LANES_PLANES_H
#define KERNELS_CPU_LANES_PLANES_H

/* As INLINE, which plain C has another way. */
#define WITHIN static inline __attribute__((always_inline))

/* The values at..at+15 of the block at q; returns them. */
WITHIN v16i v_store_fifteen(int8_t *q, unsigned at, v16 a) { return v_store_i15(q + at, q + at + 32, a); }

typedef vw vw15;

WITHIN void vw15_load(vw15 *w, const uint8_t *p, const int n_bit, int off) { *w = vw_load(p, n_bit, off); }

/* Sixteen lanes of four bytes q + 128 against quad j of the block at x. */
typedef vq vq15;
typedef struct { vx high, low; } vx15;
typedef struct { v16i high, low; } vsum15;

WITHIN vq15 vq15_load(const uint8_t *p) { return vq_load(p); }
WITHIN vx15 vx15_load(const int8_t *x, size_t j) { return (vx15){ vx_load(x + 4 * j), vx_load(x + 32 + 4 * j) }; }
WITHIN vsum15 vq15_start(int32_t start) { return (vsum15){ vq_start(0), vq_start(start) }; }
WITHIN vsum15 vq15_dot(vsum15 sum, vq15 w, vx15 x)
{
	return (vsum15){ vq_dot(sum.high, w, x.high), vq_dot(sum.low, w, x.low) };
}
WITHIN v16i vq15_sum(vsum15 sum) { return v_join(sum.high, sum.low); }

#undef WITHIN
#endif
