/*
 * A CUDA device on the host: what a .cu file sees.
 *
 * Included in front of every .cu file when g++ compiles it (-include), after the
 * real CUDA headers, so that a call whose signature is wrong does not compile.
 * Threads of a block are fibers; __syncthreads and the warp operations are
 * rendezvous points, and one that not all reach is reported with file and line.
 *
 *   run.cc      blocks, rendezvous, the order of things
 *   fiber.cc    stacks and the switch, as sanitizers want it
 *   memory.cc   device and pinned memory
 *   api.cc      the runtime's functions, streams
 *   cublas.cc   the products of cuBLAS, as plain loops
 *   modes.cc    the words of a mode, injected errors
 *
 * It cannot show speed, memory ordering between blocks, the rounding of fast
 * intrinsics, or PTX.
 */
#ifndef TESTS_CUSIM_CUSIM_H
#define TESTS_CUSIM_CUSIM_H

#include <stdint.h>
#include <math.h>
#include <string.h>

#include <tuple>

#include <cuda_runtime.h>
#include <cuda_fp16.h>

#include "tests/cusim/modes.h"

enum cusim_at { CUSIM_BARRIER, CUSIM_WARP, CUSIM_RETURNED };

struct cusim_lane {                    /* a thread of the running block */
	uint3 thread;
	unsigned linear;
	uint64_t give[2];              /* to a warp operation; two, for the one after it */
	unsigned n_op, n_barrier;      /* warp operations and barriers so far */
	const char *file;              /* where it has stopped */
	int line, at;                  /* at: enum cusim_at */
	unsigned fiber;
};

struct cusim_block {
	uint3 index;
	float *shared;
	size_t shared_bytes;
};

struct cusim_closure;

extern struct cusim_lane *cusim_self;
extern struct cusim_block cusim_now;
extern dim3 blockDim, gridDim;           /* no macros: a launch has fields of these names */

void cusim_wait(int at, const char *file, int line);
/* What the lane of the same warp gave to this operation. */
uint64_t cusim_shuffle(uint64_t give, unsigned mask, int lane, const char *file, int line);
/* Shuffles do not order memory; this does. */
void cusim_sync_warp(unsigned mask, const char *file, int line);
cudaError_t cusim_launch(const cudaLaunchConfig_t *c, struct cusim_closure *kernel);
struct cusim_closure {
	virtual void run() = 0;
	virtual ~cusim_closure() {}
};

template <typename... P> struct cusim_call : cusim_closure {
	void (*kernel)(P...);
	std::tuple<P...> args;
	cusim_call(void (*k)(P...), P... a) : kernel(k), args(a...) {}
	void run() override { std::apply(kernel, args); }
};

template <typename... P, typename... A>
cudaError_t cusim_launch_kernel(const cudaLaunchConfig_t *c, void (*kernel)(P...), A... a)
{
	return cusim_launch(c, new cusim_call<P...>(kernel, P(a)...));
}

/* In double, whose product of floats is exact: inline, where libm's is a call.  In rare
 * cases it rounds twice; it always does so the same way. */
static inline float cusim_fmaf(float x, float y, float z)
{
#if defined(__FMA__)
	return __builtin_fmaf(x, y, z);
#else
	return (float)((double)x * (double)y + (double)z);
#endif
}

/* ---- the language ---- */

#define fmaf cusim_fmaf

#define cudaLaunchKernelEx cusim_launch_kernel
#undef __launch_bounds__
#define __launch_bounds__(...)
#define threadIdx (cusim_self->thread)
#define blockIdx (cusim_now.index)
#define __syncthreads() cusim_wait(CUSIM_BARRIER, __FILE__, __LINE__)
#define __syncwarp() cusim_sync_warp(~0u, __FILE__, __LINE__)

template <typename T>
static inline T cusim_shuffle_of(unsigned mask, T x, int lane, const char *file, int line)
{
	uint64_t word = 0;

	static_assert(sizeof(T) <= sizeof word, "a shuffled value has at most 8 bytes");
	memcpy(&word, &x, sizeof x);
	word = cusim_shuffle(word, mask, lane, file, line);
	memcpy(&x, &word, sizeof x);
	return x;
}

#define __shfl_sync(mask, x, lane) cusim_shuffle_of(mask, x, (int)(lane), __FILE__, __LINE__)
#define __shfl_xor_sync(mask, x, by) \
	cusim_shuffle_of(mask, x, (int)((cusim_self->linear % 32) ^ (unsigned)(by)), __FILE__, __LINE__)

/* No static shared arrays: nobody would fill them with NaN. */
#undef __shared__
#define __shared__ there_is_one_shared_array_SHARED_FLOATS

/* The one dynamic shared array of the project: kernels/cuda/intrinsics.h names it. */
#define CUSIM_SHARED (cusim_now.shared)

#endif
