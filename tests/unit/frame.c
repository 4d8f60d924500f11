/*
 * Framing and the tables: parts of messages, what is not one, errors as str and map.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "proto/errors.h"
#include "proto/frame.h"
#include "proto/methods.h"

#define BYTES(s) s, sizeof s - 1

static const struct { const char *p; size_t n; int rc; enum frame_kind kind; bool has_id; const char *why; } rows[] = {
	{ BYTES("\x94\x00\x07\xa5hello\x91\x80"), 0, FRAME_REQUEST, true, "" },
	{ BYTES("\x94\x00\x07\xa5hello\x90"), 0, FRAME_REQUEST, true, "" },
	{ BYTES("\x94\x00\x07\xa5hello\x91\xc0"), 0, FRAME_REQUEST, true, "" },
	{ BYTES("\x94\x00\x07\xa5hello\x91\x90"), 0, FRAME_REQUEST, true, "" },
	{ BYTES("\x93\x02\xa5hello\x91\x80"), 0, FRAME_NOTIFICATION, false, "" },
	{ BYTES("\x94\x01\x07\xc0\x80"), 0, FRAME_RESPONSE, false, "" },
	{ BYTES("\x94\x00\x07\xa5hello\x92\x80\x80"), 1, FRAME_REQUEST, true, "2 parameters" },
	{ BYTES("\x94\x00\x07\xa5hello\x91\x01"), 1, FRAME_REQUEST, true, "must be a map" },
	{ BYTES("\x94\x00\x07\xa5hello\x91\x91\xc0"), 1, FRAME_REQUEST, true, "must be a map" },
	{ BYTES("\x94\x00\x07\xa5hello\x80"), 1, FRAME_REQUEST, true, "must be a list" },
	{ BYTES("\x94\x00\x07\xa5hello\x91\x81\x01\x02"), 1, FRAME_REQUEST, true, "must be strings" },
	{ BYTES("\x94\x00\x07\xc4\x01x\x91\x80"), 1, FRAME_REQUEST, true, "must be a string" },
	{ BYTES("\x94\x00\xff\xa1x\x91\x80"), 1, FRAME_REQUEST, false, "id" },
	{ BYTES("\x94\x00\xcf\0\0\0\1\0\0\0\0\xa1x\x91\x80"), 1, FRAME_REQUEST, false, "id" },
	{ BYTES("\x93\x00\x07\xa5hello"), 1, FRAME_REQUEST, false, "list of 3" },
	{ BYTES("\x94\x03\x07\xa5hello\x90"), 1, FRAME_REQUEST, false, "0, 1 or 2" },
	{ BYTES("\x94\xc0\x07\xa5hello\x90"), 1, FRAME_REQUEST, false, "0, 1 or 2" },
	{ BYTES("\x90"), 1, FRAME_REQUEST, false, "must be a list" },
	{ BYTES("\x01"), 1, FRAME_REQUEST, false, "must be a list" },
	{ BYTES("\x01\x01"), 1, FRAME_REQUEST, false, "one whole" },
	{ BYTES("\x94\x00"), 1, FRAME_REQUEST, false, "one whole" },
};

static void test_parse(void **state)
{
	struct frame f;
	char why[128];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof rows / sizeof *rows; i++) {
		*why = 0;
		assert_int_equal(frame_parse(&f, rows[i].p, rows[i].n, why, sizeof why), rows[i].rc);
		assert_non_null(strstr(why, rows[i].why));
		assert_int_equal(f.has_id, rows[i].has_id);
		if (rows[i].has_id)
			assert_int_equal(f.id, 7);
		if (rows[i].rc == 0) {
			assert_int_equal(f.kind, rows[i].kind);
			if (f.kind != FRAME_RESPONSE) {
				assert_int_equal(f.n_method, 5);
				assert_memory_equal(f.method, "hello", 5);
				assert_true(f.params.type == MSGPACK_OBJECT_NIL || f.params.type == MSGPACK_OBJECT_MAP);
			}
		}
		frame_close(&f);
		frame_close(&f);
	}
}

static void test_get(void **state)
{
	struct frame f;
	char why[128];
	const char p[] = "\x94\x00\x07\xa1x\x91\x83\xa1k\x05\xa2kk\x06\xc4\x01z\x07";
	const msgpack_object *o;

	(void)state;
	/* a bin is not a key */
	assert_int_equal(frame_parse(&f, p, sizeof p - 1, why, sizeof why), 1);
	frame_close(&f);
	assert_int_equal(frame_parse(&f, BYTES("\x94\x00\x07\xa1x\x91\x82\xa1k\x05\xa2kk\x06"), why, sizeof why), 0);
	o = frame_get(&f.params, "kk");
	assert_non_null(o);
	assert_int_equal(o->via.u64, 6);
	assert_null(frame_get(&f.params, "kkk"));
	assert_null(frame_get(NULL, "k"));
	assert_null(frame_get(o, "k"));
	frame_close(&f);
}

static void test_errors(void **state)
{
	msgpack_sbuffer buf;
	msgpack_packer pk;
	struct frame f;
	char why[128];
	const msgpack_object *code;

	(void)state;
	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
	frame_pack_error(&pk, 9, false, "no_session", "no session b");
	assert_int_equal(frame_parse(&f, buf.data, buf.size, why, sizeof why), 0);
	assert_int_equal(f.id, 9);
	assert_int_equal(f.error.type, MSGPACK_OBJECT_STR);
	assert_int_equal(f.error.via.str.size, 24);
	assert_memory_equal(f.error.via.str.ptr, "no_session: no session b", 24);
	assert_int_equal(f.result.type, MSGPACK_OBJECT_NIL);
	frame_close(&f);
	msgpack_sbuffer_clear(&buf);
	frame_pack_error(&pk, 9, true, "no_session", "no session b");
	assert_int_equal(frame_parse(&f, buf.data, buf.size, why, sizeof why), 0);
	code = frame_get(&f.error, "code");
	assert_non_null(code);
	assert_int_equal(code->via.u64, PROTO_NO_SESSION);
	frame_close(&f);
	msgpack_sbuffer_destroy(&buf);
}

/* Names and codes are there once; what is needed is taken. */
static void test_tables(void **state)
{
	const struct proto_error_row *e, *d;
	const struct proto_method *m;
	size_t i, k;

	(void)state;
	for (i = 0; (e = proto_error_at(i)); i++) {
		assert_ptr_equal(proto_error_find(e->name), e);
		for (k = 0; k < i && (d = proto_error_at(k)); k++)
			assert_int_not_equal(d->code, e->code);
	}
	assert_null(proto_error_find("nonsense"));
	for (i = 0; (m = proto_method_at(i)); i++) {
		assert_ptr_equal(proto_method_find(m->name, strlen(m->name)), m);
		assert_int_equal(m->needs & ~m->takes, 0);
	}
	assert_int_equal(i, 24);
	assert_null(proto_method_find("session.creat", 13));
	assert_null(proto_method_find("session.create", 13));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_get),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
