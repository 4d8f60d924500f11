/* The store and its files: checkpoints that are not what was written, nothing left of
 * what was deleted, a full disk. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/store-state.h"

/* ---- checkpoints ---- */

enum { N_KV = 3000, N_LOGITS = 101 };

static size_t n_kv = N_KV;

static struct checkpoint *make_checkpoint(void)
{
	struct checkpoint *c = calloc(1, sizeof *c);
	size_t i;

	c->fingerprint = UINT64_C(0x8877665544332211);
	snprintf(c->layout, sizeof c->layout, "cpu f16");
	c->window = (struct window){ 4, 60 };
	c->n_chunk = 64;
	c->n_computed = 1000;
	c->start = 900;
	c->chain = UINT64_MAX;
	c->n_kv = n_kv;
	c->kv = malloc(n_kv);
	dice_state = 5;
	fill(c->kv, n_kv);
	c->n_logits = N_LOGITS;
	c->logits = malloc(N_LOGITS * sizeof *c->logits);
	for (i = 0; i < N_LOGITS; i++)
		c->logits[i] = (float)i / 7;
	return c;
}

static int put_checkpoint(struct desk *d, uint64_t session)
{
	struct store_job *j = store_job_new(STORE_CHECKPOINT_PUT, session);
	int rc;

	j->checkpoint = make_checkpoint();
	rc = desk_ask(d, j);
	store_job_free(j);
	return rc;
}

static int get_checkpoint(struct desk *d, uint64_t session)
{
	struct store_job *j = store_job_new(STORE_CHECKPOINT_GET, session);
	struct checkpoint *want = make_checkpoint(), *c;
	int rc = desk_ask(d, j);

	c = j->checkpoint;
	if (rc == 0) {
		assert_true(c->fingerprint == want->fingerprint && c->n_chunk == want->n_chunk &&
		            c->n_computed == want->n_computed && c->start == want->start &&
		            c->chain == want->chain && c->window.n_sink == want->window.n_sink &&
		            c->window.n_recent == want->window.n_recent);
		assert_string_equal(c->layout, want->layout);
		assert_int_equal(c->n_kv, want->n_kv);
		assert_int_equal(c->n_logits, want->n_logits);
		assert_memory_equal(c->kv, want->kv, c->n_kv);
		assert_memory_equal(c->logits, want->logits, c->n_logits * sizeof *c->logits);
	} else {
		assert_null(c);
	}
	checkpoint_free(want);
	store_job_free(j);
	return rc;
}

static void test_checkpoint(void **state)
{
	struct desk *d = *state;
	struct store_job *j;
	struct file f;
	size_t i;

	assert_int_equal(open_all(d), 0);
	assert_int_equal(get_checkpoint(d, row_a.id), STORE_NONE);
	assert_int_equal(put_checkpoint(d, 99), REFUSED);
	assert_int_equal(put_checkpoint(d, row_a.id), 0);
	assert_int_equal(get_checkpoint(d, row_a.id), 0);
	assert_int_equal(put_checkpoint(d, row_a.id), 0);      /* again, over it */
	assert_false(exists(d, "checkpoint/1.kv.tmp"));
	desk_close(d);
	save(d, "checkpoint/1.kv.tmp", "left over", 9);
	save(d, "checkpoint/77.kv", "nobody's", 8);
	save(d, "checkpoint/README", "a person's", 10);
	assert_int_equal(open_all(d), 0);
	assert_false(exists(d, "checkpoint/1.kv.tmp"));
	assert_false(exists(d, "checkpoint/77.kv"));
	assert_true(exists(d, "checkpoint/README"));
	assert_int_equal(get_checkpoint(d, row_a.id), 0);

	f = load(d, "checkpoint/1.kv");                        /* another session's */
	save(d, "checkpoint/2.kv", f.data, f.n);
	assert_int_equal(get_checkpoint(d, row_b.id), REFUSED);
	assert_string_equal(d->why.name, "bad_checkpoint");
	for (i = 0; i < f.n; i++) {
		if (i > 160 && i % 64 != 0 && i < f.n - 8)
			continue;
		f.data[i] ^= (unsigned char)(1u << (i / 64 % 8));
		save(d, "checkpoint/1.kv", f.data, f.n);
		f.data[i] ^= (unsigned char)(1u << (i / 64 % 8));
		assert_int_equal(get_checkpoint(d, row_a.id), REFUSED);
		assert_string_equal(d->why.name, "bad_checkpoint");
	}
	free(f.data);

	assert_int_equal(put_checkpoint(d, row_a.id), 0);      /* over a damaged one */
	assert_int_equal(get_checkpoint(d, row_a.id), 0);
	j = store_job_new(STORE_CHECKPOINT_DROP, row_a.id);
	assert_int_equal(desk_ask(d, j), 0);
	assert_int_equal(desk_ask(d, j), 0);                   /* none is fine */
	store_job_free(j);
	assert_int_equal(get_checkpoint(d, row_a.id), STORE_NONE);
}

static void test_checkpoint_sizes(void **state)
{
	struct desk *d = *state;
	struct file f;
	size_t sizes[12], n = 0, i;

	assert_int_equal(open_all(d), 0);
	assert_int_equal(put_checkpoint(d, row_a.id), 0);
	f = load(d, "checkpoint/1.kv");
	sizes[n++] = 0;
	sizes[n++] = 1;
	sizes[n++] = 135;
	sizes[n++] = 136;
	sizes[n++] = 137;
	sizes[n++] = 143;
	sizes[n++] = 144;
	sizes[n++] = 136 + N_KV;
	sizes[n++] = f.n - 9;
	sizes[n++] = f.n - 8;
	sizes[n++] = f.n - 1;
	for (i = 0; i < n; i++) {
		save(d, "checkpoint/1.kv", f.data, sizes[i]);
		assert_int_equal(get_checkpoint(d, row_a.id), REFUSED);
		assert_string_equal(d->why.name, "bad_checkpoint");
	}
	f.data = realloc(f.data, f.n + 100);
	memset(f.data + f.n, 0, 100);
	save(d, "checkpoint/1.kv", f.data, f.n + 100);
	assert_int_equal(get_checkpoint(d, row_a.id), REFUSED);
	/* Sizes that would be enormous, or wrap: refused before any memory is asked for. */
	for (i = 0; i < 16; i++) {
		unsigned char kept[16];

		memcpy(kept, f.data + 56, 16);
		memset(f.data + 56 + i / 8 * 8, 0, 8);
		f.data[56 + i] = 0xff;
		save(d, "checkpoint/1.kv", f.data, f.n);
		memcpy(f.data + 56, kept, 16);
		assert_int_equal(get_checkpoint(d, row_a.id), REFUSED);
		assert_string_equal(d->why.name, "bad_checkpoint");
	}
	free(f.data);
}

/* Written in large pieces, past the system's cache where that can be: of every length
 * about a piece's and a sector's. */
static void test_checkpoint_lengths(void **state)
{
	static const size_t lengths[] = { 4096, 2u << 20, 6u << 20 };
	const size_t others = 136 + N_LOGITS * sizeof(float) + 8;      /* head, logits, sum */
	struct desk *d = *state;
	size_t i, less;

	assert_int_equal(open_all(d), 0);
	for (i = 0; i < sizeof lengths / sizeof *lengths; i++)
		for (less = 0; less < 3; less++) {
			n_kv = lengths[i] - others + 1 - less;
			assert_int_equal(put_checkpoint(d, row_a.id), 0);
			assert_int_equal(get_checkpoint(d, row_a.id), 0);
		}
	n_kv = N_KV;
}

/* ---- nothing is left ---- */

#define MARK "mark-of-a-secret-text"

static size_t count_marks(struct desk *d)
{
	char command[600];
	size_t n = 0;
	FILE *f;

	snprintf(command, sizeof command, "grep -r -a -o '" MARK "' %s | wc -l", d->dir);
	f = popen(command, "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%zu", &n), 1);
	pclose(f);
	return n;
}

static void test_delete_leaves_nothing(void **state)
{
	struct desk *d = *state;
	struct session_row r;
	struct store_job *j;
	int i;

	assert_int_equal(open_all(d), 0);
	desk_session(d, &r, "secret");
	for (i = 0; i < 50; i++) {
		char text[3000];

		memset(text, 'x', sizeof text);
		memcpy(text + dice(2000), MARK, sizeof MARK - 1);
		text[100 + dice(2800)] = '\0';
		j = store_job_new(STORE_LOG, r.id);
		j->events = calloc(1, sizeof *j->events);
		j->n_event = 1;
		make_event(&j->events[0], &r, 5, text);
		j->row = r;
		j->durable = i % 3 == 0;
		assert_int_equal(desk_ask(d, j), 0);
		store_job_free(j);
	}
	for (i = 0; i < 10; i++) {
		j = store_job_new(STORE_ORDER_PUT, r.id);
		j->order = make_order(r.id, NULL, MARK);
		assert_int_equal(desk_ask(d, j), 0);
		store_job_free(j);
	}
	j = store_job_new(STORE_CHECKPOINT_PUT, r.id);
	j->checkpoint = make_checkpoint();
	memcpy((char *)j->checkpoint->kv + 100, MARK, sizeof MARK - 1);
	assert_int_equal(desk_ask(d, j), 0);
	store_job_free(j);
	assert_true(count_marks(d) > 30);
	assert_int_equal(simple(d, STORE_SESSION_DELETE, r.id, 0), 0);
	assert_int_equal(count_marks(d), 0);
	assert_true(check_good(d, &row_a));
	desk_close(d);
	assert_int_equal(count_marks(d), 0);
}

/* ---- a full disk ---- */

static void limit_files(rlim_t most)
{
	struct rlimit r;

	getrlimit(RLIMIT_FSIZE, &r);
	r.rlim_cur = most;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

static void test_full_disk(void **state)
{
	struct desk *d = *state;
	struct session_row ahead;
	struct store_job *j, *order, *after;
	uint64_t id;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(open_all(d), 0);
	log_job(d, &row_a, 10);                /* came back, not committed */
	limit_files(1);
	ahead = row_a;
	j = make_log(&ahead, 10);
	j->durable = true;
	order = store_job_new(STORE_ORDER_PUT, row_b.id);
	order->order = make_order(row_b.id, "full", "payload");
	assert_int_equal(desk_ask(d, j), REFUSED);
	assert_string_equal(d->why.name, "disk");
	assert_int_equal(desk_ask(d, order), REFUSED);
	assert_string_equal(d->why.name, "disk");
	assert_int_equal(order->order->id, 0);
	assert_int_equal(put_checkpoint(d, row_a.id), REFUSED);
	assert_string_equal(d->why.name, "disk");
	assert_int_equal(desk_sync(d), REFUSED);
	after = make_log(&ahead, 3);           /* cannot follow what was refused */
	assert_int_equal(desk_ask(d, after), REFUSED);
	assert_string_equal(d->why.name, "disk");
	assert_int_equal(simple(d, STORE_READ, row_b.id, 1), 0);
	limit_files(RLIM_INFINITY);

	/* Space is back: the same jobs again, in order, and nothing was lost or doubled. */
	assert_int_equal(desk_ask(d, after), REFUSED);
	assert_string_equal(d->why.name, "disk");
	assert_int_equal(desk_ask(d, j), 0);
	assert_int_equal(desk_ask(d, after), 0);
	row_a = after->row;
	store_job_free(after);
	assert_int_equal(desk_ask(d, order), 0);
	id = order->order->id;
	assert_int_not_equal(id, 0);
	assert_int_equal(desk_ask(d, order), STORE_REPEATED);
	assert_int_equal(order->order->id, id);
	store_job_free(j);
	store_job_free(order);
	assert_int_equal(put_checkpoint(d, row_a.id), 0);
	assert_true(check_good(d, &row_a));
	assert_int_equal(row_a.n_seq, N_ENTRY + 23);
	desk_close(d);
	assert_int_equal(open_all(d), 0);
	assert_string_equal(found[0].bad, "");
	assert_true(check_good(d, &row_a));
	assert_int_equal(get_checkpoint(d, row_a.id), 0);
}

/* Entries that came back before a commit that failed are written by themselves. */
static void test_full_disk_alone(void **state)
{
	struct desk *d = *state;
	struct store_job *j;
	uint64_t durable = 0;
	int i;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(open_all(d), 0);
	log_job(d, &row_a, 10);
	limit_files(1);
	usleep(800000);                        /* the commit fails meanwhile */
	j = store_job_new(STORE_READ, row_a.id);
	assert_int_equal(desk_ask(d, j), 0);
	assert_int_equal(j->durable_seq, N_ENTRY);
	store_job_free(j);
	limit_files(RLIM_INFINITY);
	for (i = 0; i < 600 && durable < N_ENTRY + 10; i++) {
		usleep(50000);
		j = store_job_new(STORE_READ, row_a.id);
		assert_int_equal(desk_ask(d, j), 0);
		durable = j->durable_seq;
		store_job_free(j);
	}
	assert_int_equal(durable, N_ENTRY + 10);
	assert_true(check_good(d, &row_a));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_checkpoint), TEST(test_checkpoint_sizes), TEST(test_checkpoint_lengths),
		TEST(test_delete_leaves_nothing), TEST(test_full_disk), TEST(test_full_disk_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
