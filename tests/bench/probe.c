/*
 * What the machine gives at best, as one object of JSON: the floors of the bench.
 *
 *     tests/bench/probe [MEGABYTES [SECONDS]]          512, 0.5
 *
 * Bytes a second that threads read from memory, each its part of a buffer that no cache
 * holds, in large pages where the system has them and each on a processor of its own; and
 * multiply-adds a second of eight-bit integers (VNNI, or what AVX2 has for it), counted as two
 * operations.  The best of the passes within SECONDS counts: a limit is no mean.
 * No instruction here is one that the processor lacks: null stands for its figure.
 */
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "tests/bench/usage.h"

#define THREADS_MOST 64
#define ROUNDS 4098u             /* of the integer loop, between two looks at the clock; by three */

struct part {
	pthread_t thread;
	pthread_barrier_t *start;
	unsigned index;
	const uint64_t *data;
	size_t n;                      /* words */
	double begin, end;
	uint64_t sum;                  /* what was read is used */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- memory ---- */

static uint64_t read_plain(const uint64_t *p, size_t n)
{
	uint64_t s[8] = { 0 };
	size_t i;
	int k;

	for (i = 0; i + 8 <= n; i += 8)
		for (k = 0; k < 8; k++)
			s[k] += p[i + (size_t)k];
	return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static uint64_t read_avx512(const uint64_t *p, size_t n)
{
	__m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
	size_t i;

	for (i = 0; i + 32 <= n; i += 32) {
		_mm_prefetch((const char *)(p + i + 512), _MM_HINT_T0);    /* past the end they do nothing */
		_mm_prefetch((const char *)(p + i + 520), _MM_HINT_T0);
		_mm_prefetch((const char *)(p + i + 528), _MM_HINT_T0);
		_mm_prefetch((const char *)(p + i + 536), _MM_HINT_T0);
		a = _mm512_add_epi64(a, _mm512_loadu_si512(p + i));
		b = _mm512_add_epi64(b, _mm512_loadu_si512(p + i + 8));
		c = _mm512_add_epi64(c, _mm512_loadu_si512(p + i + 16));
		d = _mm512_add_epi64(d, _mm512_loadu_si512(p + i + 24));
	}
	return (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d)));
}

/* Sums of their own hide the latency of any core so far: 16, or with fewer registers eight or twelve; by names, for the
 * compiler keeps an array in memory.  Each step is made each time. */
#define EIGHT(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define SUMS(DO) EIGHT(DO) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define EACH(s) __asm__ volatile("" : "+v"(s));
#define ZERO512(k) __m512i s##k = _mm512_setzero_si512();
#define STEP512(k) s##k = _mm512_dpbusd_epi32(s##k, x, x); EACH(s##k)
#define ADD512(k) all = _mm512_add_epi32(all, s##k);

__attribute__((target("avx512f,avx512vnni"))) static uint64_t integers_avx512(void)
{
	const __m512i x = _mm512_set1_epi8(1);
	__m512i all = _mm512_setzero_si512();
	unsigned i;

	SUMS(ZERO512)
	for (i = 0; i < ROUNDS; i++) {
		SUMS(STEP512)
	}
	SUMS(ADD512)
	return (uint64_t)_mm512_reduce_add_epi32(all);
}

__attribute__((target("avx2"))) static uint64_t read_avx2(const uint64_t *p, size_t n)
{
	__m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
	uint64_t sum[4];
	size_t i;

	for (i = 0; i + 16 <= n; i += 16) {
		_mm_prefetch((const char *)(p + i + 512), _MM_HINT_T0);
		_mm_prefetch((const char *)(p + i + 520), _MM_HINT_T0);
		a = _mm256_add_epi64(a, _mm256_loadu_si256((const void *)(p + i)));
		b = _mm256_add_epi64(b, _mm256_loadu_si256((const void *)(p + i + 4)));
		c = _mm256_add_epi64(c, _mm256_loadu_si256((const void *)(p + i + 8)));
		d = _mm256_add_epi64(d, _mm256_loadu_si256((const void *)(p + i + 12)));
	}
	_mm256_storeu_si256((void *)sum, _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d)));
	return sum[0] + sum[1] + sum[2] + sum[3];
}

#define ZERO256(k) __m256i s##k = _mm256_setzero_si256();
#define STEP256(k) y = _mm256_maddubs_epi16(x, x); EACH(y) s##k = _mm256_add_epi16(s##k, y);
#define ADD256(k) all = _mm256_add_epi16(all, s##k);

/* Two products and their sum in one instruction, which saturates, and an addition: no use does with less. */
__attribute__((target("avx2"))) static uint64_t integers_avx2(void)
{
	const __m256i x = _mm256_set1_epi8(1);
	__m256i y, all = _mm256_setzero_si256();
	unsigned i;

	EIGHT(ZERO256)
	for (i = 0; i < ROUNDS; i++) {
		EIGHT(STEP256)
		EIGHT(STEP256)
	}
	EIGHT(ADD256)
	return (uint64_t)_mm256_extract_epi16(all, 0);
}

#define TWELVE(DO) EIGHT(DO) DO(8) DO(9) DO(10) DO(11)
#define STEPVNNI(k) s##k = _mm256_dpbusd_avx_epi32(s##k, x, x); EACH(s##k)

__attribute__((target("avx2,avxvnni"))) static uint64_t integers_avxvnni(void)
{
	const __m256i x = _mm256_set1_epi8(1);
	__m256i all = _mm256_setzero_si256();
	unsigned i;

	TWELVE(ZERO256)
	for (i = 0; i < ROUNDS; i += 3) {
		TWELVE(STEPVNNI)
		TWELVE(STEPVNNI)
		TWELVE(STEPVNNI)
		TWELVE(STEPVNNI)
	}
	TWELVE(ADD256)
	return (uint64_t)_mm256_extract_epi16(all, 0);
}
#endif

#if defined(__x86_64__)
static bool has_vnni(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"); }
static bool has_avx512(void) { return __builtin_cpu_supports("avx512f"); }
static bool has_avxvnni(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avxvnni"); }
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#endif
static bool always(void) { return true; }

/* Best first. */
static const struct kind {
	bool (*here)(void);
	uint64_t (*read)(const uint64_t *p, size_t n);
	uint64_t (*count)(void);       /* ROUNDS times 16 products of n_lane; NULL: there is none */
	unsigned n_lane;
} kinds[] = {
#if defined(__x86_64__)
	{ has_vnni, read_avx512, integers_avx512, 64 },
	{ has_avx512, read_avx512, integers_avx2, 32 },
	{ has_avxvnni, read_avx2, integers_avxvnni, 32 },
	{ has_avx2, read_avx2, integers_avx2, 32 },
#endif
	{ always, read_plain, NULL, 0 },
};

static const struct kind *kind(void)
{
	const struct kind *k = kinds;

	while (!k->here())
		k++;
	return k;
}

/* New threads share a processor for a while, where the system sees to that only now and then. */
static void part_begin(struct part *p)
{
	cpu_set_t all, own;
	unsigned n = p->index;
	int cpu;

	CPU_ZERO(&own);
	sched_getaffinity(0, sizeof all, &all);
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && n-- == 0)
			CPU_SET(cpu, &own);
	if (CPU_COUNT(&own) == 1)
		sched_setaffinity(0, sizeof own, &own);
	pthread_barrier_wait(p->start);
	p->begin = now();
}

static void *part_read(void *arg)
{
	struct part *p = arg;

	part_begin(p);
	p->sum = kind()->read(p->data, p->n);
	p->end = now();
	return NULL;
}

static void *part_count(void *arg)
{
	struct part *p = arg;
	size_t i;

	part_begin(p);
	for (i = 0; i < p->n; i++)
		p->sum += kind()->count();
	p->end = now();
	return NULL;
}

/* Seconds from the first's begin to the last's end. */
static double together(struct part *parts, unsigned n, void *(*run)(void *))
{
	pthread_barrier_t start;
	double begin = 1e300, end = 0;
	unsigned i;

	pthread_barrier_init(&start, NULL, n);
	for (i = 0; i < n; i++) {
		parts[i].start = &start;
		parts[i].index = i;
		if (pthread_create(&parts[i].thread, NULL, run, &parts[i])) {
			fprintf(stderr, "probe: no thread\n");
			exit(1);
		}
	}
	for (i = 0; i < n; i++) {
		pthread_join(parts[i].thread, NULL);
		begin = parts[i].begin < begin ? parts[i].begin : begin;
		end = parts[i].end > end ? parts[i].end : end;
	}
	pthread_barrier_destroy(&start);
	return end - begin;
}

/* The best of the passes, of amount each, within that time. */
static double best(struct part *parts, unsigned n, void *(*run)(void *), double amount, double seconds)
{
	const double begin = now();
	double most = 0;

	do {
		const double each = amount / together(parts, n, run);

		most = each > most ? each : most;
	} while (now() - begin < seconds);
	return most;
}

static double reading(const uint64_t *data, size_t n_byte, unsigned n, double seconds)
{
	struct part parts[THREADS_MOST] = { { 0 } };
	const size_t words = n_byte / 8 / n / 32 * 32;
	unsigned i;

	for (i = 0; i < n; i++) {
		parts[i].data = data + i * words;
		parts[i].n = words;
	}
	return best(parts, n, part_read, 8.0 * (double)words * n, seconds);
}

static double counting(unsigned n, double seconds)
{
	struct part parts[THREADS_MOST] = { { 0 } };
	unsigned i;

	for (i = 0; i < n; i++)
		parts[i].n = 512;
	return best(parts, n, part_count, 2.0 * kind()->n_lane * 16 * ROUNDS * 512 * n, seconds);
}

static double seconds_of(const char *text)
{
	char *end;
	const double s = strtod(text, &end);

	if (end == text || *end || !(s > 0 && s <= 3600))
		give_up("SECONDS", "not a number over 0, to 3600");
	return s;
}

int main(int argc, char **argv)
{
	const size_t n_byte = (size_t)(argc > 1 ? number("MEGABYTES", argv[1]) : 512) << 20;
	const double seconds = argc > 2 ? seconds_of(argv[2]) : 0.5;
	const long cores = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t *data = aligned_alloc(1 << 21, n_byte);
	unsigned n;

	if (!data)
		give_up("MEGABYTES", "there is not so much memory");
	madvise(data, n_byte, MADV_HUGEPAGE);
	memset(data, 1, n_byte);
	printf("{\"bytes\": %zu, \"read_bytes_per_second\": {", n_byte);
	for (n = 1; n <= 2; n++)
		printf("%s\"%u\": %.0f", n > 1 ? ", " : "", n, reading(data, n_byte, n, seconds));
	printf("}, \"int8_operations_per_second\": {");
	for (n = 1; n <= 2; n++) {
		printf("%s\"%u\": ", n > 1 ? ", " : "", n);
		if (kind()->count)
			printf("%.0f", counting(n, seconds));
		else
			printf("null");
	}
	printf("}, \"cores\": %ld}\n", cores);
	free(data);
	return 0;
}
