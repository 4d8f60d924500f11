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

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

#define SLICES_SECONDS 0.05    /* of text between two steps, about */

int wait_until(int wait, double at)
{
	double ms = 1000 * (at - clock_seconds()) + 1;

	ms = ms < 0 ? 0 : ms > 1e9 ? 1e9 : ms;
	return wait < 0 || ms < wait ? (int)ms : wait;
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

void answer_failed(struct engine *e, struct request *r, const struct store_job *j, const char *otherwise)
{
	const struct reason *why = &j->why;

	if (why->name[0] == '\0')
		answer_refused(e, r, "disk", "%s", otherwise);
	else if (strcmp(why->name, "session_damaged") == 0)    /* the store knows no names */
		answer_refused(e, r, why->name, "%s: %s", r->name, why->text);
	else
		answer_refused(e, r, why->name, "%s", why->text);
}

void engine_tell(struct engine *e, int state, double progress, const struct reason *why)
{
	struct engine_status *s = calloc(1, sizeof *s);

	if (s == NULL)
		abort();
	s->state = state;
	s->progress = progress;
	s->slab_fd = state == ENGINE_READY && !slots_kept(e->slots) ? slots_fd(e->slots) : -1;
	s->slab_gone = state == ENGINE_READY && slots_fd(e->slots) < 0;
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
	if (t != NULL) {
		t->n_job--;
		t->n_own -= c->own;
	}
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
	c->own = c->r == NULL;
	if (c->t != NULL) {
		c->t->n_job++;
		c->t->n_own += c->own;
	}
	store_post(c->engine->p.store, j);
}

/* ---- failing and stopping ---- */

static void refuse_all(struct engine *e, const char *name, const char *text)
{
	struct timeline *t;
	size_t i;

	requests_again(e);             /* by the phase, which says the same */
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
	engine_tell(e, ENGINE_FAILED, 0, &e->failed);
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
	if (e->slots != NULL)
		slots_harmless(e->slots);
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
	if (e->again)
		requests_again(e);
}

int engine_loading(void *ctx, uint64_t done, uint64_t total)
{
	struct engine *e = ctx;
	int percent;

	e->load_progress = total > 0 ? (double)done / (double)total : 0;
	percent = (int)(100 * e->load_progress);
	if (percent >= e->load_told + 2) {
		e->load_told = percent;
		engine_tell(e, ENGINE_LOADING, e->load_progress, NULL);
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
	engine_tell(t->engine, ENGINE_LOADING, 0, NULL);       /* the end of its log has been read */
	return 0;
}

int engine_bring(struct engine *e, struct reason *why)
{
	struct timeline *t;
	size_t i;
	int rc = device_open(e, why);

	for (i = 0; rc == 0 && i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			timeline_adopt(t);
	return rc;
}

static int load(struct engine *e, struct reason *why)
{
	int rc;

	rc = store_each(e->p.store, each_session, e);
	if (rc == 0)
		rc = store_start(e->p.store);
	if (rc != 0)
		return rc;
	e->store_started = true;
	return engine_bring(e, why);
}

void engine_ready(struct engine *e)
{
	struct timeline *t;
	size_t i;

	e->phase = PHASE_READY;
	e->load_progress = 1;
	e->used = clock_seconds();
	kept_adopt(e);
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			resident_want(t);
	engine_tell(e, ENGINE_READY, 1, NULL);
	requests_again(e);
}

static void free_sessions(struct engine *e)
{
	struct timeline *t, *next;
	size_t i;

	for (i = 0; i < HASH_SIZE; i++) {
		for (t = e->hash[i]; t != NULL; t = next) {
			next = t->hash_next;
			timeline_free(t);
		}
		e->hash[i] = NULL;
	}
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
	if (e->lost.name[0] == '\0')
		did |= engine_step(e);
	if (e->lost.name[0] == '\0')
		did |= score_turn(e);
	return did;
}

/* Nothing that is accepted will be done any more: once, whoever waits for it is told. */
static void tell_read_only(struct engine *e)
{
	struct reason why;
	struct timeline *t;
	size_t i;

	if (e->read_only_told || !store_read_only(e->p.store, &why))
		return;
	e->read_only_told = true;
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			waiters_refuse(t, why.name, why.text);
}

static void run(struct engine *e)
{
	bool did = true;
	struct letter *l;
	int wait;

	for (;;) {
		wait = recover_wait(e, unload_wait(e, e->retry && e->phase != PHASE_STOPPING ? wait_until(-1, e->retry_at) : -1));
		l = did ? mailbox_take(e->mail) : mailbox_wait(e->mail, wait);
		open_mail(e, l);
		tell_read_only(e);
		if (e->phase == PHASE_STOPPING && !e->stop_begun)
			stop_begin(e);
		if (e->stop_begun && e->n_job == 0)
			return;
		if (e->retry && e->phase != PHASE_STOPPING && clock_seconds() >= e->retry_at)
			retry(e);
		did = turn(e);
		did |= recover_turn(e);
		did |= unload_turn(e, did);
	}
}

static void *engine_main(void *arg)
{
	struct engine *e = arg;
	struct reason why = { .name = "" };
	int rc;

	engine_tell(e, ENGINE_LOADING, 0, NULL);
	rc = load(e, &why);
	if (e->phase != PHASE_STOPPING && rc == 0)
		engine_ready(e);
	else if (e->phase != PHASE_STOPPING)
		engine_fail(e, why.name[0] != '\0' ? why.name : rc == -ENOMEM ? "memory" : "internal",
		            why.name[0] != '\0' ? why.text : "the engine could not be started; see the log");
	run(e);
	refuse_all(e, "stopping", "the daemon is stopping");
	open_mail(e, mailbox_take(e->mail));
	free_sessions(e);
	device_close(e);               /* the last status is still to be told */
	engine_tell(e, ENGINE_STOPPED, 0, NULL);
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
	free(e->module_path);
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
	e->n_chunk = p->n_chunk > 0 ? p->n_chunk : 64;
	e->n_slot_asked = e->p.n_slot;
	if (e->p.n_thread == 0)
		e->p.n_thread = cpus();
	e->model_path = strdup(p->model != NULL ? p->model : "");
	e->backend_name = strdup(p->backend != NULL ? p->backend : "auto");
	e->module_path = p->cuda_module != NULL ? strdup(p->cuda_module) : NULL;
	e->isa = p->isa != NULL ? strdup(p->isa) : NULL;
	e->sink_name = p->sink_token != NULL ? strdup(p->sink_token) : NULL;
	e->kv_type = p->kv_type != NULL && strcmp(p->kv_type, "q8") == 0 ? KV_Q8 : KV_F16;
	e->phase = PHASE_LOADING;
	e->started = clock_ms();
	e->waiting_last = &e->waiting;
	e->deferred_last = &e->deferred;
	e->scores_last = &e->scores;
	rc = mailbox_open(&e->mail);
	if (rc != 0 || e->model_path == NULL || e->backend_name == NULL ||
	    (p->cuda_module != NULL && e->module_path == NULL)) {
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
