/*
 * What the card can do at most, as one object of JSON: the floor under every figure of
 * tests/bench/engine.  Bytes a second read by a kernel and copied by the device, the
 * time of an empty node of a graph, operations a second of cuBLAS in bf16.
 *
 * cuBLAS is opened, not linked: without it the rest is measured all the same.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cublas_v2.h>
#include <cuda_runtime.h>

#define BYTES (1ull << 30)
#define NODES 1000u
#define SIDE 8192
#define NAME_OF(x) NAME_OF_IT(x)
#define NAME_OF_IT(x) #x

static void good(cudaError_t e, const char *what)
{
	if (e == cudaSuccess)
		return;
	printf("{\"error\": \"%s: %s\"}\n", what, cudaGetErrorString(e));
	exit(e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver ? 77 : 1);
}

static __global__ void empty_kernel(void)
{
}

static __global__ void read_kernel(const uint4 *in, size_t n, unsigned *out)
{
	const size_t all = (size_t)gridDim.x * blockDim.x;
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	unsigned sum = 0;

	for (; i + 3 * all < n; i += 4 * all) {
		const uint4 a = in[i], b = in[i + all], c = in[i + 2 * all], d = in[i + 3 * all];

		sum ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
	}
	if (sum == 12345)
		*out = sum;
}

template <typename... P, typename... A>
static cudaError_t start(cudaStream_t s, void (*kernel)(P...), unsigned grid, unsigned block, A... args)
{
	cudaLaunchConfig_t c = {};

	c.gridDim = grid;
	c.blockDim = block;
	c.stream = s;
	return cudaLaunchKernelEx(&c, kernel, P(args)...);
}

/* The best of five, seconds. */
template <typename F> static double best(cudaStream_t s, F work)
{
	cudaEvent_t from, to;
	float ms, least = 1e9f;

	good(cudaEventCreate(&from), "event");
	good(cudaEventCreate(&to), "event");
	for (int i = 0; i < 6; i++) {
		good(cudaEventRecord(from, s), "record");
		work();
		good(cudaEventRecord(to, s), "record");
		good(cudaEventSynchronize(to), "a measurement");
		good(cudaEventElapsedTime(&ms, from, to), "time");
		if (i > 0 && ms < least)
			least = ms;
	}
	cudaEventDestroy(from);
	cudaEventDestroy(to);
	return (double)least * 1e-3;
}

static double graph_node(cudaStream_t s)
{
	cudaGraphExec_t exec;
	cudaGraph_t graph;
	double seconds;

	good(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), "capture");
	for (unsigned i = 0; i < NODES; i++)
		good(start(s, empty_kernel, 1, 32), "capture");
	good(cudaStreamEndCapture(s, &graph), "capture");
	good(cudaGraphInstantiate(&exec, graph, 0), "a graph");
	seconds = best(s, [&] { good(cudaGraphLaunch(exec, s), "a graph"); });
	cudaGraphExecDestroy(exec);
	cudaGraphDestroy(graph);
	return seconds / NODES;
}

/* Operations a second, 0: no cuBLAS. */
static double cublas_rate(cudaStream_t s, void *a, void *b, void *c)
{
	void *so = dlopen("libcublas.so." NAME_OF(CUBLAS_VER_MAJOR), RTLD_NOW);
	const float one = 1, zero = 0;
	cublasHandle_t h;
	double seconds;

	if (!so)
		return 0;
	const auto create = reinterpret_cast<decltype(&cublasCreate_v2)>(dlsym(so, "cublasCreate_v2"));
	const auto stream = reinterpret_cast<decltype(&cublasSetStream_v2)>(dlsym(so, "cublasSetStream_v2"));
	const auto gemm = reinterpret_cast<cublasStatus_t (*)(
		cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *, const void *, cudaDataType, int,
		const void *, cudaDataType, int, const void *, void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t)>(
		dlsym(so, "cublasGemmEx"));
	if (!create || !stream || !gemm || create(&h) != CUBLAS_STATUS_SUCCESS || stream(h, s) != CUBLAS_STATUS_SUCCESS)
		return 0;
	seconds = best(s, [&] {
		if (gemm(h, CUBLAS_OP_T, CUBLAS_OP_N, SIDE, SIDE, SIDE, &one, a, CUDA_R_16BF, SIDE, b, CUDA_R_16BF, SIDE, &zero, c,
		         CUDA_R_16BF, SIDE, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
			good(cudaErrorUnknown, "cublasGemmEx");
	});
	return 2.0 * SIDE * SIDE * SIDE / seconds;
}

int main(void)
{
	double read, copy, node, rate;
	cudaDeviceProp p;
	cudaStream_t s;
	uint8_t *a, *b;
	int n = 0;

	good(cudaGetDeviceCount(&n), "no GPU");
	if (n == 0)
		good(cudaErrorNoDevice, "no GPU");
	good(cudaGetDeviceProperties(&p, 0), "the device");
	good(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "a stream");
	good(cudaMalloc((void **)&a, BYTES), "memory");
	good(cudaMalloc((void **)&b, BYTES), "memory");
	good(cudaMemset(a, 0, BYTES), "memory");
	good(cudaMemset(b, 0, BYTES), "memory");
	good(cudaDeviceSynchronize(), "memory");
	read = BYTES / best(s, [&] {
		good(start(s, read_kernel, (unsigned)p.multiProcessorCount * 8, 256, (const uint4 *)a, (size_t)(BYTES / 16), (unsigned *)b),
		     "a read");
	});
	copy = 2.0 * BYTES / best(s, [&] { good(cudaMemcpyAsync(b, a, BYTES, cudaMemcpyDeviceToDevice, s), "a copy"); });
	node = graph_node(s);
	rate = cublas_rate(s, a, b, a + BYTES / 2);
	printf("{\"device\": \"%s\", \"compute\": \"%d.%d\", \"memory_bytes\": %zu, \"multiprocessors\": %d,\n"
	       " \"read_bytes_per_second\": %.0f, \"copy_bytes_per_second\": %.0f, \"graph_node_seconds\": %.9f,\n"
	       " \"bf16_operations_per_second\": %.0f}\n", p.name, p.major, p.minor, p.totalGlobalMem, p.multiProcessorCount, read,
	       copy, node, rate);
	return 0;
}
