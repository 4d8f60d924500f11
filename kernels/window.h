/*
 * The window arithmetic of attention sinks: which positions a token sees, in
 * which place of the cache a position lives, and where a query stands.
 *
 * Pure integer functions: no memory, no device, no state.  Every backend, the
 * model and the session room use these and nothing else, so that an absolute
 * position (uint64_t pos, counts the tokens of a timeline for ever) and a place
 * (uint32_t, an index into one layer's cache) never mix.
 *
 * The rule (StreamingLLM, arXiv 2309.17453): the token at position t sees
 *     0 .. min(S, t+1)-1     S attention sinks (the pinned head)
 *     max(S, t-R) .. t       the R tokens before it, and itself
 * A key is rotated once, at its absolute position.  A query is rotated twice:
 * at t for the window, at window_query(t) = min(t, S+R) for the sinks.
 *
 * Source: the paper, section 3.2; shared semantics of mit-han-lab/streaming-llm.
 */
#ifndef KERNELS_WINDOW_H
#define KERNELS_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define WINDOW_FN static inline __host__ __device__
#else
#define WINDOW_FN static inline
#endif

/* Keys are kept, and reduced over, in blocks of this many places.  The head
 * starts at a block boundary and so does the ring, and a ring is a whole number
 * of blocks, so a block never wraps: what a query computes depends on absolute
 * positions only, never on how its text was cut into chunks. */
#define WINDOW_BLOCK 16u

struct window {         /* one session's rule */
	uint32_t n_sink;    /* S, tokens */
	uint32_t n_recent;  /* R, tokens before the current one */
};

struct span {           /* what one layer keeps of a session */
	uint32_t n_sink;    /* S_l: S in a global layer, 0 in a local one */
	uint32_t n_recent;  /* R_l */
	uint32_t n_head;    /* places before the ring: S_l rounded up to blocks */
	uint32_t n_ring;    /* places in the ring: >= R_l + the longest chunk, whole blocks */
};

WINDOW_FN uint32_t window_round(uint32_t n)
{
	return (n + WINDOW_BLOCK - 1) / WINDOW_BLOCK * WINDOW_BLOCK;
}

/* local = 0: a global layer; else the GGUF's sliding window w (w-1 tokens before
 * and itself), which has no sinks beyond its span.  n_chunk: most rows of one
 * session in one batch. */
WINDOW_FN struct span window_span(struct window w, uint32_t local, uint32_t n_chunk)
{
	struct span s;

	if (local == 0) {
		s.n_sink = w.n_sink;
		s.n_recent = w.n_recent;
	} else {
		s.n_sink = 0;
		s.n_recent = w.n_recent < local - 1 ? w.n_recent : local - 1;
	}
	s.n_head = window_round(s.n_sink);
	s.n_ring = window_round(s.n_recent + n_chunk);
	return s;
}

/* Places that one layer needs. */
WINDOW_FN uint32_t span_places(struct span s)
{
	return s.n_head + s.n_ring;
}

WINDOW_FN uint32_t span_place(struct span s, uint64_t pos)
{
	if (pos < s.n_sink)
		return (uint32_t)pos;
	return s.n_head + (uint32_t)((pos - s.n_sink) % s.n_ring);
}

/* How many sinks the token at pos sees: 0 .. that-1. */
WINDOW_FN uint32_t span_sinks(struct span s, uint64_t pos)
{
	return pos < s.n_sink ? (uint32_t)pos + 1 : s.n_sink;
}

/* The first window position that the token at pos sees; the last is pos itself.
 * start: the first position after the head that this cache holds (0 unless the
 * session jumped, see catch-up in session/timeline.h).  For pos < S the window
 * is empty: lo > pos. */
WINDOW_FN uint64_t span_lo(struct span s, uint64_t pos, uint64_t start)
{
	uint64_t lo = pos > s.n_recent ? pos - s.n_recent : 0;

	if (lo < start)
		lo = start;
	return lo < s.n_sink ? s.n_sink : lo;
}

/* The place inside the cache at which the query stands when it looks at sinks. */
WINDOW_FN uint64_t window_query(struct window w, uint64_t pos)
{
	uint64_t most = (uint64_t)w.n_sink + w.n_recent;

	return pos < most ? pos : most;
}

#endif
