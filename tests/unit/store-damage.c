/* The store when its database is not what it wrote: changed rows, flipped bits, cut
 * and foreign files.  What is damaged is named, never believed, and nobody else suffers. */
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/store-state.h"

static void side(struct desk *d, const char *sql)
{
	char path[512], *why = NULL;
	sqlite3 *db;

	path_of(path, d, "sinkd.db");
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
		fail_msg("%s: %s", sql, why);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* Every job but DELETE is refused, the other session is whole. */
static void check_refused(struct desk *d)
{
	struct session_row r = row_a;
	struct store_job *j;

	assert_int_equal(simple(d, STORE_READ, row_a.id, 1), REFUSED);
	assert_string_equal(d->why.name, "session_damaged");
	assert_int_equal(simple(d, STORE_TOKENS, row_a.id, 1), REFUSED);
	assert_int_equal(simple(d, STORE_ORDER_NEXT, row_a.id, 0), REFUSED);
	j = make_log(&r, 1);
	assert_int_equal(desk_ask(d, j), REFUSED);
	assert_string_equal(d->why.name, "session_damaged");
	assert_null(strstr(d->why.text, "entry 1 entry"));     /* never its text */
	store_job_free(j);
	assert_int_equal(simple(d, STORE_READ, row_b.id, 1), 0);
	assert_int_equal(simple(d, STORE_TOKENS, row_b.id, 0), 0);
	r = row_b;
	j = make_log(&r, 1);
	assert_int_equal(desk_ask(d, j), 0);
	store_job_free(j);
}

/* One field of one row changed through another program: named at start. */
static void test_changed_row(void **state)
{
	static const char *const changes[] = {
		"UPDATE log SET text = CAST(CAST(text AS TEXT) || 'x' AS BLOB) WHERE session = 1 AND seq = %d",
		"UPDATE log SET text = X'' WHERE session = 1 AND seq = %d",
		"UPDATE log SET ids = X'01000000' WHERE session = 1 AND seq = %d",
		"UPDATE log SET ids = X'010000' WHERE session = 1 AND seq = %d",
		"UPDATE log SET time = time + 1 WHERE session = 1 AND seq = %d",
		"UPDATE log SET kind = 3 WHERE session = 1 AND seq = %d",
		"UPDATE log SET role = role + 1 WHERE session = 1 AND seq = %d",
		"UPDATE log SET reason = 4 WHERE session = 1 AND seq = %d",
		"UPDATE log SET request = 0 WHERE session = 1 AND seq = %d",
		"UPDATE log SET position = position + 1 WHERE session = 1 AND seq = %d",
		"UPDATE log SET n_prompt = 0 WHERE session = 1 AND seq = %d",
		"UPDATE log SET n_generated = 0 WHERE session = 1 AND seq = %d",
		"UPDATE log SET window_start = 0 WHERE session = 1 AND seq = %d",
		"UPDATE log SET chain = chain - 1 WHERE session = 1 AND seq = %d",
		"DELETE FROM log WHERE session = 1 AND seq = %d",
	};
	struct desk *d = *state;
	struct file clean = load(d, "sinkd.db");
	char sql[200], name[40];
	size_t i, k;

	for (i = 0; i < 3 * sizeof changes / sizeof *changes; i++) {
		int seq = 1 + (int)dice(N_ENTRY);

		save(d, "sinkd.db", clean.data, clean.n);
		snprintf(sql, sizeof sql, changes[i / 3], seq);
		side(d, sql);
		assert_int_equal(open_all(d), 0);
		assert_false(store_read_only(d->store, NULL));
		assert_int_equal(n_found, 2);
		snprintf(name, sizeof name, "log entry %d ", seq);
		if (strstr(found[0].bad, name) == NULL)
			fail_msg("%s: \"%s\"", sql, found[0].bad);
		assert_string_equal(found[1].bad, "");
		check_refused(d);
		assert_int_equal(simple(d, STORE_SESSION_DELETE, row_a.id, 0), 0);
		desk_close(d);
		assert_int_equal(open_all(d), 0);
		assert_int_equal(n_found, 1);
		desk_close(d);
	}
	for (k = 0; k < 4; k++) {      /* rows of sessions and of the queue */
		static const char *const sqls[] = {
			"UPDATE sessions SET uid = 0 WHERE id = 1", "UPDATE sessions SET n_token = n_token - 1 WHERE id = 1",
			"UPDATE sessions SET n_seq = n_seq + 1 WHERE id = 1", "UPDATE sessions SET chain = 5 WHERE id = 1",
		};

		save(d, "sinkd.db", clean.data, clean.n);
		side(d, sqls[k]);
		assert_int_equal(open_all(d), 0);
		assert_int_equal(n_found, 2);
		assert_string_not_equal(found[0].bad, "");
		check_refused(d);
		desk_close(d);
	}
	save(d, "sinkd.db", clean.data, clean.n);
	side(d, "UPDATE queue SET payload = X'41' WHERE session = 1");
	assert_int_equal(open_all(d), 0);
	assert_string_equal(found[0].bad, "");
	assert_int_equal(simple(d, STORE_ORDER_NEXT, row_a.id, 0), REFUSED);
	assert_string_equal(d->why.name, "session_damaged");
	check_refused(d);
	free(clean.data);
}

/* Far behind the tail that is verified at start: named when it is read. */
static void test_changed_old_row(void **state)
{
	enum { MANY = 12000 };
	struct desk *d = *state;
	int i;

	assert_int_equal(open_all(d), 0);
	for (i = 0; i < MANY / 1000; i++)
		log_job(d, &row_a, 1000);
	desk_close(d);
	side(d, "UPDATE log SET text = X'00' WHERE session = 1 AND seq = 77");
	assert_int_equal(open_all(d), 0);
	assert_string_equal(found[0].bad, "");
	assert_int_equal(simple(d, STORE_READ, row_a.id, 5000), 0);
	assert_int_equal(simple(d, STORE_READ, row_a.id, 60), REFUSED);
	assert_string_equal(d->why.name, "session_damaged");
	assert_non_null(strstr(d->why.text, "log entry 77 "));
	check_refused(d);
}

/* ---- bits ---- */

static void check_opened(struct desk *d, unsigned counts[4])
{
	struct session_row fresh;
	size_t k;

	if (store_read_only(d->store, NULL)) {
		counts[0]++;
		assert_int_equal(desk_session(d, &fresh, "fresh"), 0);
		assert_string_equal(d->why.name, "read_only");
	}
	for (k = 0; k < n_found; k++) {
		struct session_row *r = found[k].row.id == row_a.id ? &row_a : &row_b;

		if (found[k].bad[0] != '\0') {
			counts[1]++;
			continue;
		}
		found[k].row.used = r->used;
		if (check_good(d, r)) {
			assert_int_equal(found[k].row.uid, r->uid);
			assert_string_equal(found[k].row.name, r->name);
			assert_memory_equal(&found[k].row.settings, &r->settings, sizeof r->settings);
		}
	}
}

static void test_bits(void **state)
{
	struct desk *d = *state;
	struct file clean = load(d, "sinkd.db");
	unsigned counts[4] = { 0 };
	size_t i;

	for (i = 0; i < 600; i++) {
		/* Half of them in the first pages, where the structure is. */
		size_t at = i % 2 ? dice(clean.n) : dice(clean.n < 600 ? clean.n : 600);
		unsigned bit = 1u << dice(8);

		clean.data[at] ^= (unsigned char)bit;
		save(d, "sinkd.db", clean.data, clean.n);
		clean.data[at] ^= (unsigned char)bit;
		if (open_all(d) == 0) {
			check_opened(d, counts);
			desk_close(d);
		} else {               /* its numbers: by name */
			assert_string_equal(d->why.name, "bad_state");
			counts[2]++;
		}
	}
	printf("# 600 flipped bits: %u read only, %u sessions named, %u refused\n", counts[0], counts[1], counts[2]);
	assert_true(counts[0] > 0 && counts[1] > 0 && counts[2] > 0);
	free(clean.data);
}

static void check_unusable(struct desk *d)
{
	struct session_row fresh;
	struct reason why;

	assert_int_equal(open_all(d), 0);
	assert_true(store_read_only(d->store, &why));
	assert_string_equal(why.name, "read_only");
	assert_int_equal(desk_session(d, &fresh, "fresh"), 0);
	assert_string_equal(d->why.name, "read_only");
	assert_int_equal(simple(d, STORE_SYNC, 0, 0), REFUSED);
	desk_close(d);
}

static void test_cut_database(void **state)
{
	struct desk *d = *state;
	struct file clean = load(d, "sinkd.db"), after;
	size_t sizes[] = { 0, 1, 15, 99, 512, 1023, 4095, 4096, 8192, clean.n / 2, clean.n - 4096, clean.n - 5000 };
	unsigned counts[4] = { 0 };
	size_t i;

	for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		save(d, "sinkd.db", clean.data, sizes[i]);
		check_unusable(d);
		after = load(d, "sinkd.db");           /* and never written to */
		assert_int_equal(after.n, sizes[i]);
		assert_memory_equal(after.data, clean.data, sizes[i]);
		free(after.data);
	}
	/* Inside the last page, SQLite reads zeros: what was there verifies or is named. */
	for (i = 1; i < 4096; i += 100) {
		save(d, "sinkd.db", clean.data, clean.n - i);
		assert_int_equal(open_all(d), 0);
		check_opened(d, counts);
		desk_close(d);
	}
	free(clean.data);
}

static void test_garbage_database(void **state)
{
	struct desk *d = *state;
	unsigned char garbage[20000];
	struct session_row r;
	struct salvage out;

	assert_int_equal(open_all(d), 0);              /* so that a wal could be there */
	desk_close(d);
	fill(garbage, sizeof garbage);
	save(d, "sinkd.db", garbage, sizeof garbage);
	check_unusable(d);
	assert_int_equal(store_salvage(d->dir, &out, &d->why), 0);
	assert_int_equal(out.n_session, 0);
	assert_true(exists(d, out.kept));
	assert_int_equal(open_all(d), 0);
	assert_false(store_read_only(d->store, NULL));
	assert_int_not_equal(desk_session(d, &r, "fresh"), 0);
}

/* Another program's database, and a newer version's. */
static void test_foreign_database(void **state)
{
	struct desk *d = *state;

	side(d, "PRAGMA user_version = 2");
	assert_int_equal(open_all(d), REFUSED);
	assert_string_equal(d->why.name, "bad_state");
	assert_non_null(strstr(d->why.text, "newer"));
	side(d, "PRAGMA application_id = 77");
	assert_int_equal(open_all(d), REFUSED);
	assert_string_equal(d->why.name, "bad_state");
}

/* ---- salvage ---- */

static void test_salvage_whole(void **state)
{
	struct desk *d = *state;
	struct session_row before;
	struct salvage out;
	struct store_job *j;

	assert_int_equal(store_salvage(d->dir, &out, &d->why), 0);
	assert_int_equal(out.n_session, 2);
	assert_int_equal(out.n_entry, row_a.n_seq + row_b.n_seq);
	assert_int_equal(out.n_order, 1);
	assert_int_equal(out.n_cut, 0);
	assert_int_equal(open_all(d), 0);
	assert_int_equal(n_found, 2);
	before = found[0].row;
	assert_memory_equal(&before, &row_a, sizeof before);
	assert_true(check_good(d, &row_a));
	assert_true(check_good(d, &row_b));
	j = store_job_new(STORE_ORDER_PUT, row_a.id);
	j->order = make_order(row_a.id, "key", "again");
	assert_int_equal(desk_ask(d, j), STORE_REPEATED);
	store_job_free(j);
	assert_int_equal(store_salvage(d->dir, &out, &d->why), REFUSED);
	assert_string_equal(d->why.name, "state_in_use");
}

/* A changed row: its session is kept up to it, and goes on. */
static void test_salvage_cut(void **state)
{
	struct desk *d = *state;
	struct salvage out;

	side(d, "UPDATE log SET text = X'00' WHERE session = 1 AND seq = 77");
	assert_int_equal(store_salvage(d->dir, &out, &d->why), 0);
	assert_int_equal(out.n_session, 2);
	assert_int_equal(out.n_cut, 1);
	assert_int_equal(open_all(d), 0);
	assert_int_equal(found[0].row.n_seq, 76);
	row_a = found[0].row;
	assert_true(check_good(d, &row_a));
	assert_true(check_good(d, &row_b));
	log_job(d, &row_a, 10);
	assert_true(check_good(d, &row_a));
}

/* After a crash much is in the write-ahead log alone: it is read, and it is salvaged. */
static void test_salvage_wal(void **state)
{
	struct desk *d = *state;
	struct file database, wal;
	struct salvage out;
	int k;

	assert_int_equal(open_all(d), 0);
	log_job(d, &row_a, 100);
	assert_int_equal(desk_sync(d), 0);
	database = load(d, "sinkd.db");        /* as SIGKILL would leave them */
	wal = load(d, "sinkd.db-wal");
	assert_true(wal.n > 4096);
	desk_close(d);
	for (k = 0; k < 2; k++) {
		save(d, "sinkd.db", database.data, database.n);
		save(d, "sinkd.db-wal", wal.data, wal.n);
		if (k == 1) {
			assert_int_equal(store_salvage(d->dir, &out, &d->why), 0);
			assert_int_equal(out.n_entry, row_a.n_seq + row_b.n_seq);
			assert_int_equal(out.n_cut, 0);
		}
		assert_int_equal(open_all(d), 0);
		assert_string_equal(found[0].bad, "");
		assert_true(check_good(d, &row_a));
		desk_close(d);
	}
	free(database.data);
	free(wal.data);
}

/* Pages overwritten: what is salvaged is a prefix of what was, and usable. */
static void test_salvage_pages(void **state)
{
	struct desk *d = *state;
	struct file clean = load(d, "sinkd.db"), bad;
	struct session_row fresh;
	struct salvage out;
	uint64_t n_entry = 0;
	size_t page, k;

	for (page = 0; page < clean.n / 4096; page++) {
		bad.data = malloc(clean.n);
		memcpy(bad.data, clean.data, clean.n);
		fill(bad.data + page * 4096, 4096);
		save(d, "sinkd.db", bad.data, clean.n);
		free(bad.data);
		assert_int_equal(store_salvage(d->dir, &out, &d->why), 0);
		assert_int_equal(open_all(d), 0);
		assert_false(store_read_only(d->store, NULL));
		n_entry += out.n_entry;
		for (k = 0; k < n_found; k++) {
			assert_string_equal(found[k].bad, "");
			assert_true(check_good(d, &found[k].row));
		}
		assert_int_not_equal(desk_session(d, &fresh, "fresh"), 0);
		desk_close(d);
	}
	printf("# %zu pages: %.0f %% of the entries saved\n", page,
	       100.0 * (double)n_entry / (double)(page * (N_ENTRY + 50)));
	assert_true(n_entry > page * (N_ENTRY + 50) / 2);
	free(clean.data);
}

/* A salvage cut off between its renames is finished at the next start. */
static void test_salvage_cut_off(void **state)
{
	struct desk *d = *state;
	char from[512], to[512];

	path_of(from, d, "sinkd.db");
	path_of(to, d, "sinkd.db.salvaged");
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(open_all(d), 0);
	assert_int_equal(n_found, 2);
	assert_true(check_good(d, &row_a));
	assert_false(exists(d, "sinkd.db.salvaged"));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_changed_row), TEST(test_changed_old_row), TEST(test_bits), TEST(test_cut_database),
		TEST(test_garbage_database), TEST(test_foreign_database), TEST(test_salvage_whole),
		TEST(test_salvage_cut), TEST(test_salvage_wal), TEST(test_salvage_pages), TEST(test_salvage_cut_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
