/* The engine's tests' desk; see the header. */
#include "tests/unit/engine-desk.h"

#include <dirent.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 60000

static const char *data_folder(void)
{
	const char *top = getenv("srcdir");

	return top != NULL ? top : ".";
}

/* ---- letters ---- */

static void on_answer(void *self, struct letter *l)
{
	struct desk *d = self;

	assert_true(d->n_back < sizeof d->back / sizeof *d->back);
	d->back[d->n_back++] = (struct request *)l;
}

static void on_published(void *self, struct letter *l)
{
	struct published *p = (struct published *)l;
	struct desk *d = self;

	if (d->n_seen == d->room_seen) {
		d->room_seen = d->room_seen ? 2 * d->room_seen : 256;
		d->seen = realloc(d->seen, d->room_seen * sizeof *d->seen);
		assert_non_null(d->seen);
	}
	d->seen[d->n_seen].deleted = p->deleted;
	assert_int_equal(event_copy(&d->seen[d->n_seen++].event, &p->event), 0);
	published_free(p);
}

static void on_status(void *self, struct letter *l)
{
	struct engine_status *s = (struct engine_status *)l;
	struct desk *d = self;

	d->status = s->state;
	d->failed = s->why;
	free(s);
}

void desk_until(struct desk *d, bool (*done)(struct desk *d, void *ctx), void *ctx)
{
	struct letter *l, *next;

	while (!done(d, ctx)) {
		l = mailbox_wait(d->box, WAIT_MS);
		assert_non_null(l);
		for (; l != NULL; l = next) {
			next = l->next;
			l->open(d, l);
		}
	}
}

void desk_pump(struct desk *d, int ms)
{
	struct letter *l = mailbox_wait(d->box, ms), *next;

	for (; l != NULL; l = next) {
		next = l->next;
		l->open(d, l);
	}
}

void desk_post(struct desk *d, struct request *r)
{
	engine_post(d->engine, r);
}

static bool is_back(struct desk *d, void *ctx)
{
	size_t i;

	for (i = 0; i < d->n_back; i++)
		if (d->back[i] == ctx) {
			d->back[i] = d->back[--d->n_back];
			return true;
		}
	return false;
}

struct request *desk_answer(struct desk *d, struct request *r)
{
	desk_until(d, is_back, r);
	return r;
}

struct request *desk_ask(struct desk *d, struct request *r)
{
	desk_post(d, r);
	return desk_answer(d, r);
}

/* ---- life ---- */

void desk_new(struct desk *d)
{
	static char model[4096];

	memset(d, 0, sizeof *d);
	strcpy(d->dir, "/tmp/sinkd-engine-XXXXXX");
	assert_non_null(mkdtemp(d->dir));
	snprintf(model, sizeof model, "%s/tests/data/tiny-llama.gguf", data_folder());
	d->p.model = model;
	d->p.backend = "cpu";
	d->p.n_thread = 2;
	d->p.n_slot = 4;
	d->p.n_chunk = 16;
	d->p.window = (struct window){ .n_sink = 4, .n_recent = 28 };
	d->p.settings.sampling = (struct sampling)SAMPLING_DEFAULT;
	d->p.settings.sampling.temperature = 0;
	d->p.settings.max_tokens = 24;
	d->p.caps = (struct engine_caps){ .sessions = 100, .queued_bytes = 1u << 24, .stored_bytes = 1u << 30 };
	d->p.on_answer = on_answer;
	d->p.on_published = on_published;
	d->p.on_status = on_status;
}

static bool is_ready(struct desk *d, void *ctx)
{
	(void)ctx;
	assert_int_not_equal(d->status, ENGINE_FAILED);
	return d->status == ENGINE_READY;
}

static bool is_stopped(struct desk *d, void *ctx)
{
	(void)ctx;
	return d->status == ENGINE_STOPPED;
}

void desk_start(struct desk *d)
{
	assert_true(desk_try_start(d));
}

bool desk_try_start(struct desk *d)
{
	struct store_params sp = { .dir = d->dir, .vfs = d->vfs, .disk = d->disk };
	struct reason why = { .name = "" };

	if (store_open(&d->store, &sp, &why) != 0)
		return false;
	assert_int_equal(mailbox_open(&d->box), 0);
	d->p.store = d->store;
	d->p.serve = d->box;
	d->status = ENGINE_LOADING;
	assert_int_equal(engine_start(&d->engine, &d->p, &why), 0);
	desk_until(d, is_ready, NULL);
	return true;
}

void desk_stop(struct desk *d)
{
	size_t i;

	engine_stop(d->engine);
	desk_until(d, is_stopped, NULL);
	engine_join(d->engine);
	store_close(d->store);
	mailbox_close(d->box);
	for (i = 0; i < d->n_seen; i++)
		event_clear(&d->seen[i].event);
	free(d->seen);
	d->seen = NULL;
	d->n_seen = d->room_seen = 0;
	for (i = 0; i < d->n_back; i++)
		request_free(d->back[i]);
	d->n_back = 0;
}

static void run(const char *fmt, ...)
{
	char command[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof command, fmt, ap);
	va_end(ap);
	assert_int_equal(system(command), 0);
}

void desk_remove(struct desk *d)
{
	run("rm -rf '%s'", d->dir);
}

void desk_crash(const struct desk *d, struct desk *to)
{
	desk_new(to);
	to->p = d->p;
	to->p.store = NULL;
	/* A checkpoint's temporary name may vanish under it. */
	run("cp -r '%s/.' '%s/' 2>/dev/null; test -f '%s/sinkd.db'", d->dir, to->dir, to->dir);
}

void desk_drop_checkpoints(const struct desk *d)
{
	run("rm -f '%s'/checkpoint/*", d->dir);
}

bool desk_has_checkpoint(const struct desk *d)
{
	char path[128];
	struct dirent *e;
	bool any = false;
	DIR *dir;

	snprintf(path, sizeof path, "%s/checkpoint", d->dir);
	dir = opendir(path);
	assert_non_null(dir);
	while ((e = readdir(dir)) != NULL)
		any = any || e->d_name[0] != '.';
	closedir(dir);
	return any;
}

/* ---- requests ---- */

struct request *ask_new(enum verb verb, const char *session)
{
	struct request *r = request_new(verb);

	r->peer = 7;
	r->uid = r->owner = 1000;
	r->gid = 1000;
	snprintf(r->name, sizeof r->name, "%s", session);
	return r;
}

void ask_text(struct request *r, const char *text)
{
	r->text = strdup(text);
	r->n_text = strlen(text);
	r->given |= GIVEN_TEXT;
}

void refused(struct desk *d, struct request *r, const char *name)
{
	desk_ask(d, r);
	assert_int_equal(r->rc, REFUSED);
	assert_string_equal(r->why.name, name);
	request_free(r);
}

uint64_t number(const struct request *r, const char *key)
{
	const struct value *v;

	if (r->rc != 0)
		fail_msg("%s: %s", r->why.name, r->why.text);
	v = value_get(r->result, key);
	assert_non_null(v);
	assert_true(v->kind == VALUE_UINT || v->kind == VALUE_BOOL || v->kind == VALUE_INT);
	return v->kind == VALUE_BOOL ? v->b : v->u;
}

const char *word(const struct request *r, const char *key)
{
	const struct value *v;

	if (r->rc != 0)
		fail_msg("%s: %s", r->why.name, r->why.text);
	v = value_get(r->result, key);
	assert_non_null(v);
	assert_int_equal(v->kind, VALUE_STR);
	return v->s.data;
}

void desk_create(struct desk *d, const char *name, bool raw, uint64_t seed, float temperature)
{
	struct request *r = ask_new(VERB_CREATE, name);

	r->raw = raw;
	r->given = GIVEN_SEED | GIVEN_TEMPERATURE;
	r->settings.sampling.seed = seed;
	r->settings.sampling.temperature = temperature;
	desk_ask(d, r);
	assert_string_equal(word(r, "session"), name);
	request_free(r);
}

uint64_t desk_order(struct desk *d, enum verb verb, const char *name, const char *text, uint32_t max_tokens)
{
	struct request *r = ask_new(verb, name);
	uint64_t order;

	if (text != NULL)
		ask_text(r, text);
	if (max_tokens > 0) {
		r->given |= GIVEN_MAX_TOKENS;
		r->settings.max_tokens = max_tokens;
	}
	order = number(desk_ask(d, r), "request");
	request_free(r);
	return order;
}

void desk_append_ids(struct desk *d, const char *name, const int32_t *ids, size_t n)
{
	struct request *r = ask_new(VERB_APPEND, name);

	r->given |= GIVEN_TOKENS;
	ids_append(&r->tokens, ids, n);
	r->wait = true;
	number(desk_ask(d, r), "position");
	request_free(r);
}

static bool turn_ended(struct desk *d, void *ctx)
{
	return desk_reason(d, *(uint64_t *)ctx) != TURN_BEGIN;
}

void desk_turn_end(struct desk *d, uint64_t order)
{
	desk_until(d, turn_ended, &order);
}

uint8_t desk_reason(const struct desk *d, uint64_t order)
{
	size_t i;

	for (i = 0; i < d->n_seen; i++) {
		const struct event *e = &d->seen[i].event;

		if (e->seq > 0 && e->kind == EVENT_TURN && e->order == order && e->reason != TURN_BEGIN)
			return e->reason;
	}
	return TURN_BEGIN;
}

char *desk_text(const struct desk *d, uint64_t order, size_t *n)
{
	char *s = calloc(1, 1);
	size_t i;

	*n = 0;
	for (i = 0; i < d->n_seen; i++) {
		const struct event *e = &d->seen[i].event;

		if (e->kind != EVENT_TEXT || e->order != order || e->role != ROLE_ASSISTANT)
			continue;
		s = realloc(s, *n + e->n_text + 1);
		assert_non_null(s);
		memcpy(s + *n, e->text, e->n_text);
		*n += e->n_text;
		s[*n] = '\0';
	}
	return s;
}

/* Every entry as "seq kind position tokens window_start text\n": what must be the
 * same whatever happened on the way. */
char *desk_log(struct desk *d, const char *name)
{
	static const char *const keys[] = { "seq", "position", "tokens", "window_start" };
	char *s = calloc(1, 1);
	size_t n = 0, i, k;
	uint64_t from = 1;
	bool any = true;

	while (any) {
		struct request *r = ask_new(VERB_READ, name);
		const struct value *events;

		r->from = from;
		from = number(desk_ask(d, r), "next");
		events = value_get(r->result, "events");
		any = events->l.n > 0;
		for (i = 0; i < events->l.n; i++) {
			const struct value *e = events->l.items[i];
			const struct value *text = value_get(e, "bytes");
			size_t n_text;

			if (text == NULL)
				text = value_get(e, "text");
			n_text = text != NULL ? text->s.n : 0;
			s = realloc(s, n + n_text + 256);
			assert_non_null(s);
			n += (size_t)sprintf(s + n, "%s", value_get(e, "kind")->s.data);
			for (k = 0; k < sizeof keys / sizeof *keys; k++)
				n += (size_t)sprintf(s + n, " %llu", value_get(e, keys[k]) != NULL ?
				                     (unsigned long long)value_get(e, keys[k])->u : 0);
			s[n++] = ' ';
			if (n_text > 0)
				memcpy(s + n, text->s.data, n_text);
			n += n_text;
			s[n++] = '\n';
			s[n] = '\0';
		}
		request_free(r);
	}
	return s;
}

uint64_t desk_stat(struct desk *d, const char *key)
{
	struct request *r = desk_ask(d, ask_new(VERB_SERVER_STATS, ""));
	uint64_t n = number(r, key);

	request_free(r);
	return n;
}

/* ---- stories ---- */

void desk_delete(struct desk *d, const char *name)
{
	struct request *r = desk_ask(d, ask_new(VERB_DELETE, name));

	assert_int_equal(r->rc, 0);
	request_free(r);
}

uint64_t desk_story(struct desk *d, const char *name, float temperature, uint64_t i, uint32_t n)
{
	char text[64];

	desk_create(d, name, false, i, temperature);
	snprintf(text, sizeof text, "Tell me story %llu.", (unsigned long long)i);
	return desk_order(d, VERB_SAY, name, text, n);
}

uint64_t desk_long_story(struct desk *d, const char *name, float temperature, uint32_t n)
{
	uint64_t i, order;

	for (i = 1; i < 400; i++) {
		order = desk_story(d, name, temperature, i, n);
		desk_turn_end(d, order);
		if (desk_reason(d, order) == TURN_LENGTH)
			return i;
		desk_delete(d, name);
	}
	fail_msg("no long story");
	return 0;
}

/* ---- an answer without an end ---- */

/* What has been said becomes likelier: most answers end as one word for ever. */
static uint64_t droning(struct desk *d, const char *name, uint64_t i, uint32_t n, bool until_disconnect)
{
	struct request *r = ask_new(VERB_SAY, name);
	char text[64];
	uint64_t order;

	desk_create(d, name, false, 1, 0);
	snprintf(text, sizeof text, "Tell me story %llu.", (unsigned long long)i);
	ask_text(r, text);
	r->given |= GIVEN_MAX_TOKENS | GIVEN_REPEAT_PENALTY;
	r->settings.max_tokens = n;
	r->settings.sampling.repeat_penalty = 0.01f;
	r->until_disconnect = until_disconnect;
	order = number(desk_ask(d, r), "request");
	request_free(r);
	return order;
}

/* Its second half, longer than a window, is a short piece again and again. */
static bool circles(const struct desk *d, uint64_t order)
{
	size_t n, period, half;
	char *s = desk_text(d, order, &n), *tail;
	bool any = false;

	half = n / 2;
	tail = s + n - half;
	for (period = 1; !any && period < half / 4; period++)
		any = memcmp(tail, tail + period, half - period) == 0;
	free(s);
	return any;
}

uint64_t desk_endless(struct desk *d, const char *name, bool until_disconnect)
{
	uint64_t i, order;
	bool found = false;

	for (i = 1; i < 400 && !found; i++) {
		order = droning(d, "probe", i, 500, false);
		desk_turn_end(d, order);
		found = desk_reason(d, order) == TURN_LENGTH && circles(d, order);
		desk_delete(d, "probe");
	}
	assert_true(found);
	order = droning(d, name, i - 1, 1000000, until_disconnect);
	desk_texts(d, order, 5);
	return order;
}

bool desk_idle(struct desk *d, const char *name)
{
	struct request *r = desk_ask(d, ask_new(VERB_INFO, name));
	bool idle = number(r, "queued") == 0;

	request_free(r);
	return idle;
}

struct count { uint64_t order; size_t n; };

static bool has_text(struct desk *d, void *ctx)
{
	struct count *c = ctx;
	size_t i, n = 0;

	for (i = 0; i < d->n_seen; i++)
		n += d->seen[i].event.kind == EVENT_TEXT && d->seen[i].event.order == c->order &&
		     d->seen[i].event.role == ROLE_ASSISTANT;
	return n >= c->n;
}

void desk_texts(struct desk *d, uint64_t order, size_t n)
{
	struct count c = { order, n };

	desk_until(d, has_text, &c);
}

void desk_check_log(struct desk *d, const char *name)
{
	struct request *r = desk_ask(d, ask_new(VERB_READ, name));
	const struct value *events;
	uint64_t position = 0, id;
	size_t i, k = 0;

	assert_int_equal(r->rc, 0);
	id = r->session;
	events = value_get(r->result, "events");
	for (i = 0; i < events->l.n; i++) {
		const struct value *e = events->l.items[i];

		assert_int_equal(value_get(e, "seq")->u, i + 1);
		assert_int_equal(value_get(e, "position")->u, position);
		if (value_get(e, "tokens") != NULL)
			position += value_get(e, "tokens")->u;
		while (k < d->n_seen && (d->seen[k].event.session != id || d->seen[k].event.seq == 0))
			k++;
		assert_true(k < d->n_seen);
		assert_int_equal(d->seen[k].event.seq, i + 1);
		assert_int_equal(d->seen[k].event.window_start, value_get(e, "window_start")->u);
		k++;
	}
	request_free(r);
}
