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

struct cusim_modes cusim_modes;

struct CUstream_st {
	std::deque<cusim_closure *> queue;
};

static cudaError_t sticky;
static bool begun;

/* ---- modes ---- */

static bool word(const char *w, size_t n, struct cusim_modes *m)
{
	const auto is = [w, n](const char *x) { return n == strlen(x) && strncmp(w, x, n) == 0; };

	if (is("order:forward"))
		m->order = cusim_modes::FORWARD;
	else if (is("order:reverse"))
		m->order = cusim_modes::REVERSE;
	else if (n > 6 && strncmp(w, "order:", 6) == 0 && w[6] >= '0' && w[6] <= '9') {
		m->order = cusim_modes::SEEDED;
		m->seed = strtoull(w + 6, NULL, 10);
	} else if (is("lazy"))
		m->lazy = true;
	else if (is("poison"))
		m->poison = true;
	else if (is("unreadable"))
		m->unreadable = true;
	else if (is("nodevice"))
		m->nodevice = true;
	else
		return false;
	return true;
}

bool cusim_mode(const char *words)
{
	struct cusim_modes m = {};

	for (const char *w = words ? words : ""; *w;) {
		size_t n = strcspn(w, ",");

		if (!word(w, n, &m))
			return false;
		w += n + (w[n] == ',');
	}
	if (cusim_memory_held() && m.unreadable != cusim_modes.unreadable)
		return false;
	cusim_modes = m;
	sticky = cudaSuccess;
	begun = true;
	return true;
}

static void begin(void)
{
	if (begun)
		return;
	begun = true;
	if (!cusim_mode(getenv("CUSIM"))) {
		fprintf(stderr, "cusim: CUSIM=%s: not a mode\n", getenv("CUSIM"));
		abort();
	}
}

/* ---- streams ---- */

static cudaError_t stick(cudaError_t e)
{
	if (sticky == cudaSuccess)
		sticky = e;
	return e;
}

static void work(cusim_closure *c)
{
	cusim_memory_open(true);
	if (sticky == cudaSuccess)
		c->run();
	cusim_memory_open(false);
	delete c;
}

static cudaError_t queue(cudaStream_t s, cusim_closure *c)
{
	if (sticky != cudaSuccess) {
		delete c;
		return sticky;
	}
	if (cusim_modes.lazy && s)
		s->queue.push_back(c);
	else
		work(c);
	return sticky;
}

struct launched : cusim_closure {
	cudaLaunchConfig_t c;
	cusim_closure *kernel;
	void run() override
	{
		if (!cusim_run(&c, kernel))
			stick(cudaErrorLaunchFailure);
	}
	~launched() override { delete kernel; }
};

cudaError_t cusim_launch(const cudaLaunchConfig_t *c, cusim_closure *kernel)
{
	const size_t n = (size_t)c->blockDim.x * c->blockDim.y * c->blockDim.z;
	launched *l;

	if (n == 0 || n > 1024 || c->gridDim.x == 0 || c->gridDim.y == 0 || c->gridDim.z == 0 || c->gridDim.y > 65535
	    || c->gridDim.z > 65535 || c->dynamicSmemBytes > 48u << 10 || !c->stream) {
		delete kernel;
		cusim_fault("a launch of (%u, %u, %u) blocks of %zu threads with %zu bytes", c->gridDim.x, c->gridDim.y,
		            c->gridDim.z, n, c->dynamicSmemBytes);
		return cudaErrorInvalidConfiguration;
	}
	l = new launched;
	l->c = *c;
	l->kernel = kernel;
	return queue(c->stream, l);
}

struct copied : cusim_closure {
	unsigned char *to;
	const unsigned char *from;      /* NULL: fill with value */
	size_t to_step, from_step, width, height;
	int value;
	void run() override
	{
		for (size_t i = 0; i < height; i++)
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
	return queue(s, new copied(c));
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
	return c;
}

extern "C" {

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind, cudaStream_t s)
{
	return copy(copied_of(dst, n, src, n, n, 1), kind, s);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t s)
{
	return copy(copied_of(dst, dpitch, src, spitch, width, height), kind, s);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s)
{
	copied c = copied_of(p, n, NULL, 0, n, 1);

	c.value = value;
	return copy(c, cudaMemcpyHostToDevice, s);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
	*s = new CUstream_st;
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
	while (s && !s->queue.empty()) {
		cusim_closure *c = s->queue.front();

		s->queue.pop_front();
		work(c);
	}
	return sticky;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
	cudaStreamSynchronize(s);
	delete s;
	return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
	begin();
	*n = cusim_modes.nodevice ? 0 : 1;
	return cusim_modes.nodevice ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int i)
{
	return i == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
	memset(p, 0, sizeof *p);
	snprintf(p->name, sizeof p->name, "simulated");
	p->major = 9;
	p->warpSize = 32;
	p->multiProcessorCount = 1;
	p->totalGlobalMem = (size_t)1 << 30;
	return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t n)
{
	*p = cusim_memory_new(n, CUSIM_DEVICE);
	return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *p)
{
	return !p || cusim_memory_free(p, CUSIM_DEVICE) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned)
{
	*p = cusim_memory_new(n, CUSIM_PINNED);
	return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *p)
{
	return !p || cusim_memory_free(p, CUSIM_PINNED) ? cudaSuccess : cudaErrorInvalidValue;
}

const char *cudaGetErrorString(cudaError_t e)
{
	static const struct { cudaError_t e; const char *text; } texts[] = {
		{ cudaSuccess, "no error" }, { cudaErrorMemoryAllocation, "out of memory" },
		{ cudaErrorInvalidValue, "invalid argument" }, { cudaErrorLaunchFailure, "unspecified launch failure" },
		{ cudaErrorNoDevice, "no CUDA-capable device is detected" },
		{ cudaErrorInvalidConfiguration, "invalid configuration argument" },
	};

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (texts[i].e == e)
			return texts[i].text;
	return "an error";
}

} /* extern "C" */
