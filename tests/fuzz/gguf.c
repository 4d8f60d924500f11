/*
 * Fuzz target: bytes as a model file, through the reader and the plan; every view is
 * read.
 *
 *   clang -g -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. tests/fuzz/gguf.c tests/unit/gguf-make.c \
 *         daemon/model/{gguf,gguf-look,arch,plan}.c kernels/quants.c daemon/base/{error,log}.c -lxxhash -lsystemd -lm
 *
 * `make check` replays the corpus with tests/fuzz/replay.c; corpus/gguf was written
 * with tests/tools/gguf_write.py.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/model/plan.h"
#include "tests/unit/gguf-make.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void key_touch(const struct gguf *g, const char *name)
{
	volatile uint64_t sum = 0;
	struct gguf_array a;
	struct gguf_str s;
	uint64_t u, i;
	size_t cursor = 0;

	if (gguf_string(g, name, &s) && s.n)
		sum += (uint8_t)s.data[0] + (uint8_t)s.data[s.n - 1];
	if (!gguf_array(g, name, &a))
		return;
	for (i = 0; i < a.n; i++) {
		if (gguf_array_u64(&a, i, &u))
			sum += u;
		if (gguf_array_next(&a, &cursor, &s) && s.n)
			sum += (uint8_t)s.data[s.n - 1];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct reason why = { "", "" };
	struct gguf *g = NULL;
	struct gguf_str key;
	struct plan p = { 0 };
	char value[64], name[128];
	size_t i;
	int rc = make_open(&g, data, n, &why);

	if (rc && (rc != REFUSED || !why.text[0]))
		abort();
	if (rc)
		return 0;
	for (i = 0; gguf_key_at(g, i, &key, value, sizeof value); i++) {
		gguf_print(key, name, sizeof name);
		key_touch(g, name);
	}
	gguf_fingerprint(g);
	if (plan_make(&p, g, &why) == REFUSED && !why.text[0])
		abort();
	plan_free(&p);
	gguf_close(g);
	return 0;
}
