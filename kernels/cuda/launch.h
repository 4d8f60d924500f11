/*
 * The one way to start a kernel: no <<<>>>, so that g++ compiles the callers too.
 *
 * A launch is made into plain bytes (the kernel, its shape, its arguments) and given
 * to the step (graph.cu), which runs it, or finds that a graph has it already.  So
 * arguments are values and device pointers, never a reference to the host, and a
 * struct among them has its padding zeroed, or bytes that are equal look different.
 */
#ifndef KERNELS_CUDA_LAUNCH_H
#define KERNELS_CUDA_LAUNCH_H

#include <string.h>
#include <type_traits>

#include "kernels/cuda/cuda.h"

/* A kernel's arguments one after another; std::tuple is not made of plain bytes. */
template <typename... P> struct launch_args {};
template <typename H, typename... T> struct launch_args<H, T...> {
	H head;
	launch_args<T...> rest;
};

template <typename... P> struct launch_call {
	void (*kernel)(P...);
	unsigned grid[3], block[3];
	size_t shared;
	launch_args<P...> args;
};

static inline void launch_put(launch_args<> *)
{
}

template <typename H, typename... T, typename A, typename... B>
static inline void launch_put(launch_args<H, T...> *to, const A &a, const B &...rest)
{
	static_assert(std::is_trivially_copyable_v<H>, "a kernel's argument is plain data");
	if constexpr (std::is_same_v<H, A>) {
		memcpy(static_cast<void *>(&to->head), &a, sizeof(H));   /* with its padding */
	} else {
		const H converted = H(a);

		memcpy(static_cast<void *>(&to->head), &converted, sizeof(H));
	}
	launch_put(&to->rest, rest...);
}

template <typename... P, typename... Got>
static inline cudaError_t launch_go(const cudaLaunchConfig_t *c, void (*kernel)(P...), const launch_args<> &,
                                    const Got &...got)
{
	return cudaLaunchKernelEx(c, kernel, got...);
}

template <typename... P, typename H, typename... T, typename... Got>
static inline cudaError_t launch_go(const cudaLaunchConfig_t *c, void (*kernel)(P...), const launch_args<H, T...> &a,
                                    const Got &...got)
{
	return launch_go(c, kernel, a.rest, got..., a.head);
}

template <typename... P> static void launch_run(struct backend *b, const char *what, const void *bytes)
{
	const launch_call<P...> *call = static_cast<const launch_call<P...> *>(bytes);
	cudaLaunchConfig_t c = {};

	c.gridDim = dim3(call->grid[0], call->grid[1], call->grid[2]);
	c.blockDim = dim3(call->block[0], call->block[1], call->block[2]);
	c.dynamicSmemBytes = call->shared;
	c.stream = b->stream;
	cuda_good(b, launch_go(&c, call->kernel, call->args), what);
}

/* A launch that fails fails the step. */
template <typename... P, typename... A>
static inline void launch(struct backend *b, const char *what, void (*kernel)(P...), dim3 grid, dim3 block,
                          size_t shared, const A &...args)
{
	launch_call<P...> call;

	if (b->waiting.n)
		cuda_products(b);
	memset(static_cast<void *>(&call), 0, sizeof(call));
	call.kernel = kernel;
	call.grid[0] = grid.x, call.grid[1] = grid.y, call.grid[2] = grid.z;
	call.block[0] = block.x, call.block[1] = block.y, call.block[2] = block.z;
	call.shared = shared;
	launch_put(&call.args, args...);
	b->planes_of = NULL;                    /* it may write the act that they are of */
	cuda_work(b, what, launch_run<P...>, &call, sizeof(call));
}

/* Anything else that is queued on the stream: run(b, what, of bytes) does it. */
template <typename T>
static inline void work(struct backend *b, const char *what, void (*run)(struct backend *, const char *, const void *),
                        const T &bytes)
{
	static_assert(std::is_trivially_copyable_v<T>, "work is plain data");
	if (b->waiting.n)
		cuda_products(b);
	cuda_work(b, what, run, &bytes, sizeof(bytes));
}

#endif
