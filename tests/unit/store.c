/* The store on real SQLite: every job, keys, limits, modes, the lock, restarts. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/store-desk.h"

static int setup(void **state)
{
	struct desk *d = calloc(1, sizeof *d);

	desk_dir(d);
	*state = d;
	return desk_open(d);
}

static int teardown(void **state)
{
	struct desk *d = *state;

	desk_close(d);
	desk_remove(d);
	free(d);
	return 0;
}

static void reopen(struct desk *d)
{
	desk_close(d);
	assert_int_equal(desk_open(d), 0);
}

/* ---- sessions ---- */

struct seen {
	size_t n;
	struct store_session last;
};

static int see(void *ctx, const struct store_session *v)
{
	struct seen *s = ctx;

	s->n++;
	s->last = *v;
	return 0;
}

static void each(struct desk *d, struct seen *s)
{
	desk_close(d);
	memset(s, 0, sizeof *s);
	assert_int_equal(desk_open_only(d), 0);
	assert_int_equal(store_each(d->store, see, s), 0);
	assert_int_equal(mailbox_open(&d->box), 0);
	assert_int_equal(store_start(d->store), 0);
}

static int put_row(struct desk *d, struct session_row *r)
{
	struct store_job *j = store_job_new(STORE_SESSION_PUT, 0);
	int rc;

	j->row = *r;
	rc = desk_ask(d, j);
	*r = j->row;
	store_job_free(j);
	return rc;
}

static void test_session(void **state)
{
	struct desk *d = *state;
	struct session_row a, b, same;
	struct seen s;

	assert_int_not_equal(desk_session(d, &a, "a"), 0);
	each(d, &s);
	assert_int_equal(s.n, 1);
	assert_string_equal(s.last.bad, "");
	assert_memory_equal(&s.last.row, &a, sizeof a);        /* every field */

	make_row(&same, "a");
	assert_int_equal(put_row(d, &same), REFUSED);
	assert_string_equal(d->why.name, "session_exists");
	assert_int_equal(same.id, 0);
	same.uid++;
	assert_int_equal(put_row(d, &same), 0);                /* another user's */
	assert_true(same.id > a.id);

	assert_int_not_equal(desk_session(d, &b, "b"), 0);
	snprintf(b.name, sizeof b.name, "a");
	assert_int_equal(put_row(d, &b), REFUSED);             /* renamed onto another */
	assert_string_equal(d->why.name, "session_exists");
	snprintf(b.name, sizeof b.name, "c");
	b.settings.sampling.temperature = 0;
	b.settings.stops.n = 0;
	memset(&b.settings.stops, 0, sizeof b.settings.stops);
	same = b;
	b.chat.open++;                                         /* moves with the log alone */
	assert_int_equal(put_row(d, &b), 0);
	b.chat = same.chat;
	each(d, &s);
	assert_int_equal(s.n, 3);
	assert_memory_equal(&s.last.row, &b, sizeof b);

	b.id = 999;
	assert_int_equal(put_row(d, &b), REFUSED);
	assert_string_equal(d->why.name, "no_session");
}

static int delete(struct desk *d, uint64_t id)
{
	struct store_job *j = store_job_new(STORE_SESSION_DELETE, id);
	int rc = desk_ask(d, j);

	store_job_free(j);
	return rc;
}

/* A number is never used again, also not that of the last session. */
static void test_session_numbers(void **state)
{
	struct desk *d = *state;
	struct session_row a;
	uint64_t first = desk_session(d, &a, "a");

	assert_int_equal(delete(d, first), 0);
	assert_int_equal(delete(d, first), REFUSED);
	assert_string_equal(d->why.name, "no_session");
	reopen(d);
	assert_true(desk_session(d, &a, "a") > first);
}

/* ---- orders ---- */

static int put_order(struct desk *d, uint64_t session, const char *key, const char *payload,
                     struct order **back)
{
	struct store_job *j = store_job_new(STORE_ORDER_PUT, session);
	int rc;

	j->order = make_order(session, key, payload);
	rc = desk_ask(d, j);
	if (back != NULL) {
		*back = j->order;
		j->order = NULL;
	}
	store_job_free(j);
	return rc;
}

static struct order *next_order(struct desk *d, uint64_t session, uint64_t after)
{
	struct store_job *j = store_job_new(STORE_ORDER_NEXT, session);
	struct order *o;

	j->from = after;
	assert_int_equal(desk_ask(d, j), 0);
	o = j->order;
	j->order = NULL;
	store_job_free(j);
	return o;
}

static int finish(struct desk *d, struct session_row *r, uint64_t order)
{
	struct store_job *j = make_log(r, 1);
	int rc;

	j->order_id = order;
	j->progress = (struct order_progress){ 2, 10, 20, 30, r->n_seq };
	rc = desk_ask(d, j);
	store_job_free(j);
	return rc;
}

static void test_orders(void **state)
{
	struct desk *d = *state;
	struct session_row a;
	struct order *first, *second, *found, *repeated;
	struct store_job *j;
	struct seen s;

	desk_session(d, &a, "a");
	assert_int_equal(put_order(d, a.id, NULL, "one", &first), 0);
	assert_int_equal(put_order(d, a.id, "key", "two, longer", &second), 0);
	assert_int_equal(put_order(d, 77, NULL, "one", NULL), REFUSED);
	assert_string_equal(d->why.name, "no_session");
	assert_true(second->id > first->id);
	each(d, &s);
	assert_int_equal(s.last.n_queued, 2);
	assert_int_equal(s.last.n_queued_bytes, 3 + 11);

	found = next_order(d, a.id, 0);
	assert_non_null(found);
	assert_int_equal(found->id, first->id);
	assert_int_equal(found->n_payload, 3);
	assert_memory_equal(found->payload, "one", 3);
	assert_memory_equal(&found->settings, &first->settings, sizeof first->settings);
	assert_int_equal(found->given, first->given);
	assert_int_equal(found->kind, ORDER_SAY);
	assert_int_equal(found->role, ROLE_USER);
	order_free(found);

	/* Progress, in one transaction with an entry. */
	j = make_log(&a, 1);
	j->order_id = first->id;
	j->progress = (struct order_progress){ 1, 2, 3, UINT64_MAX, 5 };
	assert_int_equal(desk_ask(d, j), 0);
	store_job_free(j);
	reopen(d);
	found = next_order(d, a.id, 0);
	assert_int_equal(found->progress.stage, 1);
	assert_int_equal(found->progress.offset, 2);
	assert_int_equal(found->progress.n_generated, 3);
	assert_true(found->progress.answer == UINT64_MAX);
	assert_int_equal(found->progress.seq, 5);
	order_free(found);

	assert_int_equal(finish(d, &a, first->id), 0);
	found = next_order(d, a.id, 0);
	assert_int_equal(found->id, second->id);
	assert_int_equal(found->n_key, 3);
	order_free(found);
	assert_null(next_order(d, a.id, second->id));

	/* A repeated key: open, finished, after a restart; the first one's answer. */
	assert_int_equal(put_order(d, a.id, "key", "again", &repeated), STORE_REPEATED);
	assert_int_equal(repeated->id, second->id);
	assert_int_equal(repeated->progress.stage, 0);
	order_free(repeated);
	assert_int_equal(finish(d, &a, second->id), 0);
	reopen(d);
	assert_int_equal(put_order(d, a.id, "key", "again", &repeated), STORE_REPEATED);
	assert_int_equal(repeated->id, second->id);
	assert_int_equal(repeated->progress.stage, 2);
	assert_int_equal(repeated->progress.seq, a.n_seq);
	assert_int_equal(repeated->log_seq, 0);
	order_free(repeated);
	assert_null(next_order(d, a.id, 0));
	each(d, &s);
	assert_int_equal(s.last.n_queued, 0);

	/* An order that is not there, or another session's: our mistake. */
	assert_true(finish(d, &a, 12345) < 0);
	order_free(first);
	order_free(second);
}

/* The last KEYS_KEPT finished keys of a session are known, also over a restart;
 * other sessions' keys do not count. */
static void test_keys_kept(void **state)
{
	struct desk *d = *state;
	struct session_row a, b;
	struct order *o;
	char key[32];
	int i;

	desk_session(d, &a, "a");
	desk_session(d, &b, "b");
	assert_int_equal(put_order(d, b.id, "key 0", "b", &o), 0);
	assert_int_equal(finish(d, &b, o->id), 0);
	order_free(o);
	for (i = 0; i < KEYS_KEPT + 10; i++) {
		if (i == KEYS_KEPT / 2)
			reopen(d);
		snprintf(key, sizeof key, "key %d", i);
		assert_int_equal(put_order(d, a.id, key, "x", &o), 0);
		assert_int_equal(finish(d, &a, o->id), 0);
		order_free(o);
	}
	assert_int_equal(put_order(d, a.id, "key 10", "x", NULL), STORE_REPEATED);
	snprintf(key, sizeof key, "key %d", KEYS_KEPT + 9);
	assert_int_equal(put_order(d, a.id, key, "x", NULL), STORE_REPEATED);
	assert_int_equal(put_order(d, a.id, "key 9", "x", NULL), 0);
	assert_int_equal(put_order(d, b.id, "key 0", "x", NULL), STORE_REPEATED);
}

/* ---- log ---- */

static struct store_job *read_log(struct desk *d, uint64_t session, uint64_t from, uint64_t limit,
                                  uint64_t bytes)
{
	struct store_job *j = store_job_new(STORE_READ, session);

	j->from = from;
	j->limit = limit;
	j->limit_bytes = bytes;
	desk_ask(d, j);
	return j;
}

static void check_entry(const struct event *e, uint64_t session, uint64_t seq)
{
	struct session_row r;
	struct event want;
	char text[64];

	memset(&r, 0, sizeof r);
	r.id = session;
	r.n_seq = seq - 1;
	r.n_token = e->position;
	snprintf(text, sizeof text, "entry %llu ", (unsigned long long)seq);
	make_event(&want, &r, (size_t)(seq % 4), text);
	want.window_start = e->window_start;
	assert_int_equal(e->seq, seq);
	assert_true(event_chain(5, e) == event_chain(5, &want));
	event_clear(&want);
}

static void test_log(void **state)
{
	struct desk *d = *state;
	struct session_row a;
	struct store_job *j;
	struct seen s;
	uint64_t i, chain, stored = 0;

	desk_session(d, &a, "a");
	j = read_log(d, a.id, 0, 0, 0);                /* nothing yet */
	assert_int_equal(j->rc, 0);
	assert_int_equal(j->n_event, 0);
	assert_int_equal(j->next, 1);
	assert_int_equal(j->durable_seq, 0);
	store_job_free(j);

	j = make_log(&a, 10);
	assert_int_equal(desk_ask(d, j), 0);
	assert_int_equal(j->row.n_seq, 10);
	for (i = 0, chain = 0; i < 10; i++) {
		chain = event_chain(chain, &j->events[i]);
		stored += event_stored(&j->events[i]);
	}
	assert_true(j->row.chain == chain);
	store_job_free(j);

	j = read_log(d, a.id, 4, 3, 0);                /* staged is seen, and said not to be durable */
	assert_int_equal(j->n_event, 3);
	assert_int_equal(j->next, 7);
	assert_int_equal(j->durable_seq, 0);
	for (i = 0; i < 3; i++)
		check_entry(&j->events[i], a.id, 4 + i);
	store_job_free(j);
	assert_int_equal(desk_sync(d), 0);
	j = read_log(d, a.id, 1, 0, 1);                /* one entry comes in any case */
	assert_int_equal(j->n_event, 1);
	assert_int_equal(j->next, 2);
	assert_int_equal(j->durable_seq, 10);
	i = event_cost(&j->events[0]);
	store_job_free(j);
	j = read_log(d, a.id, 1, 0, 3 * i);
	assert_int_equal(j->n_event, 3);
	store_job_free(j);
	j = read_log(d, a.id, 11, 0, 0);
	assert_int_equal(j->rc, 0);
	assert_int_equal(j->n_event, 0);
	assert_int_equal(j->next, 11);
	store_job_free(j);
	j = read_log(d, a.id, UINT64_MAX, 0, 0);
	assert_int_equal(j->rc, 0);
	assert_int_equal(j->n_event, 0);
	store_job_free(j);

	j = make_log(&a, 0);                           /* no entries: the row alone */
	j->row.n_kill = 0;
	j->row.used = 5;
	assert_int_equal(desk_ask(d, j), 0);
	store_job_free(j);
	each(d, &s);
	assert_int_equal(s.last.row.n_seq, 10);
	assert_int_equal(s.last.row.n_token, a.n_token);
	assert_true(s.last.row.chain == chain);
	assert_int_equal(s.last.row.n_kill, 0);
	assert_int_equal(s.last.row.used, 5);
	assert_int_equal(s.last.n_stored_bytes, stored);
	j = read_log(d, a.id, 1, 0, 0);
	assert_int_equal(j->n_event, 10);
	assert_int_equal(j->durable_seq, 10);
	for (i = 0; i < 10; i++)
		check_entry(&j->events[i], a.id, 1 + i);
	store_job_free(j);
}

/* What is not the continuation of the log is our mistake: negative, and nothing is written. */
static void test_log_mistakes(void **state)
{
	struct desk *d = *state;
	struct session_row a, b;
	struct store_job *j;
	int k;

	desk_session(d, &a, "a");
	for (k = 0; k < 5; k++) {
		b = a;
		j = make_log(&b, 3);
		if (k == 0)
			j->events[0].seq = 2;
		if (k == 1)
			j->events[2].seq = 2;
		if (k == 2)
			j->events[1].position++;
		if (k == 3)
			j->row.n_token++;
		if (k == 4)
			j->events[1].kind = EVENT_EVICTED;
		assert_true(desk_ask(d, j) < 0);
		store_job_free(j);
	}
	j = make_log(&a, 3);
	assert_int_equal(desk_ask(d, j), 0);
	store_job_free(j);
}

static struct store_job *read_tokens(struct desk *d, uint64_t session, uint64_t from, uint64_t limit)
{
	struct store_job *j = store_job_new(STORE_TOKENS, session);

	j->from = from;
	j->limit = limit;
	assert_int_equal(desk_ask(d, j), 0);
	return j;
}

static void test_tokens(void **state)
{
	struct desk *d = *state;
	struct session_row a;
	struct store_job *j;
	uint64_t from, limit, i;

	desk_session(d, &a, "a");
	j = read_tokens(d, a.id, 0, 0);
	assert_int_equal(j->ids.n, 0);
	store_job_free(j);
	j = make_log(&a, 41);
	assert_int_equal(desk_ask(d, j), 0);
	store_job_free(j);
	for (from = 0; from <= a.n_token + 1; from++)
		for (limit = 0; limit <= a.n_token + 1; limit += 1 + limit / 3) {
			uint64_t left = from < a.n_token ? a.n_token - from : 0;
			uint64_t want = limit == 0 || limit > left ? left : limit;

			j = read_tokens(d, a.id, from, limit);
			assert_int_equal(j->ids.n, want);
			for (i = 0; i < want; i++)
				assert_int_equal(j->ids.data[i], token_at(from + i));
			store_job_free(j);
		}
}

/* Many jobs at once: each comes back once, in order, and the numbers are right. */
static void test_group(void **state)
{
	struct desk *d = *state;
	struct session_row a;
	struct store_job *j;
	int i;

	desk_session(d, &a, "a");
	for (i = 0; i < 300; i++) {
		j = i % 3 == 0 ? store_job_new(STORE_ORDER_PUT, a.id) : make_log(&a, 2);
		if (i % 3 == 0)
			j->order = make_order(a.id, NULL, "payload");
		j->durable = i % 7 == 0;
		j->from = (uint64_t)i;
		desk_post(d, j);
	}
	for (i = 0; i < 300; i++) {
		j = desk_wait(d);
		assert_int_equal(j->rc, 0);
		assert_int_equal(j->from, i);
		store_job_free(j);
	}
	reopen(d);
	j = read_log(d, a.id, 1, 0, 0);
	assert_int_equal(j->n_event, 400);
	assert_int_equal(j->durable_seq, 400);
	store_job_free(j);
}

/* Entries that were not asked to be durable are, half a second later. */
static void test_commit_by_itself(void **state)
{
	struct desk *d = *state;
	struct session_row a;
	struct store_job *j;
	uint64_t durable = 0;
	int i;

	desk_session(d, &a, "a");
	j = make_log(&a, 5);
	assert_int_equal(desk_ask(d, j), 0);
	store_job_free(j);
	for (i = 0; i < 600 && durable == 0; i++) {
		usleep(50000);
		j = read_log(d, a.id, 1, 1, 0);
		durable = j->durable_seq;
		store_job_free(j);
	}
	assert_int_equal(durable, 5);
}

/* ---- the directory ---- */

static void test_second(void **state)
{
	struct desk *d = *state;
	struct store_params p = { .dir = d->dir };
	struct reason why;
	struct store *second;

	assert_int_equal(store_open(&second, &p, &why), REFUSED);
	assert_string_equal(why.name, "state_in_use");
	assert_non_null(strstr(why.text, d->dir));
	reopen(d);                                     /* the lock goes with its holder */
}

static mode_t mode_of(struct desk *d, const char *name)
{
	struct stat st;
	char path[512];

	snprintf(path, sizeof path, "%s/%s", d->dir, name);
	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static void test_modes(void **state)
{
	static const char *const files[] = { "sinkd.db", "sinkd.db-wal", "lock" };
	struct desk *d = *state;
	struct session_row a;
	char path[512];
	size_t i;

	desk_session(d, &a, "a");
	for (i = 0; i < 3; i++)
		assert_int_equal(mode_of(d, files[i]), 0600);
	assert_int_equal(mode_of(d, "."), 0700);
	assert_int_equal(mode_of(d, "checkpoint"), 0700);
	desk_close(d);
	snprintf(path, sizeof path, "%s/sinkd.db", d->dir);
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(chmod(d->dir, 0755), 0);
	assert_int_equal(desk_open(d), 0);
	assert_int_equal(mode_of(d, "sinkd.db"), 0600);
	assert_int_equal(mode_of(d, "."), 0700);
}

/* Missing parents are made; what cannot be a directory is refused by name. */
static void test_made(void **state)
{
	struct desk *d = *state;
	struct store_params p = { 0 };
	struct store *s;
	struct reason why;
	char path[512];

	snprintf(path, sizeof path, "%s/x/y/z", d->dir);
	p.dir = path;
	assert_int_equal(store_open(&s, &p, &why), 0);
	store_close(s);
	snprintf(path, sizeof path, "%s/lock/z", d->dir);
	assert_int_equal(store_open(&s, &p, &why), REFUSED);
	assert_string_equal(why.name, "bad_state");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_session), TEST(test_session_numbers), TEST(test_orders), TEST(test_keys_kept),
		TEST(test_log), TEST(test_log_mistakes), TEST(test_tokens), TEST(test_group),
		TEST(test_commit_by_itself), TEST(test_second), TEST(test_modes), TEST(test_made),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
