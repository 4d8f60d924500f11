/*
 * The runtime's functions that kernels/cuda calls, with the prototypes of the real
 * headers, and streams as queues of closures.
 *
 * A stream's work runs when it is queued, or, in the lazy mode, when the host
 * waits for the stream: what forgets to wait then reads old bytes.  The first
 * error of work sticks, as on a device.  One thread at a time.
 */
#include <deque>
#include <stdio.h>
#include <stdlib.h>

#include "tests/cusim/inside.h"

struct CUstream_st {
	CUstream_st *next;
	std::deque<cusim_closure *> queue;
	void *thread;                  /* ThreadSanitizer's; what it waits for, and who waits for it */
	uint64_t given, done;
};

static CUstream_st *streams;
static cudaError_t sticky, last;

/* ---- errors ---- */

static cudaError_t stick(cudaError_t e)
{
	if (sticky == cudaSuccess)
		sticky = e;
	return last = sticky;
}

void cusim_healed(void)
{
	sticky = last = cudaSuccess;
}

/* A call begins: what it must answer at once; e is the error that a mode injects. */
cudaError_t cusim_enter(const char *name, cudaError_t e)
{
	cusim_begin();
	if (cusim_modes.absent)
		return last = cusim_modes.absent;
	if (sticky != cudaSuccess)
		return last = sticky;
	if (!cusim_injected(name))
		return cudaSuccess;
	return e == cudaErrorLaunchFailure ? stick(e) : last = e;
}

#define ENTER(e) \
	do { \
		const cudaError_t entered = cusim_enter(__func__, (e)); \
		if (entered != cudaSuccess) \
			return entered; \
	} while (0)

static cudaError_t good(bool is, cudaError_t e)
{
	return is ? cudaSuccess : last = e;
}

/* ---- streams ---- */

static void work(cudaStream_t s, cusim_closure *c)
{
	void *const host = cusim_thread();

	cusim_thread_be(s->thread, false);
	cusim_acquire(&s->given);
	cusim_memory_open(true);
	if (sticky == cudaSuccess)
		c->run();
	cusim_memory_open(false);
	delete c;
	cusim_release(&s->done);
	cusim_thread_be(host, false);
}

static bool is_stream(cudaStream_t s)
{
	for (CUstream_st *t = streams; t; t = t->next)
		if (t == s)
			return true;
	return false;
}

bool cusim_good(void)
{
	return sticky == cudaSuccess;
}

cudaError_t cusim_queue(cudaStream_t s, cusim_closure *c)
{
	if (sticky != cudaSuccess || !is_stream(s)) {
		delete c;
		return sticky != cudaSuccess ? sticky : last = cudaErrorInvalidResourceHandle;
	}
	if (cusim_captures(s)) {
		cusim_capture(s, c);
		return cudaSuccess;
	}
	cusim_counts.queued++;
	cusim_release(&s->given);
	if (cusim_modes.lazy)
		s->queue.push_back(c);
	else
		work(s, c);
	return sticky;
}

static void work_one(cudaStream_t s)
{
	cusim_closure *c = s->queue.front();

	s->queue.pop_front();
	work(s, c);
}

static void drain(cudaStream_t s)
{
	while (!s->queue.empty())
		work_one(s);
	cusim_acquire(&s->done);
}

void cusim_ordered(void)
{
	for (CUstream_st *s = streams; s; s = s->next)
		cusim_acquire(&s->done);
}

static void drain_all(void)
{
	for (CUstream_st *s = streams; s; s = s->next)
		drain(s);
}

struct launched : cusim_closure {
	cudaLaunchConfig_t c;
	cusim_closure *kernel;
	void run() override
	{
		if (cusim_injected("launch") || !cusim_run(&c, kernel))
			stick(cudaErrorLaunchFailure);
	}
	~launched() override { delete kernel; }
};

cudaError_t cusim_launch(const cudaLaunchConfig_t *c, cusim_closure *kernel)
{
	const size_t n = (size_t)c->blockDim.x * c->blockDim.y * c->blockDim.z;
	launched *l;

	if (n == 0 || n > 1024 || c->gridDim.x == 0 || c->gridDim.y == 0 || c->gridDim.z == 0 || c->gridDim.y > 65535
	    || c->gridDim.z > 65535 || c->dynamicSmemBytes > 48u << 10) {
		delete kernel;
		last = cudaErrorInvalidConfiguration;
		cusim_fault("a launch of (%u, %u, %u) blocks of %zu threads with %zu bytes", c->gridDim.x, c->gridDim.y,
		            c->gridDim.z, n, c->dynamicSmemBytes);
		return cudaErrorInvalidConfiguration;
	}
	l = new launched;
	l->c = *c;
	l->kernel = kernel;
	return cusim_queue(c->stream, l);
}

struct copied : cusim_closure {
	unsigned char *to;
	const unsigned char *from;      /* NULL: fill with value */
	size_t to_step, from_step, width, height;
	int value;
	bool back;                      /* to the host */
	void run() override
	{
		cusim_counts.bytes_back += back ? width * height : 0;
		for (size_t i = 0; i < height; i++)
			if (from && !back && cusim_poisonous(from + i * from_step, width))
				stick(cudaErrorLaunchFailure);
		for (size_t i = 0; i < height && sticky == cudaSuccess; i++)
			if (from)
				memcpy(to + i * to_step, from + i * from_step, width);
			else
				memset(to + i * to_step, value, width);
	}
};

/* Is p on the side that the copy says? */
static bool side(const void *p, size_t n, bool device)
{
	return device ? cusim_memory_holds(p, n) : !cusim_memory_touches(p);
}

static cudaError_t copy(copied c, cudaMemcpyKind kind, cudaStream_t s)
{
	const size_t to_n = c.height ? c.to_step * (c.height - 1) + c.width : 0;
	const size_t from_n = c.height ? c.from_step * (c.height - 1) + c.width : 0;

	if (c.width == 0 || c.height == 0)
		return cudaSuccess;
	if (kind == cudaMemcpyDefault || c.width > c.to_step
	    || !side(c.to, to_n, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
	    || (c.from && !side(c.from, from_n, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice))) {
		cusim_fault("a copy of %zu x %zu bytes from %p to %p, kind %d: not that memory", c.width, c.height,
		            (const void *)c.from, (void *)c.to, kind);
		return stick(cudaErrorInvalidValue);
	}
	c.back = kind == cudaMemcpyDeviceToHost;
	return cusim_queue(s, new copied(c));
}

static copied copied_of(void *to, size_t to_step, const void *from, size_t from_step, size_t width, size_t height)
{
	copied c;

	c.to = (unsigned char *)to;
	c.from = (const unsigned char *)from;
	c.to_step = to_step;
	c.from_step = from_step;
	c.width = width;
	c.height = height;
	c.value = 0;
	c.back = false;
	return c;
}

extern "C" {

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind, cudaStream_t s)
{
	ENTER(cudaErrorLaunchFailure);
	return copy(copied_of(dst, n, src, n, n, 1), kind, s);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t s)
{
	ENTER(cudaErrorLaunchFailure);
	return copy(copied_of(dst, dpitch, src, spitch, width, height), kind, s);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s)
{
	copied c = copied_of(p, n, NULL, 0, n, 1);

	ENTER(cudaErrorLaunchFailure);
	c.value = value;
	return copy(c, cudaMemcpyHostToDevice, s);
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
	ENTER(cudaErrorUnknown);
	*s = new CUstream_st();
	(*s)->thread = cusim_thread_new();
	(*s)->next = streams;
	streams = *s;
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
	ENTER(cudaErrorLaunchFailure);
	if (!is_stream(s))
		return last = cudaErrorInvalidResourceHandle;
	if (cusim_capture_forbids(__func__))
		return last = cudaErrorStreamCaptureUnsupported;
	cusim_counts.waits++;
	drain(s);
	return sticky;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
	for (CUstream_st **at = &streams; *at; at = &(*at)->next)
		if (*at == s) {
			drain(s);
			*at = s->next;
			cusim_thread_end(s->thread);
			delete s;
			return sticky;
		}
	return last = cudaErrorInvalidResourceHandle;
}

cudaError_t cudaDeviceSynchronize(void)
{
	ENTER(cudaErrorLaunchFailure);
	if (cusim_capture_forbids(__func__))
		return last = cudaErrorStreamCaptureUnsupported;
	drain_all();
	return sticky;
}

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *n)
{
	cusim_begin();
	*n = cusim_modes.absent ? 0 : 1;
	return cusim_modes.absent;
}

cudaError_t cudaSetDevice(int i)
{
	ENTER(cudaErrorUnknown);
	return good(i == 0, cudaErrorInvalidDevice);
}

/* What was queued is lost, and all memory of the device. */
cudaError_t cudaDeviceReset(void)
{
	cusim_begin();
	if (cusim_modes.absent)
		return cusim_modes.absent;
	while (streams) {
		CUstream_st *s = streams;

		streams = s->next;
		for (cusim_closure *c : s->queue)
			delete c;
		cusim_acquire(&s->done);
		cusim_thread_end(s->thread);
		delete s;
	}
	cusim_memory_drop();
	cusim_healed();
	return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
	ENTER(cudaErrorUnknown);
	memset(p, 0, sizeof *p);
	snprintf(p->name, sizeof p->name, "simulated");
	p->major = 9;
	p->warpSize = 32;
	p->multiProcessorCount = 1;
	p->totalGlobalMem = cusim_modes.memory;
	return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int)
{
	static const struct { cudaDeviceAttr attr; int value; } values[] = {
		{ cudaDevAttrMaxThreadsPerBlock, 1024 }, { cudaDevAttrWarpSize, 32 },
		{ cudaDevAttrMaxSharedMemoryPerBlock, 48 << 10 }, { cudaDevAttrMultiProcessorCount, 1 },
		{ cudaDevAttrComputeCapabilityMajor, 9 }, { cudaDevAttrComputeCapabilityMinor, 0 },
	};

	ENTER(cudaErrorUnknown);
	for (const auto &v : values)
		if (v.attr == attr) {
			*value = v.value;
			return cudaSuccess;
		}
	return last = cudaErrorInvalidValue;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
	*version = CUDART_VERSION;
	return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
	cusim_begin();
	*version = cusim_modes.absent == cudaErrorInsufficientDriver ? 0 : CUDART_VERSION;
	return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
	ENTER(cudaErrorUnknown);
	*total = cusim_modes.memory;
	*free = *total - cusim_memory_taken();
	return cudaSuccess;
}

static cudaError_t take(void **p, size_t n, cusim_kind kind)
{
	if (cusim_capture_forbids("memory is taken"))
		return last = cudaErrorStreamCaptureUnsupported;
	*p = n ? cusim_memory_new(n, kind) : NULL;
	return good(*p || !n, cudaErrorMemoryAllocation);
}

/* Waits for the device.  An error that sticks is answered, and the memory is freed all the same. */
static cudaError_t give(void *p, cusim_kind kind)
{
	cusim_begin();
	if (p && cusim_capture_forbids("memory is freed"))
		return last = cudaErrorStreamCaptureUnsupported;
	drain_all();
	if (!p || cusim_memory_free(p, kind))
		return sticky;
	return last = cudaErrorInvalidValue;
}

cudaError_t cudaMalloc(void **p, size_t n)
{
	ENTER(cudaErrorMemoryAllocation);
	return take(p, n, CUSIM_DEVICE);
}

cudaError_t cudaFree(void *p)
{
	return give(p, CUSIM_DEVICE);
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned)
{
	ENTER(cudaErrorMemoryAllocation);
	return take(p, n, CUSIM_PINNED);
}

cudaError_t cudaFreeHost(void *p)
{
	return give(p, CUSIM_PINNED);
}

/* ---- errors ---- */

cudaError_t cudaGetLastError(void)
{
	const cudaError_t e = last;

	last = sticky;
	return e;
}

cudaError_t cudaPeekAtLastError(void)
{
	return last;
}

const char *cudaGetErrorString(cudaError_t e)
{
	static const struct { cudaError_t e; const char *text; } texts[] = {
		{ cudaSuccess, "no error" }, { cudaErrorMemoryAllocation, "out of memory" },
		{ cudaErrorInvalidValue, "invalid argument" }, { cudaErrorLaunchFailure, "unspecified launch failure" },
		{ cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version" },
		{ cudaErrorInvalidResourceHandle, "invalid resource handle" }, { cudaErrorUnknown, "unknown error" },
		{ cudaErrorNoDevice, "no CUDA-capable device is detected" },
		{ cudaErrorInvalidConfiguration, "invalid configuration argument" },
	};

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (texts[i].e == e)
			return texts[i].text;
	return "an error";
}

} /* extern "C" */
