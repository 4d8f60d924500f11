/*
 * The scanner against msgpack-c's packer and unpacker, and against a naive walk of
 * our own: every type at every split, 100,000 random and mutated messages, and the
 * attacks that it is there for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <msgpack.h>

#include "proto/frame.h"
#include "proto/scan.h"

#define CAP PROTO_MESSAGE_MAX

/* Feeds p[n] in pieces of at most `step` bytes; *used over all of them. */
static enum scan_result scan_all(const void *p, size_t n, size_t step, size_t cap, size_t *used)
{
	enum scan_result rc = SCAN_MORE;
	struct scan s;
	size_t at = 0, take, u;

	scan_reset(&s, cap);
	while (at < n && rc == SCAN_MORE) {
		take = n - at < step ? n - at : step;
		rc = scan_feed(&s, (const char *)p + at, take, &u);
		assert_true(u <= take);
		if (rc == SCAN_MORE)
			assert_int_equal(u, take);
		at += u;
	}
	*used = at;
	return rc;
}

/* ---- every type of the packer, at every split ---- */

static void pack_blob(msgpack_packer *pk, int kind, size_t n)
{
	char *blob = calloc(1, n + 1);

	if (kind == 0) {
		msgpack_pack_str(pk, n);
		msgpack_pack_str_body(pk, blob, n);
	} else if (kind == 1) {
		msgpack_pack_bin(pk, n);
		msgpack_pack_bin_body(pk, blob, n);
	} else {
		msgpack_pack_ext(pk, n, 5);
		msgpack_pack_ext_body(pk, blob, n);
	}
	free(blob);
}

static const uint64_t numbers[] = { 0, 1, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, 1ull << 32, UINT64_MAX };
static const size_t sizes[] = { 0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 255, 256, 65535, 65536 };

/* The i-th sample value; false: there are no more. */
static bool pack_sample(msgpack_packer *pk, size_t i)
{
	size_t n_number = sizeof numbers / sizeof *numbers, n_size = sizeof sizes / sizeof *sizes, k;

	if (i < n_number)
		return msgpack_pack_uint64(pk, numbers[i]), true;
	i -= n_number;
	if (i < n_number)
		return msgpack_pack_int64(pk, -(int64_t)(numbers[i] >> 1)), true;
	i -= n_number;
	if (i < 3 * n_size)
		return pack_blob(pk, (int)(i % 3), sizes[i / 3]), true;
	i -= 3 * n_size;
	if (i < 2 * n_size) {
		k = sizes[i / 2];
		if (i % 2)
			msgpack_pack_map(pk, k);
		else
			msgpack_pack_array(pk, k);
		for (k *= 1 + i % 2; k > 0; k--)
			msgpack_pack_nil(pk);
		return true;
	}
	i -= 2 * n_size;
	switch (i) {
	case 0: return msgpack_pack_true(pk), true;
	case 1: return msgpack_pack_false(pk), true;
	case 2: return msgpack_pack_float(pk, 1.5f), true;
	case 3: return msgpack_pack_double(pk, 1.5), true;
	case 4: return msgpack_pack_nil(pk), true;
	}
	return false;
}

static void test_types(void **state)
{
	msgpack_sbuffer buf;
	msgpack_packer pk;
	size_t i, used, step, n = 0;

	(void)state;
	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
	for (i = 0; pack_sample(&pk, i); i++, n++) {
		size_t size = buf.size, cap = size > CAP ? size : CAP;

		msgpack_pack_nil(&pk);         /* bytes of the next message */
		for (step = 1; step <= buf.size; step += step < 20 ? 1 : step) {
			assert_int_equal(scan_all(buf.data, buf.size, step, cap, &used), SCAN_DONE);
			assert_int_equal(used, size);
		}
		/* exactly the cap is taken, a byte less is not */
		assert_int_equal(scan_all(buf.data, size, 7, size, &used), SCAN_DONE);
		assert_int_equal(scan_all(buf.data, size, 7, size - 1, &used), SCAN_TOO_LARGE);
		if (size > 1)
			assert_int_equal(scan_all(buf.data, size - 1, size, cap, &used), SCAN_MORE);
		msgpack_sbuffer_clear(&buf);
	}
	assert_true(n > 100);
	msgpack_sbuffer_destroy(&buf);
}

static void test_every_split(void **state)
{
	msgpack_sbuffer buf;
	msgpack_packer pk;
	struct scan s;
	size_t split, used;

	(void)state;
	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
	frame_pack_request(&pk, 70000, "session.append");
	msgpack_pack_map(&pk, 3);
	frame_pack_str(&pk, "session");
	frame_pack_str(&pk, "a");
	frame_pack_str(&pk, "text");
	pack_blob(&pk, 1, 300);
	frame_pack_str(&pk, "tokens");
	msgpack_pack_array(&pk, 2);
	msgpack_pack_int(&pk, 100000);
	msgpack_pack_array(&pk, 0);
	for (split = 1; split < buf.size; split++) {
		scan_reset(&s, CAP);
		assert_int_equal(scan_feed(&s, buf.data, split, &used), SCAN_MORE);
		assert_int_equal(used, split);
		assert_int_equal(scan_feed(&s, buf.data, 0, &used), SCAN_MORE);
		assert_int_equal(scan_feed(&s, buf.data + split, buf.size - split, &used), SCAN_DONE);
		assert_int_equal(used, buf.size - split);
	}
	msgpack_sbuffer_destroy(&buf);
}

/* ---- depth ---- */

static void test_depth(void **state)
{
	unsigned char p[64];
	size_t used;

	(void)state;
	memset(p, 0x91, sizeof p);             /* lists of one */
	p[PROTO_DEPTH_MAX] = 0xc0;
	assert_int_equal(scan_all(p, PROTO_DEPTH_MAX + 1, 1, CAP, &used), SCAN_DONE);
	p[PROTO_DEPTH_MAX] = 0x91;
	assert_int_equal(scan_all(p, sizeof p, 64, CAP, &used), SCAN_TOO_DEEP);
	assert_int_equal(used, PROTO_DEPTH_MAX + 1);
	/* an empty one is as deep; siblings are not */
	p[PROTO_DEPTH_MAX] = 0x80;
	assert_int_equal(scan_all(p, PROTO_DEPTH_MAX + 1, 1, CAP, &used), SCAN_TOO_DEEP);
	memset(p, 0x90, sizeof p);
	p[0] = 0x9f;
	assert_int_equal(scan_all(p, 16, 3, CAP, &used), SCAN_DONE);
}

/* ---- the attacks: refused at the header, before a content that never comes ---- */

static const struct attack { const char *bytes; size_t n, used; enum scan_result want; } attacks[] = {
	{ "\xdd\x01\xff\xff\xff", 5, 5, SCAN_TOO_LARGE },      /* 512 MiB of objects from five bytes */
	{ "\xdd\xff\xff\xff\xff", 5, 5, SCAN_TOO_LARGE },
	{ "\xdf\xff\xff\xff\xff", 5, 5, SCAN_TOO_LARGE },
	{ "\xdf\x00\x08\x00\x00", 5, 5, SCAN_TOO_LARGE },      /* 2^19 pairs: 2^20 bytes at least, and these 5 */
	{ "\xdb\xff\xff\xff\xff", 5, 5, SCAN_TOO_LARGE },
	{ "\xdb\x00\x0f\xff\xfc", 5, 5, SCAN_TOO_LARGE },      /* a byte over */
	{ "\xdb\x00\x0f\xff\xfb", 5, 5, SCAN_MORE },           /* just fits */
	{ "\xc6\xff\xff\xff\xff", 5, 5, SCAN_TOO_LARGE },
	{ "\xc9\xff\xff\xff\xff\x01", 6, 5, SCAN_TOO_LARGE },
	{ "\xc9\x00\x0f\xff\xfb\x01", 6, 5, SCAN_TOO_LARGE },  /* its type is a byte more */
	{ "\x92\xdd\x00\x0f\xff\xfa\xc0", 7, 6, SCAN_TOO_LARGE },      /* and the second of two */
	{ "\x92\xdd\x00\x0f\xff\xf9\xc0", 7, 7, SCAN_MORE },
	{ "\xc1", 1, 1, SCAN_BAD },
	{ "\x92\xc0\xc1\xc0", 4, 3, SCAN_BAD },
	/* a list of as many bytes as may follow: an element of five is too much at once */
	{ "\xdd\x00\x0f\xff\xfb\xdd\x00\x00\x00\x00", 10, 6, SCAN_TOO_LARGE },
	{ "\xdd\x00\x08\x00\x00\xdd\x00\x08\x00\x00", 10, 10, SCAN_TOO_LARGE },    /* two halves */
};

static void test_attacks(void **state)
{
	const size_t n_attack = sizeof attacks / sizeof *attacks;
	unsigned char nested[45];
	size_t i, step, used;

	(void)state;
	for (i = 0; i < n_attack; i++)
		for (step = 1; step < 8; step++) {
			assert_int_equal(scan_all(attacks[i].bytes, attacks[i].n, step, CAP, &used), attacks[i].want);
			assert_int_equal(used, attacks[i].used);
		}
	for (i = 0; i < sizeof nested; i += 5)         /* 4.6 GiB of objects from 45 bytes */
		memcpy(nested + i, "\xdd\x01\xff\xff\xff", 5);
	assert_int_equal(scan_all(nested, sizeof nested, 9, CAP, &used), SCAN_TOO_LARGE);
	assert_int_equal(used, 5);
	for (i = 0; i < sizeof nested; i += 3)         /* with sizes that fit: too deep */
		memcpy(nested + i, "\xdc\x7f\xff", 3);
	assert_int_equal(scan_all(nested, sizeof nested, 9, CAP, &used), SCAN_TOO_DEEP);
}

/* ---- random messages against a naive walk ---- */

static uint64_t seed = 20241124;

static uint32_t random_below(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)((seed >> 33) % n);
}

static uint64_t big_endian(const unsigned char *p, size_t n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

/* Walks one value of p[n], depth containers deep: its verdict with no cap.  *at moves. */
static enum scan_result naive(const unsigned char *p, size_t n, size_t *at, int depth)
{
	static const signed char fixed[32] = {  /* payload of 0xc0 .. 0xdf, -1: has a size */
		0, -2, 0, 0, -1, -1, -1, -1, -1, -1, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17, -1, -1, -1, -1, -1, -1, -1,
	};
	static const unsigned char width[32] = { [4] = 1, 2, 4, 1, 2, 4, [25] = 1, 2, 4, 2, 4, 2, 4 };
	enum scan_result rc;
	uint64_t i, size = 0, values = 0;
	unsigned char b;

	if (*at == n)
		return SCAN_MORE;
	b = p[(*at)++];
	if (b >= 0x80 && b < 0x90)
		values = 2 * (b & 15u);
	else if (b >= 0x90 && b < 0xa0)
		values = b & 15u;
	else if (b >= 0xa0 && b < 0xc0)
		size = b & 31u;
	else if (b >= 0xc0 && b < 0xe0 && fixed[b - 0xc0] >= 0)
		size = (uint64_t)fixed[b - 0xc0];
	else if (b == 0xc1)
		return SCAN_BAD;
	else if (b >= 0xc0 && b < 0xe0) {
		if (n - *at < width[b - 0xc0])
			return SCAN_MORE;
		size = big_endian(p + *at, width[b - 0xc0]);
		*at += width[b - 0xc0];
		if (b >= 0xc7 && b <= 0xc9)
			size++;
		if (b >= 0xdc)
			values = size * (b >= 0xde ? 2 : 1), size = 0;
	}
	if (((b >= 0x80 && b < 0xa0) || (b >= 0xdc && b < 0xe0)) && depth == PROTO_DEPTH_MAX)
		return SCAN_TOO_DEEP;
	if (n - *at < size)
		return SCAN_MORE;
	*at += size;
	for (i = 0; i < values; i++)
		if ((rc = naive(p, n, at, depth + 1)) != SCAN_DONE)
			return rc;
	return SCAN_DONE;
}

static void pack_random(msgpack_packer *pk, int depth)
{
	uint32_t n = random_below(4), i;

	switch (random_below(depth > 6 ? 5 : 8)) {
	case 0: msgpack_pack_uint64(pk, numbers[random_below(11)]); break;
	case 1: msgpack_pack_int64(pk, -(int64_t)random_below(70000)); break;
	case 2: msgpack_pack_double(pk, random_below(1000) / 7.0); break;
	case 3: pack_blob(pk, (int)random_below(3), sizes[random_below(14)]); break;
	case 4: msgpack_pack_nil(pk); break;
	case 5:
	case 6:
		msgpack_pack_array(pk, n);
		for (i = 0; i < n; i++)
			pack_random(pk, depth + 1);
		break;
	case 7:
		msgpack_pack_map(pk, n);
		for (i = 0; i < 2 * n; i++)
			pack_random(pk, depth + 1);
		break;
	}
}

/* A frame, a value, or noise; then perhaps with bytes changed, cut out, or cut off. */
static void message_make(msgpack_sbuffer *buf)
{
	static const unsigned char headers[] = { 0x91, 0x92, 0x81, 0x93, 0xdc, 0xde, 0x00, 0x01, 0xd9, 0xc0, 0xc1 };
	msgpack_packer pk;
	uint32_t i, n;

	msgpack_sbuffer_clear(buf);
	msgpack_packer_init(&pk, buf, msgpack_sbuffer_write);
	switch (random_below(5)) {
	case 0:
	case 4:
		n = 1 + random_below(40);
		for (i = 0; i < n; i++) {
			char b = (char)(n % 2 ? random_below(256) : headers[random_below(11) * random_below(11) / 11]);

			msgpack_sbuffer_write(buf, &b, 1);
		}
		break;
	case 1:
		pack_random(&pk, 0);
		break;
	default:
		frame_pack_request(&pk, random_below(100), "session.append");
		pack_random(&pk, 2);
	}
	for (i = random_below(4); i > 0 && buf->size > 0; i--)
		buf->data[random_below((uint32_t)buf->size)] = (char)random_below(256);
	if (random_below(8) == 0 && buf->size > 1)
		buf->size -= random_below((uint32_t)buf->size);
}

/* What the scanner takes, msgpack-c takes, and at the same length. */
static void unpacks(const msgpack_sbuffer *buf, size_t used)
{
	msgpack_unpacked msg;
	struct frame f;
	char why[128];
	size_t off = 0;

	msgpack_unpacked_init(&msg);
	assert_int_equal(msgpack_unpack_next(&msg, buf->data, used, &off), MSGPACK_UNPACK_SUCCESS);
	assert_int_equal(off, used);
	msgpack_unpacked_destroy(&msg);
	if (frame_parse(&f, buf->data, used, why, sizeof why))
		assert_true(*why);
	frame_close(&f);
}

static void test_random(void **state)
{
	unsigned i, n_done = 0, n_bad = 0, n_deep = 0, n_more = 0, n_large = 0;
	msgpack_sbuffer buf;

	(void)state;
	msgpack_sbuffer_init(&buf);
	for (i = 0; i < 100000; i++) {
		size_t at = 0, used, cap = 1 + random_below(400), step;
		enum scan_result want, got;

		message_make(&buf);
		if (buf.size == 0)
			continue;
		step = 1 + random_below((uint32_t)buf.size);
		want = naive((const unsigned char *)buf.data, buf.size, &at, 0);
		got = scan_all(buf.data, buf.size, step, SIZE_MAX / 2, &used);
		assert_int_equal(got, want);
		if (want == SCAN_DONE) {
			assert_int_equal(used, at);
			unpacks(&buf, used);
		}
		n_done += got == SCAN_DONE, n_bad += got == SCAN_BAD, n_deep += got == SCAN_TOO_DEEP;
		n_more += got == SCAN_MORE;
		/* the cap changes a verdict to too large, and nothing else */
		got = scan_all(buf.data, buf.size, step, cap, &used);
		assert_true(used <= cap + 5);
		if (want == SCAN_DONE && at > cap)
			assert_int_equal(got, SCAN_TOO_LARGE);
		else if (want == SCAN_DONE)
			assert_int_equal(got, SCAN_DONE);
		else
			assert_true(got == want || got == SCAN_TOO_LARGE);
		n_large += got == SCAN_TOO_LARGE;
	}
	print_message("done %u bad %u deep %u more %u large %u\n", n_done, n_bad, n_deep, n_more, n_large);
	/* all verdicts were seen, often */
	assert_true(n_done > 10000 && n_bad > 100 && n_deep > 1000 && n_more > 10000 && n_large > 5000);
	msgpack_sbuffer_destroy(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_types),
		cmocka_unit_test(test_every_split),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_attacks),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
