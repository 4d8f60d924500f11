/*
 * How fast the store is, on the disk that holds DIR: acknowledged orders, log
 * entries, reads, tokens by position, start.  CSV on standard output:
 * what, n, seconds, per_second.  Not a test: nothing here passes or fails.
 *
 *   tests/bench/store [DIR]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/store-desk.h"

static struct desk desk;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void say(const char *what, uint64_t n, double since)
{
	double s = now() - since;

	printf("%s,%" PRIu64 ",%.3f,%.0f\n", what, n, s, (double)n / s);
	fflush(stdout);
}

static void check(const struct store_job *j)
{
	if (j->rc == 0)
		return;
	fprintf(stderr, "rc %d %s: %s\n", j->rc, j->why.name, j->why.text);
	exit(1);
}

/* `flight` orders at a time, each acknowledged after its commit. */
static void orders(const char *what, uint64_t session, unsigned n, unsigned flight)
{
	static uint64_t serial;
	char key[32], payload[1001];
	double since = now();
	unsigned posted = 0, back = 0;
	struct store_job *j;

	memset(payload, 'x', 1000);
	payload[1000] = '\0';
	while (back < n) {
		for (; posted < n && posted < back + flight; posted++) {
			snprintf(key, sizeof key, "%" PRIu64, ++serial);
			j = store_job_new(STORE_ORDER_PUT, session);
			j->order = make_order(session, key, payload);
			desk_post(&desk, j);
		}
		j = desk_wait(&desk);
		check(j);
		store_job_free(j);
		back++;
	}
	say(what, n, since);
}

static void entries(const char *what, struct session_row *rows, unsigned n_session, unsigned n, unsigned each,
                    bool durable)
{
	double since = now();
	unsigned i, flight = 0;
	struct store_job *j;

	for (i = 0; i < n; i += each) {
		j = make_log(&rows[i / each % n_session], each);
		j->durable = durable;
		desk_post(&desk, j);
		if (++flight == 64 || durable) {
			j = desk_wait(&desk);
			check(j);
			store_job_free(j);
			flight--;
		}
	}
	for (; flight > 0; flight--) {
		j = desk_wait(&desk);
		check(j);
		store_job_free(j);
	}
	desk_sync(&desk);
	say(what, n, since);
}

static void reads(const struct session_row *r)
{
	struct store_job *j = store_job_new(STORE_READ, r->id);
	double since = now();
	uint64_t n = 0;
	unsigned i;

	for (j->from = 1; j->from <= r->n_seq; j->from = j->next) {
		desk_ask(&desk, j);
		check(j);
		n += j->n_event;
	}
	say("entries read and verified, in order", n, since);
	store_job_free(j);
	j = store_job_new(STORE_TOKENS, r->id);
	since = now();
	for (i = 0; i < 1000; i++) {
		j->from = r->n_token / 1000 * i;
		j->limit = 100;
		desk_ask(&desk, j);
		check(j);
	}
	say("tokens by position, 100 each", 1000, since);
	store_job_free(j);
}

static int nothing(void *ctx, const struct store_session *v)
{
	(void)ctx, (void)v;
	return 0;
}

static void start(void)
{
	double since;

	desk_close(&desk);
	since = now();
	desk_open_only(&desk);
	say("open with quick_check", 1, since);
	since = now();
	store_each(desk.store, nothing, NULL);
	say("store_each, tails verified", 1, since);
	if (mailbox_open(&desk.box) != 0 || store_start(desk.store) != 0)
		exit(1);
}

static void checkpoints(uint64_t session)
{
	struct store_job *j = store_job_new(STORE_CHECKPOINT_PUT, session);
	struct checkpoint *c = calloc(1, sizeof *c);
	double since;
	unsigned i;

	c->n_kv = 64 << 20;
	c->kv = malloc(c->n_kv);
	memset(c->kv, 7, c->n_kv);
	j->checkpoint = c;
	since = now();
	for (i = 0; i < 5; i++) {
		desk_ask(&desk, j);
		check(j);
	}
	say("checkpoints of 64 MiB written", 5, since);
	store_job_free(j);
	since = now();
	for (i = 0; i < 5; i++) {
		j = store_job_new(STORE_CHECKPOINT_GET, session);
		desk_ask(&desk, j);
		check(j);
		store_job_free(j);
	}
	say("checkpoints of 64 MiB read", 5, since);
}

int main(int argc, char **argv)
{
	struct session_row rows[8];
	struct store_job *j;
	double since;
	char name[8];
	unsigned i;

	desk_dir(&desk);
	if (argc > 1) {                /* a directory of our own in it: it is removed at the end */
		desk_remove(&desk);
		snprintf(desk.dir, sizeof desk.dir, "%s/sinkd-store-XXXXXX", argv[1]);
		if (mkdtemp(desk.dir) == NULL) {
			perror(desk.dir);
			return 1;
		}
	}
	if (desk_open(&desk) != 0) {
		fprintf(stderr, "%s: %s\n", desk.why.name, desk.why.text);
		return 1;
	}
	for (i = 0; i < 8; i++) {
		snprintf(name, sizeof name, "s%u", i);
		desk_session(&desk, &rows[i], name);
	}
	puts("what,n,seconds,per_second");
	orders("orders of 1 KB acknowledged, one at a time", rows[0].id, 500, 1);
	orders("orders of 1 KB acknowledged, 32 in flight", rows[0].id, 5000, 32);
	entries("log entries, each durable", rows, 1, 500, 1, true);
	entries("log entries, one a job, one session", rows, 1, 100000, 1, false);
	entries("log entries, one a job, eight sessions", rows, 8, 100000, 1, false);
	entries("log entries, 16 a job, one session", rows, 1, 800000, 16, false);
	reads(&rows[0]);
	start();
	checkpoints(rows[1].id);
	since = now();
	j = store_job_new(STORE_SESSION_DELETE, rows[0].id);
	desk_ask(&desk, j);
	check(j);
	store_job_free(j);
	say("a session of 900,000 entries deleted", 1, since);
	desk_close(&desk);
	desk_remove(&desk);
	return 0;
}
