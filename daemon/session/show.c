/*
 * Reading: the log through the store, and what the model still sees.
 *
 * It must not wait for a slot or a step: everything that is shown is in the log.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/utf8.h"
#include "daemon/session/engine-internal.h"

/* ---- read ---- */

static void was_read(struct call *c, struct store_job *j)
{
	struct request *r = c->r;
	struct value *list;
	size_t i;

	if (c->t->deleting || c->t->gone) {
		answer_refused(c->engine, r, "no_session", "the session has been deleted");
		return;
	}
	if (j->rc != 0) {
		answer_failed(c->engine, r, j, "the log could not be read");
		return;
	}
	list = value_list();
	for (i = 0; i < j->n_event; i++)
		value_push(list, event_value(&j->events[i], c->t->row.name));
	r->result = value_map();
	value_put(r->result, "events", list);
	value_put(r->result, "next", value_uint(j->next));
	value_put(r->result, "durable", value_uint(j->durable_seq));
	r->next_seq = j->next;
	r->last_seq = c->t->row.n_seq;
	answer(c->engine, r);
}

void verb_read(struct engine *e, struct request *r, struct timeline *t)
{
	struct store_job *j = store_job_new(STORE_READ, t->row.id);

	j->from = r->from > 0 ? r->from : 1;
	j->limit = r->limit > 0 && r->limit < READ_ENTRIES ? r->limit : READ_ENTRIES;
	j->limit_bytes = READ_BYTES;
	call_post(call_new(e, t, r, was_read), j);
}

/* ---- text of ids ---- */

static void put_text(struct value *v, const char *key, const char *text, size_t n)
{
	char name[32], *clean;
	size_t n_clean;

	if (utf8_is_valid(text, n)) {
		value_put(v, key, value_strn(text, n));
		return;
	}
	clean = utf8_scrub(text, n, &n_clean);
	value_put(v, key, clean != NULL ? value_strn(clean, n_clean) : value_lost());
	free(clean);
	snprintf(name, sizeof name, strcmp(key, "text") == 0 ? "bytes" : "%s_bytes", key);
	value_put(v, name, value_bin(text, n));
}

static void put_ids(const struct engine *e, struct value *v, const char *key, const int32_t *ids,
                    size_t n, bool special)
{
	struct gguf_str piece;
	size_t i, n_text = 0;
	char *text;

	for (i = 0; i < n; i++)
		n_text += tokenizer_piece(e->tokenizer, ids[i], special).n;
	text = malloc(n_text + 1);
	if (text == NULL) {
		value_put(v, key, value_lost());
		return;
	}
	for (i = 0, n_text = 0; i < n; i++) {
		piece = tokenizer_piece(e->tokenizer, ids[i], special);
		memcpy(text + n_text, piece.data, piece.n);
		n_text += piece.n;
	}
	put_text(v, key, text, n_text);
	free(text);
}

void verb_detokenize(struct engine *e, struct request *r, struct timeline *none)
{
	size_t i;

	(void)none;
	for (i = 0; i < r->tokens.n; i++)
		if (r->tokens.data[i] < 0 || (size_t)r->tokens.data[i] >= tokenizer_n_vocab(e->tokenizer)) {
			answer_refused(e, r, "bad_param", "tokens: %d is not a token id of this model", r->tokens.data[i]);
			return;
		}
	r->result = value_map();
	put_ids(e, r->result, "text", r->tokens.data, r->tokens.n, false);
	answer(e, r);
}

/* ---- show ---- */

static struct value *list_of(const int32_t *ids, size_t n)
{
	struct value *list = value_list();
	size_t i;

	for (i = 0; i < n; i++)
		value_push(list, value_int(ids[i]));
	return list;
}

static void shown(struct call *c, struct store_job *j);

static void ask(struct engine *e, struct request *r, struct timeline *t, uint64_t part, uint64_t from, uint64_t to)
{
	struct store_job *j = store_job_new(STORE_TOKENS, t->row.id);
	struct call *c = call_new(e, t, r, shown);

	c->n = part;
	j->from = to > from ? from : UINT64_MAX;       /* past the end: nothing */
	j->limit = to > from ? to - from : 0;
	call_post(c, j);
}

/* First the head's ids come (kept in r->tokens), then the window's. */
static void shown(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;
	struct request *r = c->r;
	uint64_t start = r->from, sinks = t->row.window.n_sink;
	struct value *v;

	if (t->deleting || t->gone) {
		answer_refused(c->engine, r, "no_session", "the session has been deleted");
		return;
	}
	if (j->rc != 0 || j->ids.n != j->limit) {
		answer_failed(c->engine, r, j, "the log could not be read");
		return;
	}
	if (c->n == 0) {
		r->tokens = j->ids;
		memset(&j->ids, 0, sizeof j->ids);
		ask(c->engine, r, t, 1, start, r->limit);
		return;
	}
	v = value_map();
	value_put(v, "session", value_str(t->row.name));
	value_put(v, "sinks", value_uint(sinks));
	put_ids(c->engine, v, "head", r->tokens.data, r->tokens.n, true);
	value_put(v, "head_tokens", list_of(r->tokens.data, r->tokens.n));
	put_ids(c->engine, v, "window", j->ids.data, j->ids.n, true);
	value_put(v, "window_tokens", list_of(j->ids.data, j->ids.n));
	value_put(v, "window_start", value_uint(start));
	value_put(v, "position", value_uint(r->limit));
	value_put(v, "forgotten", value_uint(start - sinks));
	r->result = v;
	answer(c->engine, r);
}

void verb_show(struct engine *e, struct request *r, struct timeline *t)
{
	uint64_t n = t->row.n_token, sinks = t->row.window.n_sink;

	if (t->changed) {
		r->rc = timeline_usable(t, &r->why);
		answer(e, r);
		return;
	}
	ids_free(&r->tokens);
	r->from = timeline_window_start(t, n);
	r->limit = n;
	ask(e, r, t, 0, 0, sinks < n ? sinks : n);
}
