/*
 * The simulation itself: planted mistakes, each caught by the mode that is there for
 * it, and right kernels that compute the same in every mode.
 *
 * What only a sanitizer sees (a read past an end, a misaligned load) is not here.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"

extern "C" const struct backend_ops sinkd_backend;

static int n_failed;

#define CHECK(x) \
	do { \
		if (!(x)) { \
			printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #x); \
			n_failed++; \
		} \
	} while (0)

#define N 96u                            /* threads: three warps */

struct desk {
	struct backend b;                /* only the stream is used */
	float *device;
	float host[N];
};

static void desk_open(struct desk *d, const char *mode)
{
	memset(d, 0, sizeof *d);
	CHECK(cusim_mode(mode));
	CHECK(cudaStreamCreateWithFlags(&d->b.stream, cudaStreamNonBlocking) == cudaSuccess);
	CHECK(cudaMalloc((void **)&d->device, sizeof d->host) == cudaSuccess);
}

static void desk_close(struct desk *d)
{
	cudaStreamDestroy(d->b.stream);
	cudaFree(d->device);
}

static cudaError_t fetch(struct desk *d)
{
	return cudaMemcpyAsync(d->host, d->device, sizeof d->host, cudaMemcpyDeviceToHost, d->b.stream);
}

/* Every thread gives its number to the one opposite in the block. */
static __global__ void turn_kernel(float *out, bool barrier)
{
	SHARED_FLOATS[threadIdx.x] = (float)threadIdx.x;
	if (barrier)
		__syncthreads();
	out[threadIdx.x] = SHARED_FLOATS[blockDim.x - 1 - threadIdx.x];
}

static bool turned(const char *mode, bool barrier)
{
	bool right = true;
	struct desk d;

	desk_open(&d, mode);
	launch(&d.b, "turn", turn_kernel, 1, N, N * sizeof(float), d.device, barrier);
	CHECK(fetch(&d) == cudaSuccess && cudaStreamSynchronize(d.b.stream) == cudaSuccess);
	for (unsigned i = 0; i < N; i++)
		right = right && d.host[i] == (float)(N - 1 - i);
	desk_close(&d);
	return right;
}

static __global__ void sum_kernel(float *out)
{
	out[threadIdx.x] = warp_sum((float)threadIdx.x) + warp_max((float)threadIdx.x);
}

static void right_kernels(void)
{
	static const char *const modes[] = { "", "order:forward", "order:reverse", "order:1", "order:99", "lazy",
	                                     "poison", "unreadable", "order:5,lazy,poison,unreadable" };

	for (const char *mode : modes) {
		struct desk d;

		CHECK(turned(mode, true));
		desk_open(&d, mode);
		launch(&d.b, "sum", sum_kernel, 1, N, 0, d.device);
		CHECK(fetch(&d) == cudaSuccess && cudaStreamSynchronize(d.b.stream) == cudaSuccess);
		for (unsigned i = 0; i < N; i++)
			CHECK(d.host[i] == (float)(i / 32 * 32 * 32 + 496 + i / 32 * 32 + 31));
		desk_close(&d);
	}
	CHECK(cusim_faults(NULL) == 0);
	CHECK(!cusim_mode("order:backward") && !cusim_mode("quick"));
}

/* Without the barrier shared memory is read before it is written, whatever the order. */
static void missing_barrier(void)
{
	CHECK(!turned("order:forward", false));
	CHECK(!turned("order:reverse", false));
	CHECK(!turned("order:3", false));
}

static __global__ void half_block_kernel(float *out)
{
	if (threadIdx.x < 40)
		__syncthreads();
	out[threadIdx.x] = 0;
}

static __global__ void half_warp_kernel(float *out)
{
	if (threadIdx.x % 2)
		out[threadIdx.x] = __shfl_sync(ALL_LANES, 1.0f, 0);
}

static __global__ void two_barriers_kernel(float *out)
{
	if (threadIdx.x < 32)
		__syncthreads();
	else
		__syncthreads();
	out[threadIdx.x] = 0;
}

static __global__ void wrong_mask_kernel(float *out)
{
	out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0);
}

static void diverges(void (*kernel)(float *), const char *part)
{
	const unsigned before = cusim_faults(NULL);
	const char *last;
	struct desk d;

	desk_open(&d, "");
	launch(&d.b, "diverge", kernel, 1, N, 0, d.device);
	CHECK(cudaStreamSynchronize(d.b.stream) == cudaErrorLaunchFailure);
	CHECK(cusim_faults(&last) > before && strstr(last, part) && strstr(last, __FILE__));
	CHECK(d.b.rc == -EIO && strstr(d.b.why.text, "diverge"));
	desk_close(&d);
}

static void forgotten_wait(void)
{
	struct desk d;

	desk_open(&d, "lazy");
	launch(&d.b, "turn", turn_kernel, 1, N, N * sizeof(float), d.device, true);
	CHECK(fetch(&d) == cudaSuccess);
	CHECK(d.host[0] == 0);                  /* the mistake: not yet */
	CHECK(cudaStreamSynchronize(d.b.stream) == cudaSuccess);
	CHECK(d.host[0] == (float)(N - 1));
	desk_close(&d);
}

static void fresh_memory(void)
{
	struct desk d;

	desk_open(&d, "poison");
	CHECK(fetch(&d) == cudaSuccess && cudaStreamSynchronize(d.b.stream) == cudaSuccess);
	for (unsigned i = 0; i < N; i++)
		CHECK(d.host[i] != d.host[i]);
	desk_close(&d);
}

static void host_reads_device(void)
{
	int status = 0;
	struct desk d;
	pid_t pid;

	desk_open(&d, "unreadable");
	pid = fork();
	if (pid == 0) {
		volatile float x = d.device[1];

		_exit(x == x ? 0 : 0);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 0);   /* a sanitizer exits */
	desk_close(&d);
}

static void wrong_pointers(void)
{
	struct desk d;

	desk_open(&d, "");
	CHECK(cudaMemcpyAsync(d.host, d.device, 4, cudaMemcpyHostToDevice, d.b.stream) == cudaErrorInvalidValue);
	CHECK(cudaFree(d.host) == cudaErrorInvalidValue && cudaFreeHost(d.device) == cudaErrorInvalidValue);
	desk_close(&d);
	desk_open(&d, "");
	CHECK(cudaMemcpyAsync(d.host, d.device, sizeof d.host + 1, cudaMemcpyDeviceToHost, d.b.stream) == cudaErrorInvalidValue);
	desk_close(&d);
	desk_open(&d, "");
	launch(&d.b, "large", sum_kernel, 1, 2048, 0, d.device);
	CHECK(d.b.rc < 0);
	desk_close(&d);
}

static void no_device(void)
{
	const struct backend_params p = { 1, 4, NULL };
	struct backend_why why = { "" };
	struct backend *b = NULL;

	CHECK(cusim_mode("nodevice"));
	CHECK(sinkd_backend.open(&b, &p, &why) == -ENODEV && !b && strstr(why.text, "no GPU"));
	CHECK(cusim_mode(""));
	CHECK(sinkd_backend.open(&b, &p, &why) == 0 && strstr(sinkd_backend.describe(b), "simulated"));
	sinkd_backend.close(b);
}

int main(void)
{
	right_kernels();
	missing_barrier();
	fprintf(stderr, "(the faults that follow are planted)\n");
	diverges(half_block_kernel, "__syncthreads");
	diverges(half_warp_kernel, "a warp operation");
	diverges(two_barriers_kernel, "__syncthreads");
	diverges(wrong_mask_kernel, "mask");
	forgotten_wait();
	fresh_memory();
	host_reads_device();
	wrong_pointers();
	no_device();
	printf("%s\n", n_failed ? "FAILED" : "every planted mistake was caught");
	return n_failed != 0;
}
