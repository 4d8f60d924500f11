/* The engine with a real store and a tiny real model: who may do what, and how much;
 * what it refuses by name. */
#include "tests/unit/engine-desk.h"

#include <errno.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/session/disk.h"

static void caps(void **state)
{
	struct request *r;
	struct desk d;
	char big[5000];

	(void)state;
	desk_new(&d);
	d.p.caps = (struct engine_caps){ .sessions = 2, .queued_bytes = 4000, .stored_bytes = 1u << 20 };
	desk_start(&d);
	desk_create(&d, "a", true, 1, 0);
	desk_create(&d, "b", true, 1, 0);
	refused(&d, ask_new(VERB_CREATE, "c"), "cap_sessions");
	refused(&d, ask_new(VERB_CREATE, "a"), "session_exists");
	r = ask_new(VERB_CREATE, "a");
	r->uid = r->owner = 1001;
	desk_ask(&d, r);
	assert_int_equal(r->rc, 0);            /* another's name, another's cap */
	request_free(r);
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	r = ask_new(VERB_APPEND, "a");
	ask_text(r, big);
	refused(&d, r, "cap_queued");
	r = ask_new(VERB_CREATE, "big");
	r->uid = r->owner = 1002;
	r->given = GIVEN_WINDOW;
	r->window.n_recent = 1020;
	refused(&d, r, "window_too_large");
	desk_stop(&d);
	desk_remove(&d);
}

static struct request *as(struct request *r, uid_t uid, gid_t gid)
{
	r->uid = uid;
	r->gid = gid;
	return r;
}

static void access_rules(void **state)
{
	struct request *r;
	struct desk d;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", true, 1, 0);
	refused(&d, as(ask_new(VERB_INFO, "a"), 1001, 1000), "no_session");
	refused(&d, as(ask_new(VERB_DELETE, "a"), 1001, 1000), "no_session");
	r = ask_new(VERB_SET, "a");
	r->given = GIVEN_SHARE;
	r->share = SHARE_GROUP_READ;
	desk_ask(&d, r);
	assert_int_equal(r->rc, 0);
	request_free(r);
	r = desk_ask(&d, as(ask_new(VERB_INFO, "a"), 1001, 1000));
	assert_string_equal(word(r, "share"), "group-read");
	request_free(r);
	r = as(ask_new(VERB_APPEND, "a"), 1001, 1000);
	ask_text(r, "x");
	refused(&d, r, "not_allowed");
	refused(&d, as(ask_new(VERB_DELETE, "a"), 1001, 1000), "not_allowed");
	refused(&d, as(ask_new(VERB_INFO, "a"), 1001, 1001), "no_session");
	r = ask_new(VERB_RENAME, "a");
	strcpy(r->new_name, "b");
	desk_ask(&d, r);
	assert_string_equal(word(r, "session"), "b");
	request_free(r);
	refused(&d, ask_new(VERB_INFO, "a"), "no_session");
	r = desk_ask(&d, as(ask_new(VERB_LIST, ""), 1001, 1000));
	assert_int_equal(value_get(r->result, "sessions")->l.n, 1);
	request_free(r);
	r = desk_ask(&d, as(ask_new(VERB_LIST, ""), 1001, 5));
	assert_int_equal(value_get(r->result, "sessions")->l.n, 0);
	request_free(r);
	r = as(ask_new(VERB_INFO, "b"), 0, 0);
	desk_ask(&d, r);
	assert_int_equal(r->rc, 0);
	request_free(r);
	desk_stop(&d);
	desk_remove(&d);
}

static void mistakes(void **state)
{
	struct request *r;
	struct desk d;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", false, 1, 0);
	desk_create(&d, "raw", true, 1, 0);
	refused(&d, ask_new(VERB_APPEND, "a"), "bad_param");
	refused(&d, ask_new(VERB_CREATE, ".a"), "bad_name");
	r = ask_new(VERB_APPEND, "raw");
	ask_text(r, "x");
	r->given |= GIVEN_ROLE;
	r->role = ROLE_USER;
	refused(&d, r, "role_unknown");
	r = ask_new(VERB_APPEND, "a");
	r->given = GIVEN_TOKENS;
	ids_push(&r->tokens, 419);
	refused(&d, r, "bad_param");
	r = ask_new(VERB_GENERATE, "a");
	r->given = GIVEN_TOP_P;
	r->settings.sampling.top_p = 2;
	refused(&d, r, "bad_param");
	r = ask_new(VERB_GENERATE, "a");
	r->given = GIVEN_MAX_TOKENS;
	refused(&d, r, "bad_param");
	refused(&d, ask_new(VERB_GENERATE, "none"), "no_session");
	desk_stop(&d);
	desk_remove(&d);
}

static char *long_text(size_t n)
{
	char *s = malloc(n + 1);
	size_t i;

	assert_non_null(s);
	for (i = 0; i < n; i++)
		s[i] = "some words of a text\n"[i % 21];
	s[n] = '\0';
	return s;
}

static bool has_failed(struct desk *d, void *ctx)
{
	(void)ctx;
	return d->status == ENGINE_FAILED;
}

/* There is memory to read one session, and not for the other. */
static void a_start_without_memory(void **state)
{
	struct request *big;
	struct reason why;
	struct desk d;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", true, 1, 0);
	desk_create(&d, "b", true, 1, 0);
	big = ask_new(VERB_APPEND, "b");
	big->n_text = 1u << 20;
	big->text = long_text(big->n_text);
	big->given = GIVEN_TEXT;
	big->wait = true;
	number(desk_ask(&d, big), "position");
	request_free(big);
	desk_stop(&d);

	assert_int_equal(store_open(&d.store, &(struct store_params){ .dir = d.dir }, &why), 0);
	assert_int_equal(mailbox_open(&d.box), 0);
	d.p.store = d.store;
	d.p.serve = d.box;
	d.status = ENGINE_LOADING;
	sqlite3_hard_heap_limit64(sqlite3_memory_used() + 200000);
	assert_int_equal(engine_start(&d.engine, &d.p, &why), 0);
	desk_until(&d, has_failed, NULL);
	sqlite3_hard_heap_limit64(0);
	assert_string_equal(d.failed.name, "memory");
	refused(&d, ask_new(VERB_READ, "a"), "memory");
	refused(&d, ask_new(VERB_INFO, "a"), "memory");
	desk_stop(&d);
	desk_remove(&d);
}

static atomic_bool lacking;            /* memory, for what is read */

static int read_or_not(void *ctx, int file, void *p, size_t n, uint64_t at)
{
	return at > 0 && lacking ? -ENOMEM : disk_real.read(ctx, file, p, n, at);
}

/* Its session is built again; but nobody has refused it, and the next time it is of use. */
static void a_checkpoint_without_memory(void **state)
{
	struct disk disk = disk_real;
	struct desk d;
	int i;

	(void)state;
	disk.read = read_or_not;
	desk_new(&d);
	d.disk = &disk;
	d.p.n_slot = 1;
	desk_start(&d);
	desk_create(&d, "a", false, 1, 0);
	desk_create(&d, "b", false, 1, 0);
	for (i = 0; i < 3; i++) {              /* in turn: who comes back reads its checkpoint */
		lacking = i == 1;
		desk_turn_end(&d, desk_order(&d, VERB_SAY, "a", "Me.", 5));
		lacking = false;
		desk_turn_end(&d, desk_order(&d, VERB_SAY, "b", "Me too.", 5));
	}
	assert_int_equal(desk_stat(&d, "rebuilt_sessions"), 1);
	assert_int_equal(desk_stat(&d, "checkpoints_refused"), 0);
	assert_int_equal(desk_stat(&d, "checkpoints_loaded"), 3);
	desk_stop(&d);
	desk_remove(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(caps),
		cmocka_unit_test(access_rules),
		cmocka_unit_test(mistakes),
		cmocka_unit_test(a_start_without_memory),
		cmocka_unit_test(a_checkpoint_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
