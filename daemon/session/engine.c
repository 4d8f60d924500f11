/*
 * The engine's thread: its life, its loop, and the letters that it gets.
 *
 *   take letters (wait for ever when there is nothing to do) -> open each ->
 *   slots, a slice of every session's text, one step, a chunk of a score -> again
 *
 * It must not know what a request means or how a step is made up.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

#define WINDOW_MOST 32768u     /* of a slot, however long the model's context is */
#define SLICES_SECONDS 0.05    /* of text between two steps, about */
#define ROWS_LEAST 256u        /* rows that a batch can have: score's chunks */

int64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

double clock_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- letters out ---- */

void answer(struct engine *e, struct request *r)
{
	r->letter.open = e->p.on_answer;
	mailbox_post(e->p.serve, &r->letter);
}

int answer_refused(struct engine *e, struct request *r, const char *name, const char *fmt, ...)
{
	va_list ap;

	snprintf(r->why.name, sizeof r->why.name, "%s", name);
	va_start(ap, fmt);
	vsnprintf(r->why.text, sizeof r->why.text, fmt, ap);
	va_end(ap);
	r->rc = REFUSED;
	answer(e, r);
	return REFUSED;
}

static void tell(struct engine *e, int state, double progress, const struct reason *why)
{
	struct engine_status *s = calloc(1, sizeof *s);

	if (s == NULL)
		abort();
	s->state = state;
	s->progress = progress;
	s->slab_fd = state == ENGINE_READY && !slab_kept(e->slab) ? slab_fd(e->slab) : -1;
	status_text(e, s->text, sizeof s->text);
	if (why != NULL)
		s->why = *why;
	s->letter.open = e->p.on_status;
	mailbox_post(e->p.serve, &s->letter);
}

/* ---- jobs ---- */

static void call_back(void *self, struct letter *l)
{
	struct store_job *j = (struct store_job *)l;
	struct call *c = j->ctx;
	struct engine *e = self;
	struct timeline *t = c->t;

	e->n_job--;
	if (t != NULL)
		t->n_job--;
	if (c->done != NULL)
		c->done(c, j);
	if (c->keep != j)
		store_job_free(j);
	free(c);
	if (t != NULL && t->gone && t->n_job == 0)
		timeline_free(t);
}

struct call *call_new(struct engine *e, struct timeline *t, struct request *r,
                      void (*done)(struct call *, struct store_job *))
{
	struct call *c = calloc(1, sizeof *c);

	if (c == NULL)
		abort();
	c->engine = e;
	c->t = t;
	c->r = r;
	c->done = done;
	return c;
}

void call_post(struct call *c, struct store_job *j)
{
	j->ctx = c;
	j->reply_to = c->engine->mail;
	j->letter.open = call_back;
	c->engine->n_job++;
	if (c->t != NULL)
		c->t->n_job++;
	store_post(c->engine->p.store, j);
}

/* ---- failing and stopping ---- */

static void refuse_all(struct engine *e, const char *name, const char *text)
{
	struct timeline *t;
	struct request *r;
	size_t i;

	while ((r = e->deferred) != NULL) {
		e->deferred = (struct request *)r->letter.next;
		answer_refused(e, r, name, "%s", text);
	}
	e->deferred_last = &e->deferred;
	score_refuse_all(e, name, text);
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			waiters_refuse(t, name, text);
}

void engine_fail(struct engine *e, const char *name, const char *text)
{
	if (e->phase == PHASE_FAILED || e->phase == PHASE_STOPPING)
		return;
	e->phase = PHASE_FAILED;
	refuse(&e->failed, name, "%s", text);
	log_error("the engine has failed: %s: %s", name, text);
	refuse_all(e, name, text);
	tell(e, ENGINE_FAILED, 0, &e->failed);
}

static void stop_open(void *self, struct letter *l)
{
	struct engine *e = self;

	(void)l;
	e->stop_whole = e->phase == PHASE_READY;
	e->phase = PHASE_STOPPING;
}

static void stop_begin(struct engine *e)
{
	struct store_job *j;
	uint32_t i;

	e->stop_begun = true;
	refuse_all(e, "stopping", "the daemon is stopping");
	for (i = 0; e->stop_whole && i < e->p.n_slot; i++)
		if (e->places[i].owner != NULL)
			resident_save(e->places[i].owner);
	if (e->slab != NULL)
		slab_harmless(e->slab);
	if (!e->store_started)
		return;
	j = store_job_new(STORE_SYNC, 0);
	j->durable = true;
	call_post(call_new(e, NULL, NULL, NULL), j);
}

/* ---- loading ---- */

static void open_mail(struct engine *e, struct letter *l)
{
	struct letter *next;

	for (; l != NULL; l = next) {
		next = l->next;
		l->open(e, l);
	}
}

static int loading(void *ctx, uint64_t done, uint64_t total)
{
	struct engine *e = ctx;
	int percent;

	e->load_progress = total > 0 ? (double)done / (double)total : 0;
	percent = (int)(100 * e->load_progress);
	if (percent >= e->load_told + 2) {
		e->load_told = percent;
		tell(e, ENGINE_LOADING, e->load_progress, NULL);
	}
	open_mail(e, mailbox_take(e->mail));
	return e->phase == PHASE_STOPPING;
}

static int each_session(void *ctx, const struct store_session *s)
{
	struct timeline *t = timeline_new(ctx, &s->row);

	memcpy(t->bad, s->bad, sizeof t->bad);
	t->n_queued = s->n_queued;
	t->n_queued_bytes = s->n_queued_bytes;
	t->n_stored = s->n_stored_bytes;
	t->resumed = s->n_queued > 0;
	/* Killed from outside while it computed: that is nobody's fault. */
	if (!t->engine->p.crashed && t->row.n_kill > 0)
		t->row.n_kill--;
	return 0;
}

static void *room(size_t n, size_t each)
{
	void *p = calloc(n, each);

	if (p == NULL)
		abort();
	return p;
}

/* The slab and the tables whose sizes depend on the model. */
static int open_slots(struct engine *e, struct reason *why)
{
	const struct model_info *m = model_info(e->model);
	struct backend_why bad = { .text = "" };
	struct slab_id id = { .fingerprint = 0 };
	uint32_t i, n_slot = e->p.n_slot;
	int rc;

	e->n_window_max = m->n_ctx < WINDOW_MOST ? m->n_ctx : WINDOW_MOST;
	if (e->n_window_max < 8)
		return refuse(why, "bad_model", "a context of %u tokens", m->n_ctx);
	e->shape = (struct kv_shape){
		.type = KV_F16, .n_layer = m->n_layer, .layers = m->kv_layers, .n_chunk = e->n_chunk + SET_BACK,
		/* Head and ring are rounded up to blocks, wherever S and R part. */
		.most = { .n_sink = WINDOW_BLOCK, .n_recent = e->n_window_max + WINDOW_BLOCK },
		.n_slot = n_slot,
	};
	e->slot_bytes = e->ops->kv_bytes(&e->shape, e->shape.most);
	id.fingerprint = m->fingerprint;
	id.n_chunk = e->shape.n_chunk;
	snprintf(id.layout, sizeof id.layout, "%s", e->ops->kv_layout(e->backend, e->shape.type));
	rc = slab_open(&e->slab, &id, e->slot_bytes, n_slot, e->p.slab_fd > 0 ? e->p.slab_fd : -1, why);
	e->p.slab_fd = 0;
	if (rc != 0)
		return rc;
	if (e->ops->kv_open(e->backend, &e->shape, slab_memory(e->slab), &e->kv, &bad) != 0)
		return refuse(why, "memory", "%s", bad.text);
	e->head_room = e->n_window_max;
	e->ring_room = (uint32_t)model_replay(e->model, e->shape.most) + e->n_chunk + SAMPLE_LAST;
	e->places = room(n_slot, sizeof *e->places);
	for (i = 0; i < n_slot; i++) {         /* touched when used */
		e->places[i].ring = room(e->ring_room, sizeof(int32_t));
		e->places[i].head = room(e->head_room, sizeof(int32_t));
	}
	e->rows = room(e->n_row_max, sizeof *e->rows);
	e->seqs = room(n_slot, sizeof *e->seqs);
	e->outputs = room(n_slot, sizeof *e->outputs);
	e->score_outputs = room(e->n_row_max, sizeof *e->score_outputs);
	e->members = room(n_slot, sizeof(struct timeline *));
	e->member_rows = room(n_slot, sizeof *e->member_rows);
	e->wants = room(n_slot, sizeof *e->wants);
	e->logits = room((size_t)n_slot * m->n_vocab, sizeof *e->logits);
	return sampler_new(&e->sampler, m->n_vocab);
}

/* The sink token: as the configuration names it, by spelling or by number, or as
 * the model does. */
static int find_sink(struct engine *e, struct reason *why)
{
	const char *name = e->sink_name;
	unsigned long id;
	char *end;

	e->sink_token = tokenizer_sink(e->tokenizer);
	if (name == NULL || name[0] == '\0')
		return 0;
	e->sink_token = tokenizer_find(e->tokenizer, name);
	if (e->sink_token >= 0)
		return 0;
	id = strtoul(name, &end, 10);
	if (*end != '\0' || id >= tokenizer_n_vocab(e->tokenizer))
		return refuse(why, "bad_config", "sink-token %.80s: the model has no such token", name);
	e->sink_token = (int32_t)id;
	return 0;
}

static int load(struct engine *e, struct reason *why)
{
	struct backend_params bp = { .n_thread = e->p.n_thread, .n_row_max = e->n_row_max, .isa = e->isa };
	struct model_params mp = { .ops = e->ops, .progress = loading, .ctx = e,
	                           .n_cache = e->p.window.n_sink + e->p.window.n_recent };
	struct backend_why bad = { .text = "" };
	struct timeline *t;
	size_t i;
	int rc;

	rc = store_each(e->p.store, each_session, e);
	if (rc == 0)
		rc = store_start(e->p.store);
	if (rc != 0)
		return rc;
	e->store_started = true;
	if (strcmp(e->backend_name, "auto") != 0 && strcmp(e->backend_name, e->ops->name) != 0)
		return refuse(why, "unsupported", "no backend %s in this version", e->backend_name);
	rc = e->ops->open(&e->backend, &bp, &bad);
	if (rc != 0)
		return refuse(why, "backend", "%s", bad.text);
	mp.backend = e->backend;
	rc = model_open(&e->model, e->model_path, &mp, why);
	if (rc != 0)
		return rc;
	e->tokenizer = model_tokenizer(e->model);
	rc = find_sink(e, why);
	if (rc != 0)
		return rc;
	rc = open_slots(e, why);
	if (rc != 0)
		return rc;
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			timeline_adopt(t);
	return 0;
}

static void become_ready(struct engine *e)
{
	struct request *r, *next;
	struct timeline *t;
	size_t i;

	e->phase = PHASE_READY;
	e->load_progress = 1;
	kept_adopt(e);
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			resident_want(t);
	tell(e, ENGINE_READY, 1, NULL);
	r = e->deferred;
	e->deferred = NULL;
	e->deferred_last = &e->deferred;
	for (; r != NULL; r = next) {
		next = (struct request *)r->letter.next;
		request_open(e, r);
	}
}

static void unload(struct engine *e)
{
	struct timeline *t, *next;
	uint32_t i;

	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = next) {
			next = t->hash_next;
			timeline_free(t);
		}
	for (i = 0; e->places != NULL && i < e->p.n_slot; i++) {
		free(e->places[i].ring);
		free(e->places[i].head);
	}
	free(e->places);
	free(e->rows);
	free(e->seqs);
	free(e->outputs);
	free(e->score_outputs);
	free(e->members);
	free(e->member_rows);
	free(e->wants);
	free(e->logits);
	sampler_free(e->sampler);
	if (e->kv != NULL)
		e->ops->kv_close(e->backend, e->kv);
	slab_close(e->slab);
	model_close(e->model);
	e->ops->close(e->backend);
	e->model = NULL;               /* the last status is still to be told */
	e->kv = NULL;
}

/* ---- the loop ---- */

static void retry(struct engine *e)
{
	struct timeline *t;
	size_t i;

	e->retry = false;
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			if (t->stalled)
				timeline_retry(t);
}

/* A bit of everything that can be done now; false: nothing can. */
static bool turn(struct engine *e)
{
	double began = clock_seconds();
	bool did = false;
	uint32_t i, slot;

	if (e->phase != PHASE_READY)
		return false;
	did |= resident_serve(e);
	/* Slices, until a step is due; the next turn goes on behind the last one. */
	for (i = 0; i < e->p.n_slot && clock_seconds() - began < SLICES_SECONDS; i++) {
		slot = (e->apply_turn + i) % e->p.n_slot;
		if (e->places[slot].owner != NULL)
			did |= apply_turn(e->places[slot].owner);
	}
	e->apply_turn = (e->apply_turn + i) % e->p.n_slot;
	did |= engine_step(e);
	if (e->phase == PHASE_READY)
		did |= score_turn(e);
	return did;
}

static void run(struct engine *e)
{
	bool did = true;
	struct letter *l;
	int wait;

	for (;;) {
		wait = e->retry ? RETRY_MS : -1;
		l = did ? mailbox_take(e->mail) : mailbox_wait(e->mail, wait);
		open_mail(e, l);
		if (e->phase == PHASE_STOPPING && !e->stop_begun)
			stop_begin(e);
		if (e->stop_begun && e->n_job == 0)
			return;
		if (e->retry && e->phase != PHASE_STOPPING && clock_seconds() >= e->retry_at)
			retry(e);
		did = turn(e);
	}
}

static void *engine_main(void *arg)
{
	struct engine *e = arg;
	struct reason why = { .name = "" };
	int rc;

	tell(e, ENGINE_LOADING, 0, NULL);
	rc = load(e, &why);
	if (e->phase != PHASE_STOPPING && rc == 0)
		become_ready(e);
	else if (e->phase != PHASE_STOPPING)
		engine_fail(e, why.name[0] != '\0' ? why.name : "internal",
		            why.name[0] != '\0' ? why.text : "the engine could not be started; see the log");
	run(e);
	refuse_all(e, "stopping", "the daemon is stopping");
	open_mail(e, mailbox_take(e->mail));
	unload(e);
	tell(e, ENGINE_STOPPED, 0, NULL);
	return NULL;
}

/* ---- from outside ---- */

static void request_letter(void *self, struct letter *l)
{
	request_open(self, (struct request *)l);
}

void engine_post(struct engine *e, struct request *r)
{
	r->letter.open = request_letter;
	mailbox_post(e->mail, &r->letter);
}

void engine_stop(struct engine *e)
{
	e->stop.open = stop_open;
	mailbox_post(e->mail, &e->stop);
}

static unsigned cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

static void engine_free(struct engine *e)
{
	if (e == NULL)
		return;
	mailbox_close(e->mail);
	free(e->model_path);
	free(e->backend_name);
	free(e->isa);
	free(e->sink_name);
	free(e);
}

int engine_start(struct engine **out, const struct engine_params *p, struct reason *why)
{
	struct engine *e = calloc(1, sizeof *e);
	sigset_t all, before;
	int rc;

	(void)why;
	if (e == NULL)
		return ERROR(-ENOMEM);
	e->p = *p;
	e->ops = &backend_cpu;
	e->n_chunk = p->n_chunk > 0 ? p->n_chunk : 64;
	if (e->p.n_slot == 0)
		e->p.n_slot = 1;
	if (e->p.n_thread == 0)
		e->p.n_thread = cpus();
	e->n_row_max = (e->n_chunk > ROWS_LEAST ? e->n_chunk : ROWS_LEAST) + e->p.n_slot;
	e->model_path = strdup(p->model != NULL ? p->model : "");
	e->backend_name = strdup(p->backend != NULL ? p->backend : "auto");
	e->isa = p->isa != NULL ? strdup(p->isa) : NULL;
	e->sink_name = p->sink_token != NULL ? strdup(p->sink_token) : NULL;
	e->phase = PHASE_LOADING;
	e->started = clock_ms();
	e->waiting_last = &e->waiting;
	e->deferred_last = &e->deferred;
	e->scores_last = &e->scores;
	rc = mailbox_open(&e->mail);
	if (rc != 0 || e->model_path == NULL || e->backend_name == NULL) {
		engine_free(e);
		return ERROR(rc != 0 ? rc : -ENOMEM);
	}
	/* Signals are serve's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&e->thread, NULL, engine_main, e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0) {
		engine_free(e);
		return ERROR(rc);
	}
	*out = e;
	return 0;
}

void engine_join(struct engine *e)
{
	struct letter *l, *next;

	pthread_join(e->thread, NULL);
	/* What came too late to be answered. */
	for (l = mailbox_take(e->mail); l != NULL; l = next) {
		next = l->next;
		if (l->open == request_letter)
			request_free((struct request *)l);
	}
	engine_free(e);
}
