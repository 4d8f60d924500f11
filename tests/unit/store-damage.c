/* The store when its files are not what it wrote: changed rows, flipped bits, cut
 * and foreign files, a full disk.  What is damaged is named, never believed, and
 * nobody else suffers. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/store-desk.h"

static uint64_t dice_state;

static uint64_t dice(uint64_t n)       /* splitmix64 */
{
	uint64_t z = (dice_state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % n;
}

/* ---- files ---- */

struct file {
	unsigned char *data;
	size_t n;
};

static void path_of(char *path, const struct desk *d, const char *name)
{
	snprintf(path, 512, "%s/%s", d->dir, name);
}

static struct file load(const struct desk *d, const char *name)
{
	struct file f = { NULL, 0 };
	char path[512];
	struct stat st;
	int fd;

	path_of(path, d, name);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	f.n = (size_t)st.st_size;
	f.data = malloc(f.n + 1);
	assert_int_equal(read(fd, f.data, f.n), (ssize_t)f.n);
	close(fd);
	return f;
}

static void save(const struct desk *d, const char *name, const void *data, size_t n)
{
	char path[512];
	int fd;

	path_of(path, d, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, n), (ssize_t)n);
	close(fd);
}

static bool exists(const struct desk *d, const char *name)
{
	char path[512];

	path_of(path, d, name);
	return access(path, F_OK) == 0;
}

/* ---- a state with two sessions ---- */

enum { N_ENTRY = 200 };

static struct session_row row_a, row_b;

static void log_job(struct desk *d, struct session_row *r, size_t n)
{
	struct store_job *j = make_log(r, n);

	assert_int_equal(desk_ask(d, j), 0);
	*r = j->row;
	store_job_free(j);
}

static int setup(void **state)
{
	struct desk *d = calloc(1, sizeof *d);
	struct store_job *j;

	dice_state = 1;
	desk_dir(d);
	*state = d;
	assert_int_equal(desk_open(d), 0);
	desk_session(d, &row_a, "a");
	desk_session(d, &row_b, "b");
	log_job(d, &row_a, N_ENTRY);
	log_job(d, &row_b, 50);
	j = store_job_new(STORE_ORDER_PUT, row_a.id);
	j->order = make_order(row_a.id, "key", "payload of an order");
	assert_int_equal(desk_ask(d, j), 0);
	store_job_free(j);
	desk_close(d);
	return 0;
}

static int teardown(void **state)
{
	struct desk *d = *state;

	if (d->store != NULL)
		desk_close(d);
	desk_remove(d);
	free(d);
	return 0;
}

static struct store_session found[8];
static size_t n_found;

static int collect(void *ctx, const struct store_session *v)
{
	(void)ctx;
	if (n_found < 8)
		found[n_found++] = *v;
	return 0;
}

/* Opens, collects the sessions, starts. */
static int open_all(struct desk *d)
{
	int rc = desk_open_only(d);

	n_found = 0;
	if (rc != 0)
		return rc;
	assert_int_equal(store_each(d->store, collect, NULL), 0);
	assert_int_equal(mailbox_open(&d->box), 0);
	assert_int_equal(store_start(d->store), 0);
	return 0;
}

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

static int simple(struct desk *d, enum store_op op, uint64_t session, uint64_t from)
{
	struct store_job *j = store_job_new(op, session);
	int rc;

	j->from = from;
	rc = desk_ask(d, j);
	store_job_free(j);
	return rc;
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

/* Whatever comes back as good is what was written. */
static bool check_good(struct desk *d, struct session_row *want)
{
	struct store_job *j = store_job_new(STORE_READ, want->id);
	struct session_row r = { .id = want->id };
	bool good;
	size_t i;

	j->from = 1;
	j->limit = 100000;
	j->limit_bytes = 1 << 30;
	good = desk_ask(d, j) == 0;
	if (good)
		assert_int_equal(j->n_event, want->n_seq);
	for (i = 0; good && i < j->n_event; i++) {
		struct event e;
		char text[64];

		snprintf(text, sizeof text, "entry %llu ", (unsigned long long)r.n_seq + 1);
		make_event(&e, &r, (size_t)((r.n_seq + 1) % 4), text);
		assert_true(event_chain(9, &e) == event_chain(9, &j->events[i]));
		event_clear(&e);
	}
	store_job_free(j);
	return good;
}

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

static void fill(unsigned char *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		p[i] = (unsigned char)dice(256);
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
		TEST(test_changed_row), TEST(test_changed_old_row), TEST(test_bits), TEST(test_cut_database),
		TEST(test_garbage_database), TEST(test_foreign_database), TEST(test_salvage_whole),
		TEST(test_salvage_cut), TEST(test_salvage_wal), TEST(test_salvage_pages), TEST(test_salvage_cut_off),
		TEST(test_checkpoint), TEST(test_checkpoint_sizes), TEST(test_checkpoint_lengths),
		TEST(test_delete_leaves_nothing),
		TEST(test_full_disk), TEST(test_full_disk_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
