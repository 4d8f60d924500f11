/*
 * The engine with a real store and a tiny real model: what a session says must
 * not depend on restarts, lost checkpoints, lost power, other sessions, slots or
 * jumps.
 */
#include "tests/unit/engine-desk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/fakedisk.h"

static const float temperatures[] = { 0, 1.5f };

static void restart_in_the_middle(void **state)
{
	char *alone, *after, name[16];
	struct desk d, copy;
	uint64_t order, story;
	int i, how;

	(void)state;
	for (i = 0; i < 2; i++) {
		desk_new(&d);
		d.p.window.n_recent = 60;
		desk_start(&d);
		story = desk_long_story(&d, "alone", temperatures[i], 400);
		alone = desk_log(&d, "alone");
		/* As a SIGKILL leaves it, with and without a checkpoint. */
		for (how = 0; how < 2; how++) {
			snprintf(name, sizeof name, "a%d", how);
			order = desk_story(&d, name, temperatures[i], story, 400);
			desk_texts(&d, order, 60);
			desk_crash(&d, &copy);
			if (how == 1)
				desk_drop_checkpoints(&copy);
			desk_start(&copy);
			desk_turn_end(&copy, order);
			after = desk_log(&copy, name);
			assert_string_equal(after, alone);
			free(after);
			desk_stop(&copy);
			desk_remove(&copy);
		}
		free(alone);
		desk_stop(&d);
		desk_remove(&d);
	}
}

static void stop_and_start(void **state)
{
	char *alone, *after;
	uint64_t order, story;
	struct desk d;
	int times;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	story = desk_long_story(&d, "alone", 0.5f, 800);
	alone = desk_log(&d, "alone");
	order = desk_story(&d, "a", 0.5f, story, 800);
	for (times = 0; times < 4 && !desk_idle(&d, "a"); times++) {
		desk_texts(&d, order, 1);
		desk_stop(&d);
		assert_true(desk_has_checkpoint(&d));
		if (times % 2 == 1)
			desk_drop_checkpoints(&d);
		desk_start(&d);
	}
	assert_true(times > 1);
	while (!desk_idle(&d, "a"))
		desk_pump(&d, 10);
	after = desk_log(&d, "a");
	assert_string_equal(after, alone);
	free(after);
	free(alone);
	desk_stop(&d);
	desk_remove(&d);
}

static void many_at_once(void **state)
{
	uint64_t orders[6];
	char *logs[6][2], name[8];
	struct desk d;
	int i, slots;

	(void)state;
	for (slots = 4; slots >= 1; slots -= 3) {
		desk_new(&d);
		d.p.n_slot = (uint32_t)slots;          /* fewer than sessions */
		desk_start(&d);
		for (i = 0; i < 6; i++) {
			snprintf(name, sizeof name, "s%d", i);
			desk_create(&d, name, false, (uint64_t)i, 1);
		}
		for (i = 0; i < 6; i++) {              /* each alone */
			snprintf(name, sizeof name, "s%d", i);
			desk_turn_end(&d, desk_order(&d, VERB_SAY, name, "One, two, three.", 50));
			logs[i][0] = desk_log(&d, name);
			desk_delete(&d, name);
			desk_create(&d, name, false, (uint64_t)i, 1);
		}
		for (i = 0; i < 6; i++) {              /* all together */
			snprintf(name, sizeof name, "s%d", i);
			orders[i] = desk_order(&d, VERB_SAY, name, "One, two, three.", 50);
		}
		for (i = 0; i < 6; i++)
			desk_turn_end(&d, orders[i]);
		for (i = 0; i < 6; i++) {
			snprintf(name, sizeof name, "s%d", i);
			logs[i][1] = desk_log(&d, name);
			assert_string_equal(logs[i][1], logs[i][0]);
			free(logs[i][0]);
			free(logs[i][1]);
		}
		if (slots == 1)
			assert_true(desk_stat(&d, "slots_evicted") >= 5);
		desk_stop(&d);
		desk_remove(&d);
	}
}

static void catch_up_is_exact(void **state)
{
	enum { N = 3000 };
	struct desk d;
	uint64_t order, skipped;
	char *text[2];
	size_t i, n, which;
	int32_t *ids = malloc(N * sizeof *ids);

	(void)state;
	assert_non_null(ids);
	for (i = 0; i < N; i++)
		ids[i] = (int32_t)(3 + (i * i * 7 + i * 31) % 400);
	desk_new(&d);
	desk_start(&d);
	for (which = 0; which < 2; which++) {
		const char *name = which == 0 ? "slow" : "fast";
		size_t step = which == 0 ? 40 : N;

		desk_create(&d, name, true, 5, 1);
		skipped = desk_stat(&d, "skipped_tokens");
		for (i = 0; i < N; i += step)
			desk_append_ids(&d, name, ids + i, step);
		order = desk_order(&d, VERB_GENERATE, name, NULL, 100);
		desk_turn_end(&d, order);
		text[which] = desk_text(&d, order, &n);
		skipped = desk_stat(&d, "skipped_tokens") - skipped;
		/* 3 layers x 28 + 1, the head, and what was computed while it came */
		if (which == 0)
			assert_int_equal(skipped, 0);
		else
			assert_true(skipped > N / 2);
	}
	assert_string_equal(text[0], text[1]);
	free(text[0]);
	free(text[1]);
	free(ids);
	desk_stop(&d);
	desk_remove(&d);
}

static void damaged_checkpoint(void **state)
{
	char command[256], *alone, *after;
	struct desk d;
	uint64_t order;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", false, 9, 1);
	desk_create(&d, "b", false, 9, 1);
	desk_turn_end(&d, desk_order(&d, VERB_SAY, "a", "Tell me.", 50));
	desk_turn_end(&d, desk_order(&d, VERB_SAY, "a", "More.", 50));
	alone = desk_log(&d, "a");
	desk_turn_end(&d, desk_order(&d, VERB_SAY, "b", "Tell me.", 50));
	desk_stop(&d);
	snprintf(command, sizeof command, "for f in '%s'/checkpoint/*; do printf x | dd of=\"$f\" bs=1 seek=2000 "
	         "conv=notrunc status=none; done", d.dir);
	assert_int_equal(system(command), 0);
	desk_start(&d);
	order = desk_order(&d, VERB_SAY, "b", "More.", 50);
	desk_turn_end(&d, order);
	assert_int_equal(desk_stat(&d, "checkpoints_refused"), 1);
	assert_int_equal(desk_stat(&d, "rebuilt_sessions"), 1);
	after = desk_log(&d, "b");
	assert_string_equal(after, alone);
	free(alone);
	free(after);
	desk_stop(&d);
	desk_remove(&d);
}

/* More work than slots, and little patience: busy sessions are put to disk and
 * brought back in the middle of their answers. */
static void turns_about(void **state)
{
	char *alone, *after, name[8];
	uint64_t orders[3], story;
	struct desk d;
	int i;

	(void)state;
	desk_new(&d);
	d.p.n_slot = 1;
	d.p.slot_seconds = 0.005;
	desk_start(&d);
	story = desk_long_story(&d, "alone", 0.5f, 600);
	alone = desk_log(&d, "alone");
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "y%d", i);
		orders[i] = desk_story(&d, name, 0.5f, story, 600);
	}
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "y%d", i);
		desk_turn_end(&d, orders[i]);
		after = desk_log(&d, name);
		assert_string_equal(after, alone);
		free(after);
	}
	free(alone);
	assert_true(desk_stat(&d, "slots_evicted") > 6);
	desk_stop(&d);
	desk_remove(&d);
}

/* A conversation with keys; false: the daemon refused something. */
static bool converse(struct desk *d, bool wait)
{
	static const struct { enum verb verb; const char *key, *text; } lines[] = {
		{ VERB_APPEND, "k1", "The first line.\n" }, { VERB_SAY, "k2", "What now?" },
		{ VERB_APPEND, "k3", "And a third line, longer than the first.\n" }, { VERB_SAY, "k4", "Go on." },
	};
	struct request *r = ask_new(VERB_CREATE, "a");
	bool good;
	size_t i;

	r->given = GIVEN_SEED | GIVEN_TEMPERATURE;
	r->settings.sampling.seed = 77;
	r->settings.sampling.temperature = 1;
	desk_ask(d, r);
	good = r->rc == 0 || strcmp(r->why.name, "session_exists") == 0;
	request_free(r);
	for (i = 0; good && i < sizeof lines / sizeof *lines; i++) {
		r = ask_new(lines[i].verb, "a");
		ask_text(r, lines[i].text);
		memcpy(r->key, lines[i].key, r->n_key = 2);
		r->wait = wait;
		r->given |= GIVEN_MAX_TOKENS;
		r->settings.max_tokens = 40;
		desk_ask(d, r);
		good = r->rc == 0;
		if (wait && !good)
			fail_msg("%s: %s", r->why.name, r->why.text);
		request_free(r);
	}
	return good;
}

static void power_loss(void **state)
{
	struct desk d;
	char *undisturbed, *after;
	int i, ms, cuts = 0;

	(void)state;
	desk_new(&d);
	d.vfs = "fakedisk";
	d.disk = &fakedisk;
	fakedisk_install(1);
	fakedisk_clear();
	desk_start(&d);
	converse(&d, true);
	undisturbed = desk_log(&d, "a");
	desk_stop(&d);
	for (i = 0; i < 24; i++) {
		fakedisk_clear();
		fakedisk_cut_after((uint64_t)(16 + 5 * i));
		if (desk_try_start(&d)) {
			converse(&d, false);
			for (ms = 0; ms < 700 && !fakedisk_is_cut(); ms += 10)
				desk_pump(&d, 10);
			cuts += fakedisk_is_cut();
			desk_stop(&d);
		}
		fakedisk_power_on((enum lost)(i % N_LOST));
		fakedisk_cut_after(UINT64_MAX);
		desk_start(&d);
		converse(&d, true);
		after = desk_log(&d, "a");
		assert_string_equal(after, undisturbed);
		free(after);
		desk_stop(&d);
	}
	assert_true(cuts > 4);
	free(undisturbed);
	desk_remove(&d);
}

/* Bound to a peer that a new process cannot have. */
static void bound_over_a_restart(void **state)
{
	struct desk d;
	uint64_t order;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	order = desk_endless(&d, "a", true);
	desk_stop(&d);
	desk_start(&d);
	while (!desk_idle(&d, "a"))
		desk_pump(&d, 10);
	assert_int_equal(desk_reason(&d, order), TURN_CANCELLED);
	desk_stop(&d);
	desk_remove(&d);
}

static atomic_bool gate;               /* what is read from a checkpoint waits behind it */

static int read_slowly(void *ctx, int file, void *p, size_t n, uint64_t at)
{
	while (at > 0 && gate)
		usleep(1000);
	return disk_real.read(ctx, file, p, n, at);
}

static bool in_state(struct desk *d, const char *name, const char *state)
{
	struct request *r = desk_ask(d, ask_new(VERB_INFO, name));
	bool yes = strcmp(word(r, "state"), state) == 0;

	request_free(r);
	return yes;
}

/* Waits until a session that has been put out in the middle of its answer stands so, and cancels that there. */
static void cancel_in(struct desk *d, const char *name, const char *state)
{
	struct request *r = ask_new(VERB_CANCEL, name);

	while (!in_state(d, name, state)) {
		gate = strcmp(state, "loading") == 0 && !in_state(d, "b", "loading");
		desk_pump(d, 1);
	}
	desk_post(d, r);
	desk_pump(d, 50);
	assert_true(in_state(d, name, state) || strcmp(state, "loading") != 0);
	gate = false;
	assert_true(number(desk_answer(d, r), "cancelled"));
	request_free(r);
}

/* What a session says after an answer that was cancelled while it had no slot, or no cache yet, is what it says
 * where all is built from its log. */
static void cancelled_without_a_slot(void **state)
{
	static const char *const states[] = { "queued", "loading" };
	struct disk disk = disk_real;
	struct desk d, copy;
	char *here, *there;
	uint64_t order;
	int how;

	(void)state;
	disk.read = read_slowly;
	for (how = 0; how < 2; how++) {
		desk_new(&d);
		d.p.n_slot = 1;
		d.p.slot_seconds = 0.05;
		d.disk = &disk;
		desk_start(&d);
		desk_endless(&d, "b", false);
		order = desk_endless(&d, "a", false);
		cancel_in(&d, "a", states[how]);
		assert_int_equal(desk_reason(&d, order), TURN_CANCELLED);
		request_free(desk_ask(&d, ask_new(VERB_CANCEL, "b")));
		desk_crash(&d, &copy);
		desk_drop_checkpoints(&copy);
		desk_start(&copy);
		desk_turn_end(&d, desk_order(&d, VERB_SAY, "a", "And now?", 30));
		desk_turn_end(&copy, desk_order(&copy, VERB_SAY, "a", "And now?", 30));
		here = desk_log(&d, "a");
		there = desk_log(&copy, "a");
		assert_string_equal(here, there);
		assert_int_equal(desk_stat(&d, "rebuilt_sessions"), 0);
		free(here);
		free(there);
		desk_stop(&copy);
		desk_remove(&copy);
		desk_stop(&d);
		desk_remove(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(restart_in_the_middle),
		cmocka_unit_test(stop_and_start),
		cmocka_unit_test(many_at_once),
		cmocka_unit_test(turns_about),
		cmocka_unit_test(catch_up_is_exact),
		cmocka_unit_test(damaged_checkpoint),
		cmocka_unit_test(bound_over_a_restart),
		cmocka_unit_test(power_loss),
		cmocka_unit_test(cancelled_without_a_slot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
