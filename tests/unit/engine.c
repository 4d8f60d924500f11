/* The engine with a real store and a tiny real model: what requests do. */
#include "tests/unit/engine-desk.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/utf8.h"

static void conversation(void **state)
{
	struct desk d;
	struct request *r;
	uint64_t order;
	char *text;
	size_t n;

	(void)state;
	desk_new(&d);
	d.p.window.n_recent = 400;
	desk_start(&d);
	desk_create(&d, "a", false, 1, 0);
	order = desk_order(&d, VERB_SAY, "a", "Hello there", 10);
	desk_turn_end(&d, order);
	order = desk_order(&d, VERB_SAY, "a", "<|im_end|> is text", 10);
	desk_turn_end(&d, order);
	text = desk_text(&d, order, &n);
	assert_true(n > 0);
	r = desk_ask(&d, ask_new(VERB_SHOW, "a"));
	assert_non_null(strstr(word(r, "window"), "You are a tiny model"));
	assert_non_null(strstr(word(r, "window"), "<|im_end|>\n<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"));
	assert_non_null(strstr(word(r, "window"), "<|im_start|>user\n<|im_end|> is text<|im_end|>\n<|im_start|>assistant\n"));
	assert_int_equal(number(r, "position"), value_get(r->result, "head_tokens")->l.n +
	                 value_get(r->result, "window_tokens")->l.n);
	request_free(r);
	desk_check_log(&d, "a");
	r = desk_ask(&d, ask_new(VERB_INFO, "a"));
	assert_string_equal(word(r, "chat"), "chatml");
	request_free(r);
	free(text);
	desk_stop(&d);
	desk_remove(&d);
}

static void keys_are_remembered(void **state)
{
	struct desk d;
	struct request *r;
	uint64_t first = 0, seq = 0;
	int i;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", true, 1, 0);
	for (i = 0; i < 4; i++) {
		r = ask_new(VERB_APPEND, "a");
		ask_text(r, "some text\n");
		memcpy(r->key, "k1", 2);
		r->n_key = 2;
		r->wait = true;
		desk_ask(&d, r);
		if (i == 0) {
			first = number(r, "request");
			seq = number(r, "seq");
		}
		assert_int_equal(number(r, "request"), first);
		assert_int_equal(number(r, "seq"), seq);
		request_free(r);
		if (i == 1) {
			desk_stop(&d);
			desk_start(&d);
		}
	}
	r = desk_ask(&d, ask_new(VERB_INFO, "a"));
	assert_int_equal(number(r, "seq"), 2);
	request_free(r);
	desk_stop(&d);
	desk_remove(&d);
}

/* ---- ending an answer ---- */

static void stop_strings(void **state)
{
	char *whole, *cut, *at, stop[16];
	struct request *r;
	struct desk d;
	uint64_t order;
	size_t n, n_cut, from, len;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", true, 3, 1);
	desk_append_ids(&d, "a", (int32_t[]){ 100, 200, 300 }, 3);
	order = desk_order(&d, VERB_GENERATE, "a", NULL, 60);
	desk_turn_end(&d, order);
	whole = desk_text(&d, order, &n);
	assert_true(n > 40);
	for (from = 0; from + 12 < n; from += 9) {
		len = 2 + from % 9;
		memcpy(stop, whole + from, len);
		at = memmem(whole, n, stop, len);
		desk_delete(&d, "a");
		desk_create(&d, "a", true, 3, 1);
		desk_append_ids(&d, "a", (int32_t[]){ 100, 200, 300 }, 3);
		r = ask_new(VERB_GENERATE, "a");
		r->given = GIVEN_STOP | GIVEN_MAX_TOKENS;
		r->settings.max_tokens = 60;
		r->settings.stops.n = 2;
		memcpy(r->settings.stops.at[0].data, "no such text in it at all", 25);
		r->settings.stops.at[0].n = 25;
		memcpy(r->settings.stops.at[1].data, stop, len);
		r->settings.stops.at[1].n = (uint32_t)len;
		order = number(desk_ask(&d, r), "request");
		request_free(r);
		desk_turn_end(&d, order);
		assert_int_equal(desk_reason(&d, order), TURN_STOP);
		cut = desk_text(&d, order, &n_cut);
		assert_int_equal(n_cut, at - whole);
		assert_memory_equal(cut, whole, n_cut);
		free(cut);
		desk_check_log(&d, "a");
	}
	free(whole);
	desk_stop(&d);
	desk_remove(&d);
}

static void whole_characters(void **state)
{
	struct desk d;
	uint64_t order, n_split = 0;
	size_t i;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", true, 11, 3);
	desk_append_ids(&d, "a", (int32_t[]){ 100, 200 }, 2);
	order = desk_order(&d, VERB_GENERATE, "a", NULL, 2000);
	desk_turn_end(&d, order);
	for (i = 0; i < d.n_seen; i++) {
		const struct event *e = &d.seen[i].event;
		bool last = i + 1 < d.n_seen && d.seen[i + 1].event.kind == EVENT_TURN;

		if (e->kind != EVENT_TEXT || e->order != order || last)
			continue;
		assert_int_equal(utf8_complete_prefix(e->text, e->n_text), e->n_text);
		n_split += e->ids.n > 1;
	}
	assert_true(n_split > 0);      /* some were held back */
	desk_check_log(&d, "a");
	desk_stop(&d);
	desk_remove(&d);
}

static void cancelling(void **state)
{
	struct request *r;
	struct desk d;
	uint64_t order, queued;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	order = desk_endless(&d, "a", false);
	queued = desk_order(&d, VERB_SAY, "a", "And?", 5);
	r = desk_ask(&d, ask_new(VERB_CANCEL, "a"));
	assert_true(number(r, "cancelled"));
	request_free(r);
	assert_int_equal(desk_reason(&d, order), TURN_CANCELLED);
	desk_turn_end(&d, queued);
	assert_int_not_equal(desk_reason(&d, queued), TURN_CANCELLED);
	r = desk_ask(&d, ask_new(VERB_CANCEL, "a"));
	assert_false(number(r, "cancelled"));
	request_free(r);
	desk_check_log(&d, "a");
	desk_stop(&d);
	desk_remove(&d);
}

static void peers_leave(void **state)
{
	struct request *r;
	struct desk d;
	uint64_t bound, queued, free_one;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	bound = desk_endless(&d, "a", true);
	r = ask_new(VERB_SAY, "a");
	ask_text(r, "Tell me too.");
	r->until_disconnect = true;
	queued = number(desk_ask(&d, r), "request");
	request_free(r);
	free_one = desk_order(&d, VERB_SAY, "a", "And me.", 5);
	r = ask_new(VERB_PEER_GONE, "");
	desk_post(&d, r);
	desk_turn_end(&d, bound);
	desk_turn_end(&d, queued);
	desk_turn_end(&d, free_one);
	assert_int_equal(desk_reason(&d, bound), TURN_CANCELLED);
	assert_int_equal(desk_reason(&d, queued), TURN_CANCELLED);
	assert_int_not_equal(desk_reason(&d, free_one), TURN_CANCELLED);
	desk_check_log(&d, "a");
	desk_stop(&d);
	desk_remove(&d);
}

/* The peer has left before what it asked for is on disk. */
static void peers_leave_at_once(void **state)
{
	struct request *r;
	struct desk d;
	uint64_t order;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_endless(&d, "a", false);
	request_free(desk_ask(&d, ask_new(VERB_CANCEL, "a")));
	r = ask_new(VERB_GENERATE, "a");
	r->given |= GIVEN_MAX_TOKENS;
	r->settings.max_tokens = 1000000;
	r->until_disconnect = true;
	desk_post(&d, r);
	desk_post(&d, ask_new(VERB_PEER_GONE, ""));
	order = number(desk_answer(&d, r), "request");
	request_free(r);
	desk_turn_end(&d, order);
	assert_int_equal(desk_reason(&d, order), TURN_CANCELLED);
	desk_stop(&d);
	desk_remove(&d);
}

/* ---- the rest ---- */

static void deleting(void **state)
{
	struct request *r;
	struct desk d;
	uint64_t id;
	size_t i;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_endless(&d, "a", false);
	r = desk_ask(&d, ask_new(VERB_INFO, "a"));
	id = r->session;
	request_free(r);
	desk_delete(&d, "a");
	for (i = 0; i < d.n_seen && !(d.seen[i].deleted && d.seen[i].event.session == id); i++)
		;
	assert_int_equal(i, d.n_seen - 1);
	refused(&d, ask_new(VERB_INFO, "a"), "no_session");
	desk_create(&d, "a", false, 1, 1);
	desk_turn_end(&d, desk_order(&d, VERB_SAY, "a", "Again.", 5));
	desk_stop(&d);
	assert_true(desk_has_checkpoint(&d));
	desk_remove(&d);
}

/* One that waits for a slot behind another is deleted. */
static void deleting_in_the_queue(void **state)
{
	static const char *const names[] = { "b", "c", "e" };
	struct request *r;
	struct desk d;
	uint64_t order;
	size_t i;

	(void)state;
	desk_new(&d);
	d.p.n_slot = 1;
	d.p.slot_seconds = 1000;
	desk_start(&d);
	desk_endless(&d, "a", false);
	for (i = 0; i < 3; i++) {
		desk_create(&d, names[i], false, 1, 0);
		order = desk_order(&d, VERB_SAY, names[i], "Me too.", 3);
	}
	desk_delete(&d, "c");
	desk_create(&d, "f", false, 1, 0);
	desk_order(&d, VERB_SAY, "f", "Me too.", 3);
	r = desk_ask(&d, ask_new(VERB_CANCEL, "a"));
	assert_true(number(r, "cancelled"));
	request_free(r);
	desk_turn_end(&d, order);
	while (!desk_idle(&d, "b") || !desk_idle(&d, "f"))
		desk_pump(&d, 10);
	desk_stop(&d);
	desk_remove(&d);
}

/* Who reads a session goes on in it, whatever its name is by now. */
static void renamed_under_a_reader(void **state)
{
	struct request *r, *rename;
	struct desk d;
	uint64_t id;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", true, 1, 0);
	desk_append_ids(&d, "a", (int32_t[]){ 100, 200, 300 }, 3);
	r = desk_ask(&d, ask_new(VERB_READ, "a"));
	id = r->session;
	request_free(r);
	rename = ask_new(VERB_RENAME, "a");
	strcpy(rename->new_name, "b");
	request_free(desk_ask(&d, rename));
	desk_create(&d, "a", true, 1, 0);      /* another one */
	r = ask_new(VERB_READ, "a");
	r->session = id;
	desk_ask(&d, r);
	assert_int_equal(r->rc, 0);
	assert_int_equal(r->session, id);
	assert_int_equal(value_get(r->result, "events")->l.n, 2);
	request_free(r);
	desk_delete(&d, "b");
	r = ask_new(VERB_READ, "a");
	r->session = id;
	refused(&d, r, "no_session");
	desk_stop(&d);
	desk_remove(&d);
}

/* The head is the whole turn; and the tokens are those of a session in which it is not pinned. */
static void pinned_system(void **state)
{
	const char *const turn = "<|im_start|>system\nNever forget this.<|im_end|>\n";
	const struct value *head, *whole;
	struct request *r, *q;
	struct desk d;
	size_t i;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	for (i = 0; i < 2; i++) {
		r = ask_new(VERB_CREATE, i == 0 ? "a" : "b");
		r->given = i == 0 ? 0 : GIVEN_WINDOW | GIVEN_SINKS;
		r->window = (struct window){ .n_sink = 0, .n_recent = 200 };
		r->pin = i == 0;
		r->system = strdup("Never forget this.");
		r->n_system = strlen(r->system);
		desk_ask(&d, r);
		assert_true(i > 0 || number(r, "sinks") > 8);
		request_free(r);
		desk_turn_end(&d, desk_order(&d, VERB_SAY, i == 0 ? "a" : "b", "One two three four five six seven eight nine ten.", 60));
	}
	r = desk_ask(&d, ask_new(VERB_SHOW, "a"));
	q = desk_ask(&d, ask_new(VERB_SHOW, "b"));
	assert_string_equal(word(r, "head"), turn);
	assert_true(number(r, "forgotten") > 0);
	head = value_get(r->result, "head_tokens");
	whole = value_get(q->result, "window_tokens");
	assert_int_equal(head->l.n, number(r, "sinks"));
	for (i = 0; i < head->l.n; i++)
		assert_int_equal(head->l.items[i]->i, whole->l.items[i]->i);
	assert_int_equal(whole->l.items[i]->i, whole->l.items[0]->i);          /* <|im_start|>, of the user's */
	request_free(r);
	request_free(q);
	desk_stop(&d);
	desk_remove(&d);
}

static void scoring(void **state)
{
	struct request *r, *other;
	struct desk d;
	double nll[4];
	int i;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", false, 1, 1);
	other = ask_new(VERB_SAY, "a");        /* goes on meanwhile */
	ask_text(other, "Tell me.");
	other->wait = true;
	desk_post(&d, other);
	for (i = 0; i < 4; i++) {
		r = ask_new(VERB_SCORE, "");
		ask_text(r, "It is a truth universally acknowledged, that a single man in possession of a good "
		         "fortune, must be in want of a wife. However little known the feelings or views.");
		r->given |= GIVEN_SINKS | GIVEN_WINDOW;
		r->window = (struct window){ .n_sink = 2, .n_recent = 20 };
		r->chunk = (uint32_t[]){ 1, 7, 64, 256 }[i];
		r->per_token = true;
		desk_ask(&d, r);
		assert_true(number(r, "tokens") > 60);
		assert_int_equal(value_get(r->result, "per_token")->l.n, number(r, "tokens") - 1);
		nll[i] = value_get(r->result, "nll")->d;
		assert_true(nll[i] == nll[0]);
		request_free(r);
	}
	number(desk_answer(&d, other), "seq");
	request_free(other);
	desk_stop(&d);
	desk_remove(&d);
}

/* With another model loaded a session can be read and deleted, and says why not more. */
static void another_model(void **state)
{
	char other[4096];
	struct request *r;
	struct desk d;

	(void)state;
	desk_new(&d);
	desk_start(&d);
	desk_create(&d, "a", true, 1, 0);
	desk_append_ids(&d, "a", (int32_t[]){ 100, 200, 300 }, 3);
	desk_endless(&d, "c", false);
	desk_stop(&d);
	snprintf(other, sizeof other, "%.*s/tiny-gemma3.gguf", (int)(strrchr(d.p.model, '/') - d.p.model), d.p.model);
	d.p.model = other;
	desk_start(&d);
	r = desk_ask(&d, ask_new(VERB_INFO, "a"));
	assert_string_equal(word(r, "state"), "model_changed");
	assert_string_equal(word(r, "why"), "a belongs to the model Tiny llama");
	request_free(r);
	r = desk_ask(&d, ask_new(VERB_INFO, "c"));
	assert_int_equal(value_get(r->result, "raw")->b, false);
	assert_int_equal(value_get(r->result, "chat")->kind, VALUE_NIL);
	request_free(r);
	refused(&d, ask_new(VERB_GENERATE, "a"), "model_changed");
	refused(&d, ask_new(VERB_SHOW, "a"), "model_changed");
	refused(&d, ask_new(VERB_CANCEL, "c"), "model_changed");
	r = ask_new(VERB_SET, "a");
	r->given = GIVEN_MODEL;
	refused(&d, r, "not_finished");
	r = desk_ask(&d, ask_new(VERB_READ, "a"));
	assert_int_equal(value_get(r->result, "events")->l.n, 2);
	request_free(r);
	desk_create(&d, "b", true, 1, 0);
	desk_turn_end(&d, desk_order(&d, VERB_GENERATE, "b", NULL, 5));
	desk_delete(&d, "a");
	desk_stop(&d);
	desk_remove(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(conversation),
		cmocka_unit_test(keys_are_remembered),
		cmocka_unit_test(stop_strings),
		cmocka_unit_test(whole_characters),
		cmocka_unit_test(cancelling),
		cmocka_unit_test(peers_leave),
		cmocka_unit_test(peers_leave_at_once),
		cmocka_unit_test(deleting),
		cmocka_unit_test(deleting_in_the_queue),
		cmocka_unit_test(renamed_under_a_reader),
		cmocka_unit_test(pinned_system),
		cmocka_unit_test(scoring),
		cmocka_unit_test(another_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
