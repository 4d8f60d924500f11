/*
 * Fuzz target: bytes as a peer sends them, through the scanner and into frames.
 * The first byte says in what pieces they come.
 *
 *   clang -g -fsanitize=fuzzer,address,undefined -I. tests/fuzz/scan.c proto/{scan,frame,errors}.c -lmsgpackc
 *
 * `make check` replays the corpus with tests/fuzz/replay.c.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void message_take(const uint8_t *p, size_t n)
{
	msgpack_unpacked msg;
	struct frame f;
	char why[64] = "";
	size_t off = 0;

	msgpack_unpacked_init(&msg);
	if (msgpack_unpack_next(&msg, (const char *)p, n, &off) != MSGPACK_UNPACK_SUCCESS || off != n)
		abort();                       /* the scanner took what msgpack-c does not */
	msgpack_unpacked_destroy(&msg);
	if (frame_parse(&f, p, n, why, sizeof why) && !*why)
		abort();
	frame_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	size_t step, begin = 1, at = 1, used;
	enum scan_result rc;
	struct scan s;

	if (n < 2)
		return 0;
	step = data[0] ? data[0] : n;
	scan_reset(&s, 4096);
	while (at < n) {
		rc = scan_feed(&s, data + at, n - at < step ? n - at : step, &used);
		at += used;
		if (at - begin > 4096 + 5)
			abort();               /* over the cap */
		if (rc == SCAN_MORE)
			continue;
		if (rc != SCAN_DONE)
			break;
		message_take(data + begin, at - begin);
		begin = at;
		scan_reset(&s, 4096);
	}
	return 0;
}
