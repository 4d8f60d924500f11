/* UTF-8, and events as a client reads them; the chain; rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/utf8.h"
#include "daemon/session/event.h"
#include "daemon/session/row.h"

/* ---- UTF-8 ---- */

/* Plainly by code points: the definition, not the table. */
static size_t encode(char *p, uint32_t c)
{
	if (c < 0x80)
		return p[0] = (char)c, 1;
	if (c < 0x800)
		return p[0] = (char)(0xc0 | c >> 6), p[1] = (char)(0x80 | (c & 63)), 2;
	if (c < 0x10000)
		return p[0] = (char)(0xe0 | c >> 12), p[1] = (char)(0x80 | (c >> 6 & 63)),
		       p[2] = (char)(0x80 | (c & 63)), 3;
	return p[0] = (char)(0xf0 | c >> 18), p[1] = (char)(0x80 | (c >> 12 & 63)),
	       p[2] = (char)(0x80 | (c >> 6 & 63)), p[3] = (char)(0x80 | (c & 63)), 4;
}

/* Every code point but surrogates is valid, its prefixes are cut, and every other
 * sequence of up to three bytes is not. */
static void test_utf8_all(void **state)
{
	static unsigned char good[1 << 24];    /* by the first three bytes of a sequence, padded */
	char s[8];
	uint32_t c, i;
	size_t n, k;

	(void)state;
	for (c = 0; c < 0x110000; c++) {
		if (c >= 0xd800 && c < 0xe000)
			continue;
		n = encode(s, c);
		assert_true(utf8_is_valid(s, n));
		assert_int_equal(utf8_complete_prefix(s, n), n);
		for (k = 1; k < n; k++) {
			assert_false(utf8_is_valid(s, k));
			assert_int_equal(utf8_complete_prefix(s, k), 0);
		}
		if (n <= 3) {
			i = (uint32_t)(unsigned char)s[0] << 16 | (n > 1 ? (uint32_t)(unsigned char)s[1] << 8 : 0) |
			    (n > 2 ? (uint32_t)(unsigned char)s[2] : 0);
			good[i] |= (unsigned char)(1u << n);
		}
	}
	for (i = 0; i < 1 << 24; i++) {        /* one whole character of three bytes, or not */
		bool valid;

		s[0] = (char)(i >> 16);
		s[1] = (char)(i >> 8);
		s[2] = (char)i;
		n = utf8_step(s, 3, &valid, NULL);
		assert_true(n >= 1 && n <= 3);
		if (valid && n == 3)
			assert_true(good[i] & 1u << 3);
		else
			assert_false(good[i] & 1u << 3);
	}
}

static void scrubs_to(const char *in, size_t n, const char *want)
{
	size_t n_out;
	char *out = utf8_scrub(in, n, &n_out);

	assert_string_equal(out, want);
	assert_int_equal(n_out, strlen(want));
	assert_true(utf8_is_valid(out, n_out));
	free(out);
}
#define FF "\xef\xbf\xbd"

/* Unicode's own examples of maximal subparts (tables 3-8 to 3-11). */
static void test_utf8_scrub(void **state)
{
	(void)state;
	scrubs_to("", 0, "");
	scrubs_to("abc", 3, "abc");
	scrubs_to("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", 9, FF FF FF FF FF FF FF FF "A");
	scrubs_to("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", 9, FF FF FF FF FF FF FF FF "A");
	scrubs_to("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", 9, FF FF FF FF FF "A" FF FF "B");
	scrubs_to("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 9, FF FF FF FF "A");
	scrubs_to("x\xe2\x82", 3, "x" FF);
}

static void test_utf8_prefix(void **state)
{
	(void)state;
	assert_int_equal(utf8_complete_prefix("", 0), 0);
	assert_int_equal(utf8_complete_prefix("ab\xf0\x9f\x98", 5), 2);
	assert_int_equal(utf8_complete_prefix("ab\xf0\x9f\x98\x80", 6), 6);
	assert_int_equal(utf8_complete_prefix("ab\xff", 3), 3);        /* nobody's start */
	assert_int_equal(utf8_complete_prefix("ab\xe2\x28", 4), 4);
	assert_int_equal(utf8_complete_prefix("\x80\x80\x80\x80", 4), 4);
	assert_int_equal(utf8_complete_prefix("\xed\xa0", 2), 2);      /* a surrogate: never whole */
	assert_int_equal(utf8_complete_prefix("\xc3", 1), 0);
}

/* ---- events ---- */

static struct event example(void)
{
	struct event e = {
		.session = 3, .seq = 5, .time = 1700000000000, .kind = EVENT_TEXT, .role = ROLE_USER,
		.reason = 0, .order = 9, .position = 100, .n_prompt = 7, .n_generated = 8,
		.window_start = 50, .forgotten = 46, .state = "loading", .progress = 0.5,
	};
	static const int32_t ids[] = { 1, -2, 3 };

	ids_append(&e.ids, ids, 3);
	e.text = strdup("text");
	e.n_text = 4;
	return e;
}

static uint64_t uint_of(const struct value *v, const char *key)
{
	const struct value *x = value_get(v, key);

	assert_non_null(x);
	assert_int_equal(x->kind, VALUE_UINT);
	return x->u;
}

static const char *str_of(const struct value *v, const char *key)
{
	const struct value *x = value_get(v, key);

	assert_non_null(x);
	assert_int_equal(x->kind, VALUE_STR);
	return x->s.data;
}

static void test_value(void **state)
{
	struct event e = example();
	struct value *v = event_value(&e, "name");

	(void)state;
	assert_string_equal(str_of(v, "session"), "name");
	assert_int_equal(uint_of(v, "seq"), 5);
	assert_int_equal(value_get(v, "time")->i, 1700000000000);
	assert_string_equal(str_of(v, "kind"), "text");
	assert_int_equal(uint_of(v, "position"), 100);
	assert_int_equal(uint_of(v, "request"), 9);
	assert_string_equal(str_of(v, "role"), "user");
	assert_string_equal(str_of(v, "text"), "text");
	assert_null(value_get(v, "bytes"));
	assert_int_equal(uint_of(v, "tokens"), 3);
	assert_int_equal(uint_of(v, "window_start"), 50);
	assert_int_equal(uint_of(v, "forgotten"), 46);
	assert_null(value_get(v, "state"));
	value_free(v);

	memcpy(e.text, "a\xff\0b", 4);         /* not UTF-8, and a NUL */
	v = event_value(&e, "name");
	assert_int_equal(value_get(v, "text")->s.n, 6);
	assert_memory_equal(str_of(v, "text"), "a" FF "\0b", 6);
	assert_int_equal(value_get(v, "bytes")->kind, VALUE_BIN);
	assert_int_equal(value_get(v, "bytes")->s.n, 4);
	assert_memory_equal(value_get(v, "bytes")->s.data, "a\xff\0b", 4);
	assert_true(event_cost(&e) >= 6 + 4 + 100);
	value_free(v);

	e.kind = EVENT_TURN;
	e.role = ROLE_ASSISTANT;
	e.order = 0;
	v = event_value(&e, "name");
	assert_string_equal(str_of(v, "state"), "begin");
	assert_string_equal(str_of(v, "role"), "assistant");
	assert_null(value_get(v, "reason"));
	assert_null(value_get(v, "request"));
	value_free(v);
	e.reason = TURN_LENGTH;
	v = event_value(&e, "name");
	assert_string_equal(str_of(v, "state"), "end");
	assert_string_equal(str_of(v, "reason"), "length");
	assert_int_equal(uint_of(v, "prompt_tokens"), 7);
	assert_int_equal(uint_of(v, "generated_tokens"), 8);
	value_free(v);
	e.kind = EVENT_STATE;
	v = event_value(&e, "name");
	assert_string_equal(str_of(v, "state"), "loading");
	assert_true(value_get(v, "progress")->d == 0.5);
	value_free(v);
	e.kind = EVENT_EVICTED;
	v = event_value(&e, "name");
	assert_string_equal(str_of(v, "kind"), "evicted");
	assert_null(value_get(v, "text"));
	value_free(v);
	e.kind = EVENT_APPLIED;
	v = event_value(&e, "name");
	assert_string_equal(str_of(v, "kind"), "applied");
	assert_null(value_get(v, "tokens"));
	value_free(v);
	event_clear(&e);
}

/* Every field that is stored changes the chain; what is not, does not.  The value
 * itself is on disk for ever. */
static void test_chain(void **state)
{
	struct event e = example(), c;
	uint64_t first = event_chain(1, &e), chains[24];
	size_t n = 0, i, k;

	(void)state;
	assert_true(first == UINT64_C(0xdc8474e9de2f490c));
	assert_int_equal(event_copy(&c, &e), 0);
	assert_true(event_chain(1, &c) == first);
	chains[n++] = first;
	chains[n++] = event_chain(2, &e);
#define WITH(change) do { struct event x = c; change; chains[n++] = event_chain(1, &x); } while (0)
	WITH(x.session++);
	WITH(x.seq++);
	WITH(x.time++);
	WITH(x.kind++);
	WITH(x.role++);
	WITH(x.reason++);
	WITH(x.order++);
	WITH(x.position++);
	WITH(x.n_prompt++);
	WITH(x.n_generated++);
	WITH(x.window_start++);
	WITH(x.ids.n--);
	WITH(x.n_text--);
	WITH(x.ids.n = 0);
	WITH(x.n_text = 0);
	c.text[3] ^= 1;
	WITH((void)x);
	c.text[3] ^= 1;
	c.ids.data[2] ^= 1;
	WITH((void)x);
	c.ids.data[2] ^= 1;
	for (i = 0; i < n; i++)
		for (k = 0; k < i; k++)
			assert_true(chains[i] != chains[k]);
	c.forgotten++;
	c.state = NULL;
	c.progress++;
	assert_true(event_chain(1, &c) == first);
	event_clear(&c);
	event_clear(&e);
	event_clear(NULL);
}

static void test_settings(void **state)
{
	struct settings a, b, zero;
	unsigned bit;

	(void)state;
	memset(&zero, 0, sizeof zero);
	memset(&b, 0, sizeof b);
	b.sampling = (struct sampling){ 1, 2, 3, 4, 5, 6 };
	b.stops.n = 1;
	b.stops.at[0].n = 1;
	b.max_tokens = 7;
	for (bit = 0; bit < 17; bit++) {
		memset(&a, 0, sizeof a);
		settings_merge(&a, &b, 1u << bit);
		/* Exactly one thing, or none where the bit is no setting's. */
		assert_int_equal((a.sampling.temperature != 0) + (a.sampling.top_k != 0) + (a.sampling.top_p != 0) +
		                 (a.sampling.min_p != 0) + (a.sampling.repeat_penalty != 0) +
		                 (a.sampling.seed != 0) + (a.stops.n != 0) + (a.max_tokens != 0), bit < 8);
	}
	memset(&a, 0, sizeof a);
	settings_merge(&a, &b, ~0u);
	assert_memory_equal(&a, &b, sizeof a);
	settings_merge(&a, &zero, 0);
	assert_memory_equal(&a, &b, sizeof a);
	order_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_utf8_all), cmocka_unit_test(test_utf8_scrub), cmocka_unit_test(test_utf8_prefix),
		cmocka_unit_test(test_value), cmocka_unit_test(test_chain), cmocka_unit_test(test_settings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
