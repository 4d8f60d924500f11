/*
 * The one way to start a kernel: no <<<>>>, so that g++ compiles the callers too.
 * A launch that fails fails the step.
 */
#ifndef KERNELS_CUDA_LAUNCH_H
#define KERNELS_CUDA_LAUNCH_H

#include "kernels/cuda/cuda.h"

template <typename... P, typename... A>
static inline void launch(struct backend *b, const char *what, void (*kernel)(P...), dim3 grid, dim3 block,
                          size_t shared, A... args)
{
	cudaLaunchConfig_t c = {};

	c.gridDim = grid;
	c.blockDim = block;
	c.dynamicSmemBytes = shared;
	c.stream = b->stream;
	cuda_good(b, cudaLaunchKernelEx(&c, kernel, P(args)...), what);
}

#endif
