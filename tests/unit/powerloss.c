/* The store over power cuts: a disk in memory drops what was not synced, at random
 * moments of a random workload; then everything that was acknowledged is there,
 * once, and verifies.  The disk is used on after each cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/fakedisk.h"
#include "tests/unit/store-desk.h"

enum { N_DISK = 25, N_CUT = 8, N_SESSION = 3, N_KEY = 400, N_BATCH = 24 };
#define SEED 20240229
#define MARK "mark-of-a-session-that-was-deleted"

/* What the test knows was acknowledged. */
struct known {
	struct session_row row;        /* as the engine would have it: with what is not durable */
	uint64_t durable;              /* entries acknowledged as on disk */
	uint64_t checkpoint;           /* n_seq of the last acknowledged one, 0: none */
	uint64_t order[N_KEY];         /* id of an acknowledged order, by key */
	uint64_t progress[N_KEY];      /* n_seq at the last acknowledged durable progress */
	bool done[N_KEY], tried[N_KEY];
	uint32_t n_key;
};

static struct desk desk;
static struct known sessions[N_SESSION];
static unsigned n_ack, n_lost_entries, n_cut_open, n_checkpoint_seen;

static void key_of(char *key, size_t session, uint32_t k)
{
	snprintf(key, 32, "key %zu.%u", session, k);
}

/* Of this thread; the disk has its own, which the store's thread throws. */
static uint64_t dice(uint64_t n)
{
	static uint64_t state = SEED + 1;
	uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % n;
}

static void must_open(int rc)
{
	if (rc != 0)
		fail_msg("%d %s: %s", rc, desk.why.name, desk.why.text);
	assert_false(store_read_only(desk.store, NULL));
}

/* ---- the workload ---- */

static struct store_job *job_order(size_t s, uint32_t k)
{
	struct known *n = &sessions[s];
	struct store_job *j = store_job_new(STORE_ORDER_PUT, n->row.id);
	char key[32];

	key_of(key, s, k);
	j->order = make_order(n->row.id, key, "the payload of an order, some bytes long");
	j->from = k;
	n->tried[k] = true;
	return j;
}

static struct store_job *job_log(size_t s, bool durable)
{
	struct known *n = &sessions[s];
	struct store_job *j = make_log(&n->row, 1 + dice(4));
	uint32_t k;

	j->durable = durable;
	for (k = 0; k < n->n_key; k++)
		if (n->order[k] != 0 && !n->done[k] && dice(3) == 0) {
			j->order_id = n->order[k];
			j->progress.stage = dice(4) == 0 ? 2 : 1;
			j->progress.offset = j->progress.seq = n->row.n_seq;
			n->done[k] = j->progress.stage == 2;   /* the next one is for others */
			j->from = k;
			break;
		}
	return j;
}

static struct store_job *job_checkpoint(size_t s)
{
	struct known *n = &sessions[s];
	struct store_job *j = store_job_new(STORE_CHECKPOINT_PUT, n->row.id);
	struct checkpoint *c = calloc(1, sizeof *c);
	size_t i;

	snprintf(c->layout, sizeof c->layout, "test");
	c->start = c->n_computed = n->row.n_seq;       /* here: entries */
	c->n_kv = 500 + dice(9000);
	c->kv = malloc(c->n_kv);
	for (i = 0; i < c->n_kv; i++)
		((unsigned char *)c->kv)[i] = (unsigned char)(n->row.n_seq + i);
	j->checkpoint = c;
	return j;
}

static struct store_job *job_any(void)
{
	size_t s = dice(N_SESSION);
	struct known *n = &sessions[s];
	struct store_job *j;

	switch (dice(8)) {
	case 0: case 1:
		if (n->n_key < N_KEY) {
			j = job_order(s, n->n_key++);
			break;
		}
		/* fall through */
	case 2: case 3: case 4:
		j = job_log(s, false);
		break;
	case 5:
		j = job_log(s, true);
		break;
	case 6:
		j = job_checkpoint(s);
		break;
	default:
		j = store_job_new(STORE_SYNC, 0);
	}
	j->limit = s;
	return j;
}

static void acknowledged(const struct store_job *j)
{
	struct known *n = &sessions[j->limit];
	size_t s;

	if (j->rc != 0)
		return;
	n_ack++;
	if (j->op == STORE_ORDER_PUT)
		n->order[j->from] = j->order->id;
	if (j->op == STORE_LOG && j->durable) {
		n->durable = j->row.n_seq;
		if (j->order_id != 0)
			n->progress[j->from] = j->progress.offset;
	}
	if (j->op == STORE_CHECKPOINT_PUT) {
		n->checkpoint = j->checkpoint->n_computed;
		if (n->durable < n->checkpoint)
			n->durable = n->checkpoint;
	}
	if (j->op == STORE_SYNC)               /* everything before it */
		for (s = 0; s < N_SESSION; s++)
			if (sessions[s].durable < j->events[s].seq)
				sessions[s].durable = j->events[s].seq;
}

/* Posts batches until the power goes. */
static void work(void)
{
	bool failed = false;
	size_t i, s, n;

	while (!failed) {
		n = 1 + dice(N_BATCH);
		for (i = 0; i < n; i++) {
			struct store_job *j = job_any();

			if (j->op == STORE_SYNC) {     /* what had been posted before it */
				j->events = calloc(N_SESSION, sizeof *j->events);
				j->n_event = N_SESSION;
				for (s = 0; s < N_SESSION; s++)
					j->events[s].seq = sessions[s].row.n_seq;
			}
			desk_post(&desk, j);
		}
		for (i = 0; i < n; i++) {
			struct store_job *j = desk_wait(&desk);

			failed |= j->rc != 0;
			/* A sync after a refused job says nothing about that job. */
			if (!failed)
				acknowledged(j);
			store_job_free(j);
		}
	}
	assert_true(fakedisk_is_cut());
}

/* ---- after the power is back ---- */

static int collect(void *ctx, const struct store_session *v)
{
	size_t *n = ctx, s;

	assert_string_equal(v->bad, "");
	for (s = 0; s < N_SESSION; s++)
		if (sessions[s].row.id == v->row.id) {
			n_lost_entries += (unsigned)(sessions[s].row.n_seq - v->row.n_seq);
			assert_true(v->row.n_seq >= sessions[s].durable);
			assert_true(v->row.n_seq <= sessions[s].row.n_seq);
			sessions[s].row = v->row;
			++*n;
		}
	return 0;
}

/* The whole log, against what was posted; chains[seq] of each entry. */
static uint64_t *check_log(struct known *n)
{
	struct store_job *j = store_job_new(STORE_READ, n->row.id);
	struct session_row r = { .id = n->row.id };
	uint64_t *chains = calloc(n->row.n_seq + 1, sizeof *chains);
	struct event e;
	char text[64];
	size_t i;

	j->limit = UINT64_MAX;
	j->limit_bytes = UINT64_MAX;
	assert_int_equal(desk_ask(&desk, j), 0);
	assert_int_equal(j->n_event, n->row.n_seq);
	assert_int_equal(j->durable_seq, n->row.n_seq);
	for (i = 0; i < j->n_event; i++) {
		snprintf(text, sizeof text, "entry %zu ", i + 1);
		make_event(&e, &r, (i + 1) % 4, text);
		chains[i + 1] = event_chain(chains[i], &j->events[i]);
		assert_true(chains[i + 1] == event_chain(chains[i], &e));
		event_clear(&e);
	}
	assert_true(n->row.chain == chains[n->row.n_seq]);
	assert_int_equal(n->row.n_token, r.n_token);
	store_job_free(j);
	return chains;
}

/* Every acknowledged order is there once: by its key, and in the queue in order. */
static void check_orders(size_t s)
{
	struct known *n = &sessions[s];
	struct store_job *j;
	uint64_t last = 0;
	uint32_t k, open = 0;

	for (k = 0; k < n->n_key; k++) {
		int rc;

		if (!n->tried[k])
			continue;
		j = job_order(s, k);
		rc = desk_ask(&desk, j);
		assert_true(rc == 0 || rc == STORE_REPEATED);
		if (n->order[k] != 0) {
			assert_int_equal(rc, STORE_REPEATED);
			assert_int_equal(j->order->id, n->order[k]);
		}
		n->order[k] = j->order->id;
		if (rc == STORE_REPEATED) {
			assert_true(j->order->progress.offset >= n->progress[k]);
			assert_true(j->order->progress.offset <= n->row.n_seq);        /* of one transaction */
			n->progress[k] = j->order->progress.offset;
		}
		n->done[k] = rc == STORE_REPEATED && j->order->progress.stage == 2;
		open += !n->done[k];
		store_job_free(j);
	}
	for (;; open--) {
		j = store_job_new(STORE_ORDER_NEXT, n->row.id);
		j->from = last;
		assert_int_equal(desk_ask(&desk, j), 0);
		if (j->order == NULL)
			break;
		assert_true(j->order->id > last);
		last = j->order->id;
		store_job_free(j);
	}
	assert_int_equal(open, 0);
	store_job_free(j);
}

/* A checkpoint is whole, as new as acknowledged, and never ahead of the log. */
static void check_checkpoint(struct known *n)
{
	struct store_job *j = store_job_new(STORE_CHECKPOINT_GET, n->row.id);
	struct checkpoint *c;
	size_t i;
	int rc = desk_ask(&desk, j);

	if (rc == STORE_NONE) {
		assert_int_equal(n->checkpoint, 0);
		store_job_free(j);
		return;
	}
	assert_int_equal(rc, 0);
	n_checkpoint_seen++;
	c = j->checkpoint;
	assert_true(c->n_computed >= n->checkpoint);
	assert_true(c->n_computed <= n->row.n_seq);
	n->checkpoint = c->n_computed;
	for (i = 0; i < c->n_kv; i++)
		assert_int_equal(((unsigned char *)c->kv)[i], (unsigned char)(c->n_computed + i));
	store_job_free(j);
}

static void check_all(void)
{
	size_t n = 0, s;

	assert_int_equal(store_each(desk.store, collect, &n), 0);
	assert_int_equal(n, N_SESSION);
	assert_int_equal(mailbox_open(&desk.box), 0);
	assert_int_equal(store_start(desk.store), 0);
	for (s = 0; s < N_SESSION; s++) {
		sessions[s].durable = sessions[s].row.n_seq;
		free(check_log(&sessions[s]));
		check_orders(s);
		check_checkpoint(&sessions[s]);
	}
}

/* Opening may be cut as well, again and again. */
static void power_on(void)
{
	fakedisk_power_on((enum lost)dice(N_LOST));
	while (dice(3) == 0) {
		fakedisk_cut_after(dice(12));
		if (desk_open_only(&desk) == 0)
			store_close(desk.store);       /* which may be cut */
		n_cut_open += fakedisk_is_cut();
		fakedisk_power_on((enum lost)dice(N_LOST));
	}
	must_open(desk_open_only(&desk));
}

static void new_disk(void)
{
	char name[8];
	size_t s;

	fakedisk_clear();
	memset(sessions, 0, sizeof sessions);
	must_open(desk_open(&desk));
	for (s = 0; s < N_SESSION; s++) {
		snprintf(name, sizeof name, "s%zu", s);
		assert_int_not_equal(desk_session(&desk, &sessions[s].row, name), 0);
	}
}

static void test_cuts(void **state)
{
	unsigned i, k;

	(void)state;
	for (i = 0; i < N_DISK; i++) {
		new_disk();
		for (k = 0; k < N_CUT; k++) {
			fakedisk_cut_after(dice(dice(2) ? 40 : 600));
			work();
			desk_close(&desk);
			power_on();
			check_all();
		}
		desk_close(&desk);
	}
	printf("# %u cuts, %u more while opening; %u jobs acknowledged; %u entries that were not durable lost; "
	       "%u checkpoints read\n", N_DISK * N_CUT, n_cut_open, n_ack, n_lost_entries, n_checkpoint_seen);
	/* The test has teeth only if things were lost, and if they were kept. */
	assert_true(n_ack > 5000 && n_lost_entries > 100 && n_checkpoint_seen > 100 && n_cut_open > 10);
}

/* The first start of all, cut at every operation: afterwards it starts. */
static void test_first_start(void **state)
{
	struct session_row r;
	uint64_t at;
	int mode, done = 0;

	(void)state;
	for (mode = 0; mode < N_LOST; mode++)
		for (at = 0, done = 0; !done; at++) {
			fakedisk_clear();
			fakedisk_cut_after(at);
			if (desk_open(&desk) == 0) {
				done = desk_session(&desk, &r, "s") != 0 && !fakedisk_is_cut();
				desk_close(&desk);
			}
			fakedisk_power_on((enum lost)mode);
			must_open(desk_open(&desk));
			if (done)                      /* it was acknowledged */
				assert_int_equal(desk_session(&desk, &r, "s"), 0);
			desk_close(&desk);
			assert_true(at < 500);
		}
}

/* A deletion cut at every operation: the session is whole or gone; acknowledged,
 * it is gone and its text with it. */
static void test_delete(void **state)
{
	struct session_row r, other;
	struct store_job *j;
	uint64_t at;
	int rc = REFUSED;

	(void)state;
	for (at = 0; rc != 0; at++) {
		fakedisk_clear();
		must_open(desk_open(&desk));
		desk_session(&desk, &other, "other");
		desk_session(&desk, &r, "s");
		j = store_job_new(STORE_LOG, r.id);
		j->events = calloc(1, sizeof *j->events);
		j->n_event = 1;
		make_event(&j->events[0], &r, 3, MARK);
		j->row = r;
		j->durable = true;
		assert_int_equal(desk_ask(&desk, j), 0);
		store_job_free(j);
		fakedisk_cut_after(at);
		j = store_job_new(STORE_SESSION_DELETE, r.id);
		rc = desk_ask(&desk, j);
		store_job_free(j);
		if (rc == 0 && !fakedisk_is_cut())
			assert_false(fakedisk_contains(MARK, sizeof MARK - 1));
		desk_close(&desk);
		fakedisk_power_on((enum lost)(at % N_LOST));
		must_open(desk_open(&desk));
		j = store_job_new(STORE_READ, r.id);
		if (desk_ask(&desk, j) == 0) {
			assert_int_not_equal(rc, 0);
			assert_int_equal(j->n_event, 1);
		} else {
			assert_string_equal(j->why.name, "no_session");
		}
		store_job_free(j);
		desk_close(&desk);
		assert_true(at < 500);
	}
	assert_true(at > 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_start), cmocka_unit_test(test_delete), cmocka_unit_test(test_cuts),
	};
	int rc;

	fakedisk_install(SEED);
	desk_dir(&desk);
	desk.vfs = "fakedisk";
	desk.disk = &fakedisk;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	fakedisk_clear();
	desk_remove(&desk);
	return rc;
}
