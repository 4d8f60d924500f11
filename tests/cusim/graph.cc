/*
 * Graphs: a captured stream executes nothing, its closures are kept with the
 * arguments they had, and a launch queues them all as one.
 *
 * As on a device, what would wait or allocate while a stream is captured fails and
 * spoils the capture.  Chains only: one stream, no branches.
 */
#include <map>
#include <memory>
#include <vector>

#include "tests/cusim/inside.h"

struct cusim_counts cusim_counts;

struct cusim_counts cusim_count(void)
{
	return cusim_counts;
}

#define ENTER(e) \
	do { \
		const cudaError_t entered = cusim_enter(__func__, (e)); \
		if (entered != cudaSuccess) \
			return entered; \
	} while (0)

struct CUgraph_st {
	std::vector<std::shared_ptr<cusim_closure>> nodes;
};

struct CUgraphExec_st {
	std::vector<std::shared_ptr<cusim_closure>> nodes;
};

struct capture {
	cudaGraph_t graph;
	bool spoiled;
};

static std::map<cudaStream_t, capture> captures;

bool cusim_captures(cudaStream_t s)
{
	return captures.count(s) != 0;
}

void cusim_capture(cudaStream_t s, cusim_closure *c)
{
	captures[s].graph->nodes.emplace_back(c);
}

bool cusim_capture_forbids(const char *what)
{
	for (auto &c : captures) {
		cusim_fault("%s while a stream is captured", what);
		c.second.spoiled = true;
		return true;
	}
	return false;
}

struct graph_run : cusim_closure {
	std::vector<std::shared_ptr<cusim_closure>> nodes;
	void run() override
	{
		for (auto &n : nodes)
			if (cusim_good())
				n->run();
	}
};

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode)
{
	ENTER(cudaErrorUnknown);
	if (!s || cusim_captures(s)) {
		cusim_fault("a capture of a stream that is captured, or of none");
		return cudaErrorIllegalState;
	}
	captures[s] = { new CUgraph_st, false };
	return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out)
{
	const cudaError_t entered = cusim_enter(__func__, cudaErrorUnknown);
	capture c;

	*out = NULL;
	if (!cusim_captures(s)) {
		cusim_fault("the end of a capture that did not begin");
		return cudaErrorIllegalState;
	}
	c = captures[s];
	captures.erase(s);               /* whatever the answer is */
	if (c.spoiled || entered != cudaSuccess) {
		delete c.graph;
		return c.spoiled ? cudaErrorStreamCaptureInvalidated : entered;
	}
	*out = c.graph;
	return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *out)
{
	*out = !cusim_captures(s) ? cudaStreamCaptureStatusNone
	       : captures[s].spoiled ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
	return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long)
{
	ENTER(cudaErrorMemoryAllocation);
	*out = new CUgraphExec_st{ g->nodes };
	cusim_counts.graphs_made++;
	cusim_counts.graph_nodes = (unsigned)g->nodes.size();
	return cudaSuccess;
}

/* Counts only: a node has no name here. */
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n)
{
	if (nodes)
		return cudaErrorNotSupported;
	*n = g->nodes.size();
	return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
	graph_run *r;

	ENTER(cudaErrorLaunchFailure);
	r = new graph_run;
	r->nodes = e->nodes;
	cusim_counts.graph_launches++;
	return cusim_queue(s, r);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
	cusim_ordered();                 /* what ran of it is not waited for after an error */
	delete e;
	return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
	cusim_ordered();
	delete g;
	return cudaSuccess;
}

} /* extern "C" */
