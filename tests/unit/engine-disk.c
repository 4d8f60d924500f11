/* The engine with a real store on a disk that is full: what is refused, what is tried
 * again, and who waits for it. */
#include "tests/unit/engine-desk.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* No file may be longer; RLIM_INFINITY: as it was. */
static void files_grow(rlim_t most)
{
	struct rlimit r;

	getrlimit(RLIMIT_FSIZE, &r);
	r.rlim_cur = most < r.rlim_max ? most : r.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

/* Four that were posted, as what each is refused. */
static void answered(struct desk *d, struct request *const *sent, const char *const *whys)
{
	size_t i;

	for (i = 0; i < 4; i++) {
		desk_answer(d, sent[i]);
		assert_string_equal(sent[i]->why.name, whys[i]);
		request_free(sent[i]);
	}
}

/* What the disk refuses is as if nobody had asked for it: before and after an
 * answer's own entries were refused, too. */
static void full_disk(unsigned wait_ms)
{
	const enum verb verbs[] = { VERB_DELETE, VERB_INFO, VERB_CREATE, VERB_INFO };
	const char *const whys[] = { "disk", "", "disk", "no_session" };
	struct request *r, *sent[4];
	struct desk d;
	size_t i;

	desk_new(&d);
	desk_start(&d);
	desk_endless(&d, "a", false);
	desk_create(&d, "b", true, 1, 0.5f);
	files_grow(0);
	usleep(wait_ms * 1000);
	r = ask_new(VERB_SET, "b");
	r->given = GIVEN_TEMPERATURE | GIVEN_SHARE;
	r->settings.sampling.temperature = 2;
	r->share = SHARE_GROUP_WRITE;
	refused(&d, r, "disk");
	for (i = 0; i < 4; i++) {
		sent[i] = ask_new(verbs[i], i < 2 ? "a" : "c");
		desk_post(&d, sent[i]);
	}
	answered(&d, sent, whys);
	files_grow(RLIM_INFINITY);
	r = desk_ask(&d, ask_new(VERB_INFO, "b"));
	assert_true(value_get(r->result, "temperature")->d == 0.5);
	assert_string_equal(word(r, "share"), "none");
	request_free(r);
	r = desk_ask(&d, ask_new(VERB_CANCEL, "a"));
	assert_true(number(r, "cancelled"));
	request_free(r);
	desk_turn_end(&d, desk_order(&d, VERB_SAY, "a", "Again.", 5));
	desk_check_log(&d, "a");
	desk_stop(&d);
	desk_remove(&d);
}

static void full_disk_at_once(void **state)
{
	(void)state;
	full_disk(0);
}

static void full_disk_for_a_while(void **state)
{
	(void)state;
	full_disk(300);
}

/* ---- a session that is not to be after all ---- */

#define PAGE 4096

/* As a client that creates and appends without waiting in between. */
static void create_and_append(struct desk *d, struct request **create, struct request **append)
{
	*create = ask_new(VERB_CREATE, "x");
	(*create)->n_system = 16 * PAGE;
	(*create)->system = malloc((*create)->n_system);
	memset((*create)->system, 'a', (*create)->n_system);
	*append = ask_new(VERB_APPEND, "x");
	ask_text(*append, "b");
	desk_post(d, *create);
	desk_post(d, *append);
}

static struct request *renamed(struct desk *d, const char *from, const char *to)
{
	struct request *r = ask_new(VERB_RENAME, from);

	strcpy(r->new_name, to);
	return desk_ask(d, r);
}

/* Its row found room on the disk, its system prompt did not, nor did what takes the row away again; true: so it went. */
static bool leaves_a_row(struct desk *d, rlim_t most)
{
	struct request *create, *append, *r;
	bool left;

	files_grow(most);
	create_and_append(d, &create, &append);
	desk_answer(d, create);
	assert_string_equal(create->why.name, "disk");
	desk_answer(d, append);                /* it does not wait for what is not to be */
	assert_string_equal(append->why.name, "no_session");
	r = renamed(d, "b", "x");
	left = strstr(r->why.text, "not off the disk") != NULL;
	assert_string_equal(r->why.name, r->rc == 0 ? "" : "disk");
	files_grow(RLIM_INFINITY);
	if (r->rc == 0)
		request_free(renamed(d, "x", "b"));
	request_free(create);
	request_free(append);
	request_free(r);
	return left;
}

static void undone_later(void **state)
{
	struct request *r;
	struct desk d;
	struct stat st;
	char path[128];
	int i;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "b", true, 1, 0);
	snprintf(path, sizeof path, "%s/sinkd.db-wal", d.dir);
	for (i = 1; i < 16; i++) {
		assert_int_equal(stat(path, &st), 0);
		if (leaves_a_row(&d, (rlim_t)st.st_size + (rlim_t)i * PAGE))
			break;
	}
	assert_true(i < 16);
	refused(&d, ask_new(VERB_INFO, "x"), "no_session");
	do {                                   /* there is room: it is tried again after a while */
		desk_pump(&d, 100);
		r = desk_ask(&d, ask_new(VERB_CREATE, "x"));
		i = r->rc;
		request_free(r);
	} while (i != 0);
	desk_check_log(&d, "x");
	desk_stop(&d);
	desk_remove(&d);
}

/* Until the store has said whether it can be, who names the session or the name it is to have waits. */
static void renamed_in_vain(void **state)
{
	struct request *sent[] = { ask_new(VERB_RENAME, "b"), ask_new(VERB_SET, "x"), ask_new(VERB_CREATE, "b"), ask_new(VERB_INFO, "b") };
	const char *const whys[] = { "disk", "no_session", "session_exists", "" };
	struct desk d;
	size_t i;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "b", true, 1, 0);
	strcpy(sent[0]->new_name, "x");
	sent[1]->given = GIVEN_MAX_TOKENS;
	sent[1]->settings.max_tokens = 7;
	files_grow(0);
	for (i = 0; i < 4; i++)
		desk_post(&d, sent[i]);
	answered(&d, sent, whys);
	files_grow(RLIM_INFINITY);
	request_free(renamed(&d, "b", "x"));
	refused(&d, ask_new(VERB_INFO, "b"), "no_session");
	desk_create(&d, "b", true, 1, 0);
	desk_stop(&d);
	desk_remove(&d);
}

static int room_again(void **state)
{
	(void)state;
	files_grow(RLIM_INFINITY);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(full_disk_at_once, room_again),
		cmocka_unit_test_teardown(full_disk_for_a_while, room_again),
		cmocka_unit_test_teardown(undone_later, room_again),
		cmocka_unit_test_teardown(renamed_in_vain, room_again),
	};

	signal(SIGXFSZ, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
