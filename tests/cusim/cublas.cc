/*
 * The functions of cuBLAS that kernels/cuda calls, with the prototypes of the real
 * header: products of halves with sums in floats, as plain loops on a stream.
 *
 * Stricter than the real one where that would only be slow or different: a product
 * without a workspace of the caller's is a fault, and so is one in a capture.  It
 * cannot show which algorithm the real one takes, and so not its bits.
 */
#include <vector>

#include "tests/cusim/inside.h"

#include <cublas_v2.h>

#define WORKSPACE_USED 4096u             /* bytes: whatever lies there is gone after a product */

struct cublasContext {
	cudaStream_t stream;
	void *workspace;
	size_t workspace_bytes;
	void *own;                       /* on the device, as the real one has: so a leak is seen */
};

static float half_of(uint16_t bits)
{
	return __half2float(__ushort_as_half(bits));
}

/* By columns: c[m][n] = a^T b; a is k x m, b k x n, each column stride values from the next. */
struct product : cusim_closure {
	int m, n, k, lda, ldb, ldc;
	const uint16_t *a, *b;
	float alpha, *c;
	void *workspace;

	static std::vector<float> floats(const uint16_t *from, int n_column, int k, int stride)
	{
		std::vector<float> to((size_t)n_column * (size_t)k);

		for (int i = 0; i < n_column; i++)
			for (int j = 0; j < k; j++)
				to[(size_t)i * (size_t)k + (size_t)j] = half_of(from[(ptrdiff_t)i * stride + j]);
		return to;
	}
	static float dot(const float *x, const float *y, int k)
	{
		float lanes[16] = {}, sum = 0;
		int i = 0;

		for (; i + 16 <= k; i += 16)
			for (int l = 0; l < 16; l++)
				lanes[l] += x[i + l] * y[i + l];
		for (; i < k; i++)
			sum += x[i] * y[i];
		for (float lane : lanes)
			sum += lane;
		return sum;
	}
	void run() override
	{
		const std::vector<float> x = floats(a, m, k, lda), y = floats(b, n, k, ldb);

		memset(workspace, 0xff, WORKSPACE_USED);
		for (int i = 0; i < n; i++)
			for (int j = 0; j < m; j++)
				c[(ptrdiff_t)i * ldc + j] = alpha * dot(&x[(size_t)j * (size_t)k], &y[(size_t)i * (size_t)k], k);
	}
};

/* Does the device hold n_column columns of so many values? */
static bool holds(const void *p, int n_column, int n, int stride, size_t size)
{
	return stride >= n && (uintptr_t)p % 16 == 0
	       && cusim_memory_holds(p, ((size_t)(n_column - 1) * (size_t)stride + (size_t)n) * size);
}

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *out)
{
	void *own;

	if (cusim_enter("cublasCreate", cudaErrorMemoryAllocation) != cudaSuccess || cudaMalloc(&own, 256) != cudaSuccess)
		return CUBLAS_STATUS_ALLOC_FAILED;
	*out = new cublasContext{ NULL, NULL, 0, own };
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t h)
{
	cudaFree(h->own);
	delete h;
	return CUBLAS_STATUS_SUCCESS;
}

/* The workspace is the library's again. */
cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t s)
{
	h->stream = s;
	h->workspace = NULL;
	h->workspace_bytes = 0;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t h, void *p, size_t n)
{
	if (cusim_enter("cublasSetWorkspace", cudaErrorUnknown) != cudaSuccess)
		return CUBLAS_STATUS_EXECUTION_FAILED;
	if (n < WORKSPACE_USED || (uintptr_t)p % 256 || !cusim_memory_holds(p, n)) {
		cusim_fault("a workspace of %zu bytes at %p: not the device's", n, p);
		return CUBLAS_STATUS_INVALID_VALUE;
	}
	h->workspace = p;
	h->workspace_bytes = n;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType at, int lda, const void *b, cudaDataType bt,
                            int ldb, const void *beta, void *c, cudaDataType ct, int ldc, cublasComputeType_t compute,
                            cublasGemmAlgo_t)
{
	product *p;

	if (cusim_enter("cublasGemmEx", cudaErrorLaunchFailure) != cudaSuccess)
		return CUBLAS_STATUS_EXECUTION_FAILED;
	if (cusim_captures(h->stream)) {
		cusim_capture_forbids("a product of cuBLAS");
		return CUBLAS_STATUS_EXECUTION_FAILED;
	}
	if (ta != CUBLAS_OP_T || tb != CUBLAS_OP_N || at != CUDA_R_16F || bt != CUDA_R_16F || ct != CUDA_R_32F
	    || compute != CUBLAS_COMPUTE_32F || *(const float *)beta != 0)
		return CUBLAS_STATUS_NOT_SUPPORTED;
	if (m < 1 || n < 1 || k < 1 || !holds(a, m, k, lda, 2) || !holds(b, n, k, ldb, 2) || !holds(c, n, m, ldc, 4)
	    || !h->workspace || !cusim_memory_holds(h->workspace, h->workspace_bytes)) {
		cusim_fault("a product of %d x %d x %d: its memory, or its workspace, is not the device's", m, n, k);
		return CUBLAS_STATUS_INVALID_VALUE;
	}
	p = new product;
	p->m = m, p->n = n, p->k = k;
	p->lda = lda, p->ldb = ldb, p->ldc = ldc;
	p->a = (const uint16_t *)a;
	p->b = (const uint16_t *)b;
	p->c = (float *)c;
	p->alpha = *(const float *)alpha;
	p->workspace = h->workspace;
	return cusim_queue(h->stream, p) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
	return status == CUBLAS_STATUS_ALLOC_FAILED ? "the resource allocation failed"
	       : status == CUBLAS_STATUS_EXECUTION_FAILED ? "the GPU program failed to execute" : "an error of the library";
}

} /* extern "C" */
