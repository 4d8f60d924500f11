/*
 * The simulation itself: planted mistakes, each caught by the mode or the sanitizer that
 * is there for it, and right kernels that compute the same in every mode.
 *
 * What ends a process or makes a sanitizer speak is run as a child, "device NAME", whose
 * words are read.  A mistake that this build cannot see is said to be another's.
 */
#include <dlfcn.h>
#include <errno.h>
#include <regex.h>
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
	for (const char *word : { "order:backward", "order:", "quick", "fail:", "fail:0", "fail:cudaMalloc", "fail::1", "memory:1X" })
		CHECK(!cusim_mode(word));
}

/* Without the barrier shared memory is read before it is written, whatever the order. */
static void missing_barrier(void)
{
#if defined(__SANITIZE_THREAD__)
	return;                                 /* it would speak: a child's */
#endif
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

#if defined(__SANITIZE_THREAD__)
	return;                                 /* a child's */
#endif

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
	d.b.rc = 0;
	launch(&d.b, "shared", sum_kernel, 1, N, (48u << 10) + 4, d.device);
	CHECK(d.b.rc < 0);
	desk_close(&d);
}

static void no_device(void)
{
	const struct backend_params p = { 1, 4, NULL, 0 };
	struct backend_why why = { "" };
	struct backend *b = NULL;
	int n;

	CHECK(cusim_mode("nodriver") && cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver && n == 0);
	CHECK(sinkd_backend.open(&b, &p, &why) == -ENODEV && !b && strstr(why.text, "no GPU"));
	CHECK(cudaDriverGetVersion(&n) == cudaSuccess && n == 0);
	CHECK(cusim_mode("nodevice") && cudaGetDeviceCount(&n) == cudaErrorNoDevice && n == 0);
	CHECK(sinkd_backend.open(&b, &p, &why) == -ENODEV && !b && strstr(why.text, "no GPU"));
	CHECK(cudaDriverGetVersion(&n) == cudaSuccess && n > 0);
	CHECK(cusim_mode(""));
	CHECK(sinkd_backend.open(&b, &p, &why) == 0 && strstr(sinkd_backend.describe(b), "simulated"));
	sinkd_backend.close(b);
}

/* ---- injected errors ---- */

static void sum(struct desk *d)
{
	launch(&d->b, "sum", sum_kernel, 1, N, 0, d->device);
}

/* The device has failed: everything says so, and nothing runs, until it is reset. */
static void is_dead(struct desk *d)
{
	void *p;

	CHECK(cudaStreamSynchronize(d->b.stream) == cudaErrorLaunchFailure);
	CHECK(cudaMalloc(&p, 4) == cudaErrorLaunchFailure && fetch(d) == cudaErrorLaunchFailure);
	CHECK(cudaFree(d->device) == cudaErrorLaunchFailure);   /* and it is free */
	d->device = NULL;
	CHECK(cudaStreamDestroy(d->b.stream) == cudaErrorLaunchFailure);
	CHECK(cudaGetLastError() == cudaErrorLaunchFailure && cudaPeekAtLastError() == cudaErrorLaunchFailure);
	CHECK(cusim_held() == 0);
	CHECK(cudaDeviceReset() == cudaSuccess && cudaGetLastError() == cudaSuccess);
	CHECK(cudaMalloc(&p, 4) == cudaSuccess && cudaFree(p) == cudaSuccess);
}

static void kernels_fail(void)
{
	static const char *const modes[] = { "fail:3", "fail:3,lazy" };
	char path[64], mode[96];
	struct desk d;
	FILE *f;

	for (const char *m : modes) {
		desk_open(&d, m);
		sum(&d);
		sum(&d);
		CHECK(cudaStreamSynchronize(d.b.stream) == cudaSuccess && d.b.rc == 0);
		sum(&d);
		is_dead(&d);
	}
	snprintf(path, sizeof path, "/tmp/cusim-fail.%d", (int)getpid());
	snprintf(mode, sizeof mode, "failfile:%s,poison", path);
	desk_open(&d, mode);
	for (int round = 0; round < 2; round++) {
		sum(&d);
		CHECK(cudaStreamSynchronize(d.b.stream) == cudaSuccess);
		f = fopen(path, "w");
		CHECK(f && fclose(f) == 0);
		sum(&d);
		CHECK(access(path, F_OK) != 0);
		is_dead(&d);
		CHECK(cudaStreamCreateWithFlags(&d.b.stream, cudaStreamNonBlocking) == cudaSuccess);
		CHECK(cudaMalloc((void **)&d.device, sizeof d.host) == cudaSuccess);
		d.b.rc = 0;
	}
	desk_close(&d);
}

static void calls_fail(void)
{
	size_t left, all;
	struct desk d;
	void *p, *q;

	desk_open(&d, "fail:cudaMalloc:3,fail:cudaStreamSynchronize:1,memory:64K");
	CHECK(cudaMalloc(&p, 4) == cudaSuccess && cudaMalloc(&q, 4) == cudaErrorMemoryAllocation);
	CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
	CHECK(cudaMemGetInfo(&left, &all) == cudaSuccess && all == 64 << 10 && left == all - 4 - sizeof d.host);
	CHECK(cudaMalloc(&q, left + 1) == cudaErrorMemoryAllocation && cudaMalloc(&q, left) == cudaSuccess);
	CHECK(cudaFree(q) == cudaSuccess && cudaFree(p) == cudaSuccess);
	is_dead(&d);
	desk_open(&d, "");
	CHECK(cusim_held() == sizeof d.host);
	CHECK(cudaDeviceReset() == cudaSuccess && cusim_held() == 0);
	CHECK(cudaFree(d.device) == cudaErrorInvalidValue && fetch(&d) != cudaSuccess);
}

/* ---- children ---- */

template <typename... P> static void mistake(const char *mode, void (*kernel)(float *, P...), unsigned n_block, P... args)
{
	struct desk d;

	desk_open(&d, mode);
	CHECK(cudaMemsetAsync(d.device, 0, sizeof d.host, d.b.stream) == cudaSuccess);
	launch(&d.b, "mistake", kernel, n_block, N, N * sizeof(float), d.device, args...);
	cudaStreamSynchronize(d.b.stream);
	desk_close(&d);
}

/* Right by luck where lane 0 runs first. */
static __global__ void lucky_kernel(float *out)
{
	if (threadIdx.x == 0)
		SHARED_FLOATS[0] = 7;
	out[threadIdx.x] = SHARED_FLOATS[0];
}

/* A shuffle is a rendezvous and orders no memory. */
static __global__ void shuffle_kernel(float *out)
{
	SHARED_FLOATS[threadIdx.x] = 1;
	out[threadIdx.x] = warp_sum(1) + SHARED_FLOATS[threadIdx.x ^ 1];
}

/* The same, ordered. */
static __global__ void ordered_kernel(float *out)
{
	SHARED_FLOATS[threadIdx.x] = 1;
	__syncwarp();
	out[blockIdx.x * N + threadIdx.x] = SHARED_FLOATS[threadIdx.x ^ 1];
}

static __global__ void every_block_kernel(float *out)
{
	out[threadIdx.x ^ blockIdx.x] = 1;
}

static __global__ void past_shared_kernel(float *out, bool write)
{
	if (write)
		SHARED_FLOATS[N + threadIdx.x / 95] = 1;
	else
		out[threadIdx.x] = SHARED_FLOATS[N - 94 + threadIdx.x];
}

static __global__ void past_device_kernel(float *out, bool write)
{
	if (write)
		out[threadIdx.x + 1] = 1;
	else
		SHARED_FLOATS[threadIdx.x] = out[threadIdx.x + 1];
}

static __global__ void misaligned_kernel(float *out)
{
	if (threadIdx.x == 0) {
		const float4 x = *reinterpret_cast<const float4 *>(out + 1);

		out[0] = x.x + x.w;
	}
}

static void use_after_free(void)
{
	const char *mode = "";
	struct desk d;

#if !defined(__SANITIZE_ADDRESS__)
	mode = "unreadable";
#endif
	desk_open(&d, mode);
	cudaFree(d.device);
	launch(&d.b, "freed", sum_kernel, 1, N, 0, d.device);
}

static void wait_forgotten(void)
{
	struct desk d;

	desk_open(&d, "");
	launch(&d.b, "turn", turn_kernel, 1, N, N * sizeof(float), d.device, true);
	CHECK(fetch(&d) == cudaSuccess);
	printf("%g\n", (double)d.host[0]);
	cudaStreamSynchronize(d.b.stream);
	desk_close(&d);
}

static void host_reads_device(void)
{
	struct desk d;

	desk_open(&d, "unreadable");
	printf("%g\n", (double)*(volatile float *)&d.device[1]);
	desk_close(&d);
}

static void leak(void)
{
	struct desk d;

	desk_open(&d, "");
	cudaStreamDestroy(d.b.stream);
}

#define KILLED "killed"                  /* what a parent adds to a child's words */

/* What the child says in a build with no sanitizer, with AddressSanitizer, with
 * ThreadSanitizer, and what it says with UndefinedBehaviorSanitizer beside; "": nothing,
 * as the kernel is right; NULL: another build sees it. */
static const struct plant {
	const char *name;
	void (*run)(void);
	const char *plain, *asan, *tsan, *ubsan;
} plants[] = {
	{ "a missing barrier", [] { turned("", false); }, NULL, NULL, "data race.*turn_kernel", NULL },
	{ "a race that is right by luck", [] { mistake("", lucky_kernel, 1); }, NULL, NULL, "data race.*lucky_kernel", NULL },
	{ "memory ordered by a shuffle", [] { mistake("", shuffle_kernel, 1); }, NULL, NULL, "data race.*shuffle_kernel", NULL },
	{ "memory ordered by __syncwarp", [] { mistake("", ordered_kernel, 1); }, "", "", "", NULL },
	{ "blocks that write the same", [] { mistake("", every_block_kernel, 2); }, NULL, NULL, "data race.*every_block_kernel", NULL },
	{ "a forgotten wait", wait_forgotten, NULL, NULL, "data race.*wait_forgotten", NULL },
	{ "a read past shared memory", [] { mistake("", past_shared_kernel, 1, false); }, NULL, "heap-buffer-overflow.*past_shared_kernel", NULL, NULL },
	{ "a write past shared memory", [] { mistake("", past_shared_kernel, 1, true); },
	  "past its 384 bytes of shared memory", "heap-buffer-overflow.*past_shared_kernel", "past its 384 bytes of shared memory", NULL },
	{ "a read past device memory", [] { mistake("", past_device_kernel, 1, false); }, NULL, "heap-buffer-overflow.*past_device_kernel", NULL, NULL },
	{ "a write past device memory", [] { mistake("", past_device_kernel, 1, true); },
	  "past 384 bytes of memory", "heap-buffer-overflow.*past_device_kernel", "past 384 bytes of memory", NULL },
	{ "a misaligned load", [] { mistake("", misaligned_kernel, 1); }, NULL, NULL, NULL, "device.cu.*misaligned address" },
	{ "memory used after it was freed", use_after_free, KILLED, "heap-use-after-free.*sum_kernel", "SEGV.*sum_kernel", NULL },
	{ "device memory read by the host", host_reads_device, KILLED, "SEGV.*host_reads_device", "SEGV.*host_reads_device", NULL },
	{ "memory that nobody frees", leak, "384 bytes .* not freed", "384 bytes .* not freed", "384 bytes .* not freed", NULL },
};

static const char *expected(const struct plant *p)
{
	if (p->ubsan && dlsym(RTLD_DEFAULT, "__ubsan_handle_type_mismatch_v1_abort"))
		return p->ubsan;
#if defined(__SANITIZE_THREAD__)
	return p->tsan;
#elif defined(__SANITIZE_ADDRESS__)
	return p->asan;
#else
	return p->plain;
#endif
}

/* All that the child says; ends with KILLED if a signal ended it. */
static void listen(const char *name, char *words, size_t most)
{
	char command[256];
	FILE *f;
	int rc;

	snprintf(command, sizeof command, "exec '/proc/%d/exe' '%s' 2>&1", (int)getpid(), name);
	f = popen(command, "r");
	CHECK(f);
	words[fread(words, 1, most - 1, f)] = '\0';
	while (fgetc(f) != EOF)
		;
	rc = pclose(f);
	if (WIFSIGNALED(rc))
		strcpy(words, KILLED);
}

static bool says(const char *words, const char *pattern)
{
	regex_t r;
	bool yes;

	CHECK(regcomp(&r, pattern, REG_EXTENDED | REG_NOSUB) == 0);
	yes = regexec(&r, words, 0, NULL, 0) == 0;
	regfree(&r);
	return yes;
}

static void children(void)
{
	static char words[1 << 16];

	for (const struct plant &p : plants) {
		const char *pattern = expected(&p);

		if (!pattern) {
			printf("%s: another build sees it\n", p.name);
			continue;
		}
		listen(p.name, words, sizeof words);
		if (pattern[0] ? !says(words, pattern) : words[0] != '\0') {
			printf("FAILED %s: the child says: %s\n", p.name, words);
			n_failed++;
		}
	}
}

static int child(const char *name)
{
	for (const struct plant &p : plants)
		if (strcmp(p.name, name) == 0) {
			p.run();
			return n_failed;
		}
	return 2;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		return child(argv[1]);
	right_kernels();
	missing_barrier();
	fprintf(stderr, "(the faults that follow are planted)\n");
	diverges(half_block_kernel, "__syncthreads");
	diverges(half_warp_kernel, "a warp operation");
	diverges(two_barriers_kernel, "__syncthreads");
	diverges(wrong_mask_kernel, "mask");
	forgotten_wait();
	fresh_memory();
	wrong_pointers();
	no_device();
	kernels_fail();
	calls_fail();
	children();
	CHECK(cusim_held() == 0);
	printf("%s\n", n_failed ? "FAILED" : "every planted mistake was caught");
	return n_failed != 0;
}
