/* See store-state.h. */
#include "tests/unit/store-state.h"

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

uint64_t dice_state;

uint64_t dice(uint64_t n)      /* splitmix64 */
{
	uint64_t z = (dice_state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % n;
}

/* ---- files ---- */

void path_of(char *path, const struct desk *d, const char *name)
{
	snprintf(path, 512, "%s/%s", d->dir, name);
}

struct file load(const struct desk *d, const char *name)
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

void save(const struct desk *d, const char *name, const void *data, size_t n)
{
	char path[512];
	int fd;

	path_of(path, d, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, n), (ssize_t)n);
	close(fd);
}

bool exists(const struct desk *d, const char *name)
{
	char path[512];

	path_of(path, d, name);
	return access(path, F_OK) == 0;
}

/* ---- a state with two sessions ---- */

struct session_row row_a, row_b;

void log_job(struct desk *d, struct session_row *r, size_t n)
{
	struct store_job *j = make_log(r, n);

	assert_int_equal(desk_ask(d, j), 0);
	*r = j->row;
	store_job_free(j);
}

int setup(void **state)
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

int teardown(void **state)
{
	struct desk *d = *state;

	if (d->store != NULL)
		desk_close(d);
	desk_remove(d);
	free(d);
	return 0;
}

struct store_session found[8];
size_t n_found;

static int collect(void *ctx, const struct store_session *v)
{
	(void)ctx;
	if (n_found < 8)
		found[n_found++] = *v;
	return 0;
}

int open_all(struct desk *d)
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

int simple(struct desk *d, enum store_op op, uint64_t session, uint64_t from)
{
	struct store_job *j = store_job_new(op, session);
	int rc;

	j->from = from;
	rc = desk_ask(d, j);
	store_job_free(j);
	return rc;
}

bool check_good(struct desk *d, struct session_row *want)
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

void fill(unsigned char *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		p[i] = (unsigned char)dice(256);
}
