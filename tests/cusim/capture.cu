/*
 * Capturing on the simulated device, with its planted mistakes; and steps of a few
 * small kernels through the records and graphs of kernels/cuda/graph.cu: whatever the
 * caller asks for after what he asked for before, what comes is right.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/launch.h"
#include "tests/cusim/modes.h"

extern "C" const struct backend_ops sinkd_backend;

static int n_failed;

#define CHECK(x) \
	do { \
		if (!(x)) { \
			printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #x); \
			n_failed++; \
		} \
	} while (0)

static __global__ void set_kernel(const struct batch_row *rows, float *x)
{
	*x = (float)rows[0].token;
}

static __global__ void times_kernel(float by, float *x)
{
	*x *= by;
}

/* ---- the simulation ---- */

static void captures(void)
{
	struct cusim_counts before;
	struct backend b = {};
	float *x, host = 0;
	cudaGraphExec_t e;
	cudaGraph_t g;
	size_t n = 0;

	CHECK(cusim_mode("poison"));
	CHECK(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking) == cudaSuccess);
	CHECK(cudaMalloc((void **)&x, sizeof *x) == cudaSuccess);
	CHECK(cudaMemsetAsync(x, 0x41, sizeof *x, b.stream) == cudaSuccess);             /* 12.078431 */
	before = cusim_count();
	CHECK(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
	for (int i = 2; i < 4; i++)             /* arguments are what they were */
		launch(&b, "times", times_kernel, 1, 1, 0, (float)i, x);
	CHECK(cudaMemcpyAsync(&host, x, sizeof host, cudaMemcpyDeviceToHost, b.stream) == cudaSuccess);
	CHECK(cudaStreamEndCapture(b.stream, &g) == cudaSuccess && host == 0);
	CHECK(cudaGraphGetNodes(g, NULL, &n) == cudaSuccess && n == 3);
	CHECK(cudaGraphInstantiate(&e, g, 0) == cudaSuccess && cudaGraphDestroy(g) == cudaSuccess);
	CHECK(cusim_count().queued == before.queued && b.rc == 0);
	CHECK(cudaGraphLaunch(e, b.stream) == cudaSuccess && cudaStreamSynchronize(b.stream) == cudaSuccess);
	CHECK(host > 72 && host < 73);
	CHECK(cudaGraphLaunch(e, b.stream) == cudaSuccess && cudaStreamSynchronize(b.stream) == cudaSuccess);
	CHECK(host > 434 && host < 436 && cusim_count().queued == before.queued + 2);
	CHECK(cudaGraphExecDestroy(e) == cudaSuccess && cusim_faults(NULL) == 0);

	fprintf(stderr, "(the faults that follow are planted)\n");
	CHECK(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
	CHECK(cudaStreamSynchronize(b.stream) == cudaErrorStreamCaptureUnsupported);
	CHECK(cudaStreamEndCapture(b.stream, &g) == cudaErrorStreamCaptureInvalidated && !g);
	CHECK(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
	CHECK(cudaFree(x) == cudaErrorStreamCaptureUnsupported);
	CHECK(cudaStreamEndCapture(b.stream, &g) != cudaSuccess);
	CHECK(cudaStreamEndCapture(b.stream, &g) != cudaSuccess && cusim_faults(NULL) == 3);
	CHECK(cudaFree(x) == cudaSuccess && cudaStreamDestroy(b.stream) == cudaSuccess);
}

/* ---- steps ---- */

struct desk {
	struct backend *b;
	struct kv *kv;
	struct act *x;
	uint64_t pos;
};

static void desk_open(struct desk *d, const char *mode)
{
	static const struct kv_layer layer = { 1, 8, 0 };
	const struct kv_shape shape = { KV_F32, 1, &layer, 4, { 4, 16 }, 2 };
	struct backend_params p = {};

	p.n_row_max = 4;
	memset(d, 0, sizeof *d);
	CHECK(cusim_mode(mode));
	CHECK(sinkd_backend.open(&d->b, &p, NULL) == 0);
	CHECK(sinkd_backend.kv_open(d->b, &shape, NULL, &d->kv, NULL) == 0);
	CHECK(sinkd_backend.act_new(d->b, 1, &d->x) == 0);
}

static void desk_close(struct desk *d)
{
	sinkd_backend.act_free(d->b, d->x);
	sinkd_backend.kv_close(d->b, d->kv);
	sinkd_backend.close(d->b);
}

/* The token times each factor (0: a read); is it what comes? */
static bool one_step(struct desk *d, int32_t token, const float *by, size_t n)
{
	const struct batch_row row = { token, 0, d->pos++ };
	const struct batch_seq seq = { 0, { 4, 16 }, 0 };
	const uint32_t output = 0;
	struct batch batch = {};
	float expected = (float)token, got = -1;
	bool right = true;

	batch.n_row = batch.n_seq = batch.n_output = 1;
	batch.rows = &row;
	batch.seqs = &seq;
	batch.outputs = &output;
	sinkd_backend.begin(d->b, d->kv, &batch);
	launch(d->b, "set", set_kernel, 1, 1, 0, d->b->step.rows, d->x->x);
	for (size_t i = 0; i < n; i++) {
		if (by[i] > 0) {
			launch(d->b, "times", times_kernel, 1, 1, 0, by[i], d->x->x);
			expected *= by[i];
			continue;
		}
		sinkd_backend.read(d->b, d->x, &got);
		right = right && got == expected;
	}
	sinkd_backend.read(d->b, d->x, &got);
	return sinkd_backend.end(d->b, NULL) == 0 && right && got == expected;
}

/* One graph, one wait, and nothing else? */
static bool replayed(struct cusim_counts before)
{
	const struct cusim_counts now = cusim_count();

	return now.queued == before.queued + 1 && now.graph_launches == before.graph_launches + 1
	       && now.waits == before.waits + 1 && now.graphs_made == before.graphs_made;
}

static void steps(const char *mode)
{
	static const float same[] = { 2, 3 }, other[] = { 2, 5 }, longer[] = { 2, 3, 7 }, looks[] = { 2, 0, 3 };
	static const struct { const float *by; size_t n; } asked[] = {
		{ other, 2 }, { longer, 3 }, { same, 1 }, { looks, 3 }, { same, 0 },
	};
	const unsigned faults = cusim_faults(NULL);
	struct cusim_counts before;
	struct desk d;

	desk_open(&d, mode);
	before = cusim_count();
	CHECK(one_step(&d, 10, same, 2) && cusim_count().graphs_made == before.graphs_made);
	CHECK(one_step(&d, 11, same, 2) && cusim_count().graphs_made == before.graphs_made + 1);
	for (int32_t i = 12; i < 16; i++) {
		before = cusim_count();
		CHECK(one_step(&d, i, same, 2) && replayed(before));
	}
	for (const auto &a : asked)             /* the guess is wrong, and once more right */
		for (int32_t i = 0; i < 4; i++) {
			CHECK(one_step(&d, 20 + i, a.by, a.n));
			before = cusim_count();
			CHECK(one_step(&d, 30 + i, same, 2) && !replayed(before));
			CHECK(one_step(&d, 40 + i, same, 2));
			before = cusim_count();
			CHECK(one_step(&d, 50 + i, same, 2) && replayed(before));
		}
	/* what changes from step to step is no graph, and right */
	for (int32_t i = 1; i < 9; i++) {
		const float by = (float)i;

		CHECK(one_step(&d, 60, &by, 1));
	}
	before = cusim_count();
	CHECK(one_step(&d, 61, same, 1) && !replayed(before));
	CHECK(cusim_faults(NULL) == faults);
	desk_close(&d);
}

/* Memory that records name is freed: nothing of them is used again. */
static void freed(void)
{
	struct cusim_counts before;
	static const float by[] = { 3 };
	struct desk d;
	float *hole;

	desk_open(&d, "poison");
	for (int32_t i = 0; i < 4; i++)
		CHECK(one_step(&d, i, by, 1));
	sinkd_backend.act_free(d.b, d.x);
	CHECK(cudaMalloc((void **)&hole, 128) == cudaSuccess);      /* where it was, perhaps */
	CHECK(sinkd_backend.act_new(d.b, 1, &d.x) == 0);
	before = cusim_count();
	CHECK(one_step(&d, 7, by, 1) && cusim_count().graph_launches == before.graph_launches);
	CHECK(cudaFree(hole) == cudaSuccess);
	desk_close(&d);
}

/* A device that takes no graph is slower, not wrong. */
static void no_graphs(void)
{
	static const char *const fails[] = { "fail:cudaGraphInstantiate:1", "fail:cudaStreamBeginCapture:1",
	                                     "fail:cudaStreamEndCapture:1" };
	static const float by[] = { 3 };

	for (const char *f : fails) {
		struct cusim_counts before;
		struct desk d;

		desk_open(&d, f);
		before = cusim_count();
		for (int32_t i = 0; i < 5; i++)
			CHECK(one_step(&d, i, by, 1));
		CHECK(cusim_count().graph_launches == before.graph_launches);
		desk_close(&d);
	}
}

/* A kernel of the graph that fails fails the step, under its own backend. */
static void fails(void)
{
	static const float by[] = { 3 };
	struct desk d;

	desk_open(&d, "fail:8");
	for (int32_t i = 0; i < 3; i++)
		CHECK(one_step(&d, i, by, 1));
	CHECK(!one_step(&d, 3, by, 1));
	CHECK(d.b->rc < 0);
	desk_close(&d);
	CHECK(cudaDeviceReset() == cudaSuccess);
}

int main(void)
{
	captures();
	steps("poison");
	steps("poison,unreadable,lazy,order:reverse");
	freed();
	no_graphs();
	fails();
	printf("%s\n", n_failed ? "FAILED" : "what comes is right, whatever was guessed");
	return n_failed != 0;
}
