/*
 * libsink over a socket pair of the test's own: answers in any order, a peer that
 * does not read, notifications beyond the bound, a peer that leaves.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <pthread.h>
#include <cmocka.h>

#include "proto/errors.h"
#include "proto/frame.h"
#include "proto/libsink.h"

static char dir[] = "/tmp/libsink.XXXXXX";
static char path[64];
static int listener;

struct pair { struct sink *s; int fd; };       /* the client's side, and ours */

static int setup(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/sock", dir);
	strcpy(addr.sun_path, path);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	return bind(listener, (struct sockaddr *)&addr, sizeof addr) || listen(listener, 4);
}

static int teardown(void **state)
{
	(void)state;
	close(listener);
	unlink(path);
	return rmdir(dir);
}

static struct pair pair_open(void)
{
	struct pair p;
	struct sink_error e;

	assert_int_equal(sink_open(&p.s, path, &e), 0);
	p.fd = accept(listener, NULL, NULL);
	assert_true(p.fd >= 0);
	assert_string_equal(sink_path(p.s), path);
	return p;
}

static void pair_close(struct pair *p)
{
	close(p->fd);
	sink_close(p->s);
}

static uint32_t send_request(struct pair *p)
{
	struct sink_error e;
	uint32_t id;

	msgpack_pack_map(sink_begin(p->s, "server.info"), 0);
	assert_int_equal(sink_send(p->s, &id, &e), 0);
	return id;
}

static void write_all(int fd, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t got = write(fd, data, n);

		assert_true(got > 0);
		data += got;
		n -= (size_t)got;
	}
}

static void answer_number(int fd, uint32_t id, uint64_t number)
{
	msgpack_sbuffer buf;
	msgpack_packer pk;

	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
	frame_pack_result(&pk, id);
	msgpack_pack_uint64(&pk, number);
	write_all(fd, buf.data, buf.size);
	msgpack_sbuffer_destroy(&buf);
}

static void notify(int fd, const char *session, uint64_t seq, size_t n_text)
{
	char *text = calloc(1, n_text + 1);
	msgpack_sbuffer buf;
	msgpack_packer pk;

	memset(text, 'x', n_text);
	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
	frame_pack_notification(&pk, "session.event");
	msgpack_pack_map(&pk, 3);
	frame_pack_str(&pk, "session");
	frame_pack_str(&pk, session);
	frame_pack_str(&pk, "seq");
	msgpack_pack_uint64(&pk, seq);
	frame_pack_str(&pk, "text");
	frame_pack_str(&pk, text);
	write_all(fd, buf.data, buf.size);
	msgpack_sbuffer_destroy(&buf);
	free(text);
}

static uint64_t number_of(struct pair *p, uint32_t id)
{
	struct sink_answer a;
	struct sink_error e;
	uint64_t n;

	assert_int_equal(sink_wait(p->s, id, &a, &e), 0);
	n = a.result.via.u64;
	sink_answer_free(&a);
	sink_answer_free(&a);
	return n;
}

static void test_any_order(void **state)
{
	struct pair p = pair_open();
	struct sink_answer a;
	struct sink_error e;
	uint32_t id[4];
	int i;

	(void)state;
	for (i = 0; i < 4; i++)
		id[i] = send_request(&p);
	for (i = 3; i >= 0; i--)
		answer_number(p.fd, id[i], 100 + (uint64_t)i);
	notify(p.fd, "a", 1, 5);
	for (i = 0; i < 4; i++)
		assert_int_equal(number_of(&p, id[i]), 100 + i);
	assert_int_equal(sink_wait_ms(p.s, id[0], 20, &a, &e), SINK_TIMEOUT);  /* once only */
	assert_int_equal(sink_next(p.s, 1000, &a, &e), 0);
	assert_int_equal(frame_get(&a.result, "seq")->via.u64, 1);
	sink_answer_free(&a);
	assert_int_equal(sink_next(p.s, 20, &a, &e), SINK_TIMEOUT);
	sink_answer_free(&a);
	pair_close(&p);
}

/* Our side writes more than a socket holds before it reads a byte. */
static void *stubborn(void *arg)
{
	struct pair *p = arg;
	char buf[65536];
	int i;

	for (i = 1; i <= 40; i++)
		notify(p->fd, "a", (uint64_t)i, 50000);
	while (read(p->fd, buf, sizeof buf) > 0)
		;
	return NULL;
}

static void test_both_send(void **state)
{
	struct pair p = pair_open();
	struct sink_answer a;
	struct sink_error e;
	msgpack_packer *pk;
	pthread_t thread;
	uint32_t id, i;
	char *text = calloc(1, 900000);

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, stubborn, &p), 0);
	pk = sink_begin(p.s, "session.append");
	msgpack_pack_map(pk, 1);
	frame_pack_str(pk, "text");
	msgpack_pack_bin(pk, 900000);
	msgpack_pack_bin_body(pk, text, 900000);
	assert_int_equal(sink_send(p.s, &id, &e), 0);
	for (i = 1; i <= 40; i++) {
		assert_int_equal(sink_next(p.s, 5000, &a, &e), 0);
		assert_int_equal(frame_get(&a.result, "seq")->via.u64, i);
		sink_answer_free(&a);
	}
	shutdown(sink_fd(p.s), SHUT_WR);
	pthread_join(thread, NULL);
	free(text);
	pair_close(&p);
}

static void *flood(void *arg)
{
	struct pair *p = arg;
	int i;

	for (i = 1; i <= 100; i++) {           /* 10 MB, twice what is kept */
		notify(p->fd, "a", (uint64_t)i, 100000);
		notify(p->fd, "b", (uint64_t)i, 10);
	}
	answer_number(p->fd, 1, 5);
	return NULL;
}

/* What is kept is the beginning; then a lagged for each session says where to go on. */
static void test_bounded(void **state)
{
	struct pair p = pair_open();
	struct sink_answer ans;
	struct sink_error e;
	uint64_t next[2] = { 1, 1 }, lagged[2] = { 0, 0 }, seq;
	const msgpack_object *kind;
	pthread_t thread;
	int which;

	(void)state;
	assert_int_equal(send_request(&p), 1);
	assert_int_equal(pthread_create(&thread, NULL, flood, &p), 0);
	assert_int_equal(number_of(&p, 1), 5);
	pthread_join(thread, NULL);
	assert_true(sink_pending(p.s));
	while (sink_next(p.s, 50, &ans, &e) == 0) {
		which = *frame_get(&ans.result, "session")->via.str.ptr - 'a';
		seq = frame_get(&ans.result, "seq")->via.u64;
		kind = frame_get(&ans.result, "kind");
		if (kind) {
			assert_int_equal(seq, 0);
			assert_int_equal(lagged[which], 0);
			lagged[which] = frame_get(&ans.result, "next")->via.u64;
			assert_int_equal(lagged[which], next[which]);
		} else {
			assert_int_equal(lagged[which], 0);
			assert_int_equal(seq, next[which]++);
		}
		sink_answer_free(&ans);
	}
	assert_false(sink_pending(p.s));
	assert_true(lagged[0] > 30 && lagged[0] < 50);
	assert_true(lagged[1] > 30 && lagged[1] < 50);
	notify(p.fd, "a", 101, 5);             /* and it goes on */
	assert_int_equal(sink_next(p.s, 1000, &ans, &e), 0);
	assert_int_equal(frame_get(&ans.result, "seq")->via.u64, 101);
	sink_answer_free(&ans);
	pair_close(&p);
}

static const struct { const char *message, *name, *text; int code; bool map; } refusals[] = {
	{ "no_session: no session a", "no_session", "no session a", PROTO_NO_SESSION, false },
	{ "no_session: no session a", "no_session", "no session a", PROTO_NO_SESSION, true },
	{ "made_up: x: y", "made_up", "x: y", 0, false },
	{ "without a name", "internal", "without a name", 0, false },
	{ "", "internal", "", 0, false },
	{ ":", "internal", ":", 0, false },
};

static void test_refusals(void **state)
{
	struct pair p = pair_open();
	msgpack_sbuffer buf;
	msgpack_packer pk;
	struct sink_answer a;
	struct sink_error e;
	uint32_t id;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof refusals / sizeof *refusals; i++) {
		id = send_request(&p);
		msgpack_sbuffer_init(&buf);
		msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
		if (refusals[i].map) {
			frame_pack_error(&pk, id, true, refusals[i].name, refusals[i].text);
		} else {
			msgpack_pack_array(&pk, 4);
			msgpack_pack_int(&pk, 1);
			msgpack_pack_uint32(&pk, id);
			frame_pack_str(&pk, refusals[i].message);
			msgpack_pack_nil(&pk);
		}
		write_all(p.fd, buf.data, buf.size);
		msgpack_sbuffer_destroy(&buf);
		assert_int_equal(sink_wait(p.s, id, &a, &e), SINK_REFUSED);
		assert_string_equal(e.name, refusals[i].name);
		assert_string_equal(e.message, refusals[i].text);
		assert_int_equal(e.code, refusals[i].code);
		sink_answer_free(&a);
	}
	pair_close(&p);
}

static void test_gone(void **state)
{
	struct pair p = pair_open();
	struct sink_answer a;
	struct sink_error e;
	struct sink *s;
	uint32_t id;

	(void)state;
	id = send_request(&p);
	write_all(p.fd, "\x94\x01", 2);        /* in the middle of an answer */
	close(p.fd);
	assert_int_equal(sink_wait(p.s, id, &a, &e), SINK_GONE);
	sink_answer_free(&a);
	msgpack_pack_map(sink_begin(p.s, "x"), 0);
	assert_int_equal(sink_call(p.s, &a, &e), SINK_GONE);   /* no SIGPIPE */
	sink_close(p.s);

	assert_int_equal(sink_open(&s, "/nonexistent/sock", &e), SINK_GONE);
	assert_null(s);
	assert_int_equal(e.code, ENOENT);
	assert_int_equal(sink_open(&s, "/0123456789012345678901234567890123456789012345678901234567890123456789"
	                           "0123456789012345678901234567890123456789/sock", &e), SINK_GONE);
	assert_int_equal(e.code, ENAMETOOLONG);
	sink_close(NULL);
}

static void test_where(void **state)
{
	struct sink_error e;
	struct sink *s;

	(void)state;
	setenv("SINKD_SOCKET", path, 1);
	assert_int_equal(sink_open(&s, NULL, &e), 0);
	assert_string_equal(sink_path(s), path);
	sink_close(s);
	close(accept(listener, NULL, NULL));
	assert_int_equal(sink_open(&s, "/nonexistent/sock", &e), SINK_GONE);   /* a path goes before it */
	setenv("SINKD_SOCKET", "/nonexistent/env", 1);
	setenv("XDG_RUNTIME_DIR", "/nonexistent/run", 1);
	assert_int_equal(sink_open(&s, NULL, &e), SINK_GONE);
	assert_non_null(strstr(e.message, "/nonexistent/env"));
	unsetenv("SINKD_SOCKET");
}

/* A request that the daemon does not read goes on where it was given up. */
static void test_send_in_parts(void **state)
{
	static char text[900000], buf[65536];
	struct pair p = pair_open();
	struct sink_error e;
	msgpack_packer *pk;
	size_t n_in = 0;
	ssize_t n;
	uint32_t id;
	int rc;

	(void)state;
	pk = sink_begin(p.s, "session.append");
	msgpack_pack_map(pk, 1);
	frame_pack_str(pk, "text");
	msgpack_pack_bin(pk, sizeof text);
	msgpack_pack_bin_body(pk, text, sizeof text);
	while ((rc = sink_send_ms(p.s, 1, &id, &e)) == SINK_TIMEOUT) {
		n = read(p.fd, buf, sizeof buf);
		assert_true(n > 0);
		n_in += (size_t)n;
	}
	assert_int_equal(rc, 0);
	assert_true(n_in > 0);                 /* it was given up at least once */
	assert_int_equal(send_request(&p), id + 1);
	sink_close(p.s);
	while ((n = read(p.fd, buf, sizeof buf)) > 0)
		n_in += (size_t)n;
	assert_true(n_in > sizeof text + 40 && n_in < sizeof text + 100);      /* nothing twice */
	close(p.fd);
}

static void test_nobody_accepts(void **state)
{
	struct sink *waiting[64];
	struct sink_error e;
	int i, rc = 0, n = 0;

	(void)state;
	while (n < 64 && (rc = sink_open_now(&waiting[n], path, &e)) == 0)
		n++;
	assert_int_equal(rc, SINK_TIMEOUT);
	assert_true(n > 0);
	for (i = 0; i < n; i++) {
		close(accept(listener, NULL, NULL));
		sink_close(waiting[i]);
	}
	assert_int_equal(sink_open_now(&waiting[0], path, &e), 0);
	close(accept(listener, NULL, NULL));
	sink_close(waiting[0]);
	assert_int_equal(sink_open_now(&waiting[0], "/nonexistent/sock", &e), SINK_GONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_order),
		cmocka_unit_test(test_both_send),
		cmocka_unit_test(test_bounded),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_gone),
		cmocka_unit_test(test_where),
		cmocka_unit_test(test_send_in_parts),
		cmocka_unit_test(test_nobody_accepts),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
