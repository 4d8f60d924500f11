/*
 * The device: the backend, the model on it, and the slots of the sessions' caches,
 * opened in this order and closed in the other.
 *
 * The hard idea: everything that depends on the device or on the model is made here
 * and nowhere else, so that a device can be closed under sessions that are asleep
 * and opened again, and they never know.
 *
 * It must not touch a session: who closes has seen to it that none has a slot.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

#define WINDOW_MOST 32768u     /* of a slot, however long the model's context is */
#define ROWS_LEAST 256u        /* rows that a batch can have: score's chunks */
#define SLOTS_USUAL 8u         /* in the machine's memory, which they take when used */
#define SLOTS_MOST 64u         /* on a device with memory of its own: as many as fit, up to these */

static void *room(size_t n, size_t each)
{
	void *p = calloc(n, each);

	if (p == NULL)
		abort();
	return p;
}

/* ---- slots ---- */

/* Slots lie in the machine's memory, which they take page by page, and may be as large
 * as the model allows; or on a device, all of it taken at once: then they are made for
 * new sessions as they are configured. */
static int find_shape(struct engine *e, const struct model_info *m, struct reason *why)
{
	const struct request usual = { .verb = VERB_CREATE };
	struct window w;
	int rc;

	if (e->ops->kv_layout(e->backend, e->kv_type) == NULL)
		return refuse(why, "unsupported", "the backend %s has no caches of kv-type %s", e->ops->name,
		              e->kv_type == KV_Q8 ? "q8" : "f16");
	e->n_window_max = m->n_ctx < WINDOW_MOST ? m->n_ctx : WINDOW_MOST;
	if (e->n_window_max < 8)
		return refuse(why, "bad_model", "a context of %u tokens", m->n_ctx);
	w = window_of(e, &usual);
	rc = window_check(e, w, why);
	if (rc != 0)
		return rc;             /* else every new session would be refused */
	if (w.n_recent < e->p.window.n_recent)
		log_warning("window %u is over what the model allows beside %u sinks: new sessions get %u",
		            e->p.window.n_recent, w.n_sink, w.n_recent);
	if (e->ops->own_slots && w.n_sink + w.n_recent + 1 < e->n_window_max)
		e->n_window_max = w.n_sink + w.n_recent + 1;
	e->shape = (struct kv_shape){
		.type = e->kv_type, .n_layer = m->n_layer, .layers = m->kv_layers, .n_chunk = e->n_chunk + SET_BACK,
		/* Head and ring are rounded up to blocks, wherever S and R part. */
		.most = { .n_sink = WINDOW_BLOCK, .n_recent = e->n_window_max + WINDOW_BLOCK },
		.n_slot = e->p.n_slot,
	};
	e->slot_bytes = e->ops->slot_bytes(&e->shape);
	return 0;
}

/* Before anything is loaded: what it will take, and whether it fits. */
static int planned(void *engine, const struct model_info *m, const struct model_need *need, struct reason *why)
{
	struct engine *e = engine;
	struct budget *b = &e->budget;
	size_t free = 0, total = 0, own = 0;
	char text[160];
	int rc = find_shape(e, m, why);

	if (rc != 0)
		return rc;
	*b = (struct budget){ .weights = need->weights, .slot = e->slot_bytes, .n_slot = e->p.n_slot };
	if (e->ops->memory != NULL) {
		if (e->ops->memory(e->backend, &free, &total, &own) != 0)
			return refuse(why, "backend", "the device does not say how much memory it has");
		b->work = need->acts + e->ops->work_size(e->backend, &e->shape);
		b->free = free + own;
		b->total = total;
		rc = budget_fit(b, e->p.gpu_memory, why);
		if (rc != 0)
			return rc;
		e->p.n_slot = e->shape.n_slot = b->n_slot;
		b->work = need->acts + e->ops->work_size(e->backend, &e->shape);       /* fewer slots, no more of it */
	}
	budget_text(b, text, sizeof text);
	log_info("memory: %s", text);
	return 0;
}

/* What was computed is what was taken: a device that disagrees is told of. */
static void budget_check(struct engine *e)
{
	size_t free, total, own;
	char text[160];

	if (e->ops->memory == NULL || e->ops->memory(e->backend, &free, &total, &own) != 0)
		return;
	e->device_taken = e->budget.free > free ? e->budget.free - free : 0;
	if (e->device_taken == budget_bytes(&e->budget))
		return;
	budget_text(&e->budget, text, sizeof text);
	log_notice("the device gave %llu bytes (it rounds up, or others use it too) where %llu were computed: %s",
	           (unsigned long long)e->device_taken, (unsigned long long)budget_bytes(&e->budget), text);
}

static int open_slots(struct engine *e, struct reason *why)
{
	const struct slots_params sp = {
		.ops = e->ops, .backend = e->backend, .shape = &e->shape,
		.fingerprint = model_info(e->model)->fingerprint, .fd = e->p.slab_fd > 0 ? e->p.slab_fd : -1,
	};
	int rc = slots_open(&e->slots, &sp, why);

	if (rc == 0 || !e->ops->own_slots)
		e->p.slab_fd = 0;
	if (rc == 0)
		e->kv = slots_kv(e->slots);
	return rc;
}

/* What the host keeps of each slot, and the batch of a step. */
static int open_tables(struct engine *e)
{
	uint32_t i, n_slot = e->p.n_slot, n_vocab = model_info(e->model)->n_vocab;

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
	e->choosers = room(n_slot, sizeof(struct timeline *));
	e->chosen = room(n_slot, sizeof *e->chosen);
	e->tops = room(n_slot, sizeof *e->tops);
	e->logits = room((size_t)n_slot * n_vocab, sizeof *e->logits);
	return sampler_new(&e->sampler, n_vocab);
}

static void close_tables(struct engine *e)
{
	void *tables[] = { e->places, e->rows, e->seqs, e->outputs, e->score_outputs, e->members, e->member_rows,
	                   e->wants, e->choosers, e->chosen, e->tops, e->logits };
	uint32_t i;

	for (i = 0; e->places != NULL && i < e->p.n_slot; i++) {
		free(e->places[i].ring);
		free(e->places[i].head);
	}
	for (i = 0; i < sizeof tables / sizeof tables[0]; i++)
		free(tables[i]);
	e->places = NULL;
	e->rows = NULL;
	e->seqs = NULL;
	e->outputs = e->score_outputs = e->member_rows = e->wants = NULL;
	e->members = e->choosers = NULL;
	e->chosen = NULL;
	e->tops = NULL;
	e->logits = NULL;
	sampler_free(e->sampler);
	e->sampler = NULL;
}

/* ---- swap ---- */

static void *host_take(void *engine, size_t n)
{
	struct engine *e = engine;

	if (n > memory_available())
		return NULL;
	return e->ops->host_new != NULL ? e->ops->host_new(e->backend, n) : malloc(n);
}

static void host_give(void *engine, void *p)
{
	struct engine *e = engine;

	if (e->ops->host_free != NULL)
		e->ops->host_free(e->backend, p);
	else
		free(p);
}

/* ---- the model ---- */

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

static int open_model(struct engine *e, struct reason *why)
{
	struct model_params mp = { .ops = e->ops, .backend = e->backend, .planned = planned,
	                           .progress = engine_loading, .ctx = e,
	                           .n_cache = e->p.window.n_sink + e->p.window.n_recent };
	int rc = model_open(&e->model, e->model_path, &mp, why);

	if (rc != 0)
		return rc;
	e->tokenizer = model_tokenizer(e->model);
	return find_sink(e, why);
}

/* ---- all of it ---- */

/* *expected: that this machine has not got it is no fault. */
static int open_backend(struct engine *e, bool *expected, struct reason *why)
{
	const uint32_t usual = e->ops->own_slots ? SLOTS_MOST : SLOTS_USUAL;
	const uint32_t n_slot = e->n_slot_asked > 0 ? e->n_slot_asked : usual;
	const uint32_t n_row = e->n_chunk > ROWS_LEAST ? e->n_chunk : ROWS_LEAST;
	struct backend_params bp = { .n_thread = e->p.n_thread, .n_row_max = n_row + n_slot, .isa = e->isa, .n_act_bit = e->p.n_act_bit };
	struct backend_why bad = { .text = "" };
	int rc;

	e->p.n_slot = n_slot;
	e->n_row_max = bp.n_row_max;
	rc = e->ops->open(&e->backend, &bp, &bad);
	*expected = rc == -ENODEV;
	return rc != 0 ? refuse(why, "backend", "%s", bad.text) : 0;
}

static int open_on(struct engine *e, bool *expected, struct reason *why)
{
	const struct swap_memory memory = { .take = host_take, .give = host_give, .ctx = e };
	int rc = open_backend(e, expected, why);

	if (rc == 0)
		rc = open_model(e, why);
	if (rc == 0)
		rc = open_slots(e, why);
	if (rc == 0)
		rc = open_tables(e);
	if (rc == 0)
		rc = swap_open(&e->swap, e->p.swap_bytes, &memory);
	if (rc == 0)
		budget_check(e);
	return rc;
}

/* Could another backend do better?  What is wrong with a model is so on each. */
static bool device_fault(const struct engine *e, const struct reason *why)
{
	static const char *const names[] = { "backend", "memory", "unsupported" };
	size_t i;

	for (i = 0; i < sizeof names / sizeof names[0]; i++)
		if (e->phase != PHASE_STOPPING && strcmp(why->name, names[i]) == 0)
			return true;
	return false;
}

/* The first of the backends that are asked for which opens; which one stays so. */
static int choose(struct engine *e, struct reason *why)
{
	const char *name = backend_wanted(e->backend_name, 0), *next;
	bool expected = false;
	unsigned i;
	int rc;

	for (i = 1;; i++) {
		next = backend_wanted(e->backend_name, i);
		rc = backend_find(name, e->module_path, &e->ops, &expected, why);
		if (rc == 0)
			rc = open_on(e, &expected, why);
		if (rc == 0 || next == NULL || !device_fault(e, why))
			return rc;
		log_write(expected ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, "backend %s is not used, %s computes: %s",
		          name, next, why->text);
		device_close(e);
		e->ops = NULL;
		memset(why, 0, sizeof *why);
		name = next;
	}
}

int device_open(struct engine *e, struct reason *why)
{
	bool expected;

	e->load_told = 0;
	return e->ops == NULL ? choose(e, why) : open_on(e, &expected, why);
}

void device_close(struct engine *e)
{
	if (e->ops == NULL)
		return;
	swap_close(e->swap);
	e->swap = NULL;
	close_tables(e);
	slots_close(e->slots);
	e->slots = NULL;
	e->kv = NULL;
	model_close(e->model);
	e->model = NULL;
	e->tokenizer = NULL;
	e->ops->close(e->backend);
	e->backend = NULL;
}
