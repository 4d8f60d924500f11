/*
 * What the engine tells about itself: a session's map, server.info, server.stats,
 * the line for STATUS=.  Reads everything, changes nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/utf8.h"
#include "daemon/session/engine-internal.h"

/* ---- sessions ---- */

static const char *state_of(const struct timeline *t)
{
	if (t->bad[0] != '\0')
		return "damaged";
	if (t->changed)
		return "model_changed";
	if (t->row.n_kill >= 2 && !t->probation)
		return "set_aside";
	if (t->state == TIMELINE_LOADING || (t->engine->phase == PHASE_LOADING && t->n_queued > 0))
		return "loading";
	if (t->rebuilding && t->state == TIMELINE_READY)
		return "rebuilding";
	if (t->engine->phase == PHASE_UNLOADED && t->n_queued == 0)
		return "unloaded";
	if (t->state == TIMELINE_ASLEEP)
		return t->n_queued > 0 ? "queued" : "idle";
	if (t->n_computed + 1 < t->n_token || (t->n_computed < t->n_token && !generating(t)))
		return "prefill";
	if (generating(t))
		return "generating";
	return t->n_queued > 0 ? "queued" : "idle";
}

static struct value *stop_value(const char *s, size_t n)
{
	return utf8_is_valid(s, n) ? value_strn(s, n) : value_bin(s, n);
}

static void put_settings(struct value *v, const struct settings *s)
{
	struct value *stops = value_list();
	uint32_t i;

	value_put(v, "temperature", value_real(s->sampling.temperature));
	value_put(v, "top_k", value_uint(s->sampling.top_k));
	value_put(v, "top_p", value_real(s->sampling.top_p));
	value_put(v, "min_p", value_real(s->sampling.min_p));
	value_put(v, "repeat_penalty", value_real(s->sampling.repeat_penalty));
	value_put(v, "seed", value_uint(s->sampling.seed));
	value_put(v, "max_tokens", value_uint(s->max_tokens));
	for (i = 0; i < s->stops.n; i++)
		value_push(stops, stop_value(s->stops.at[i].data, s->stops.at[i].n));
	value_put(v, "stop", stops);
}

static const char *why_of(const struct timeline *t, struct reason *why)
{
	return timeline_usable(t, why) == 0 ? NULL : why->text;
}

struct value *session_value(const struct timeline *t)
{
	const struct session_row *row = &t->row;
	struct value *v = value_map();
	uint64_t start = timeline_window_start(t, row->n_token);
	struct reason why;

	value_put(v, "session", value_str(row->name));
	value_put(v, "owner", value_uint(row->uid));
	value_put(v, "state", value_str(state_of(t)));
	if (why_of(t, &why) != NULL)
		value_put(v, "why", value_str(why.text));
	value_put(v, "position", value_uint(row->n_token));
	value_put(v, "computed", value_uint(t->state == TIMELINE_READY && t->n_computed < row->n_token
	                                    ? t->n_computed : row->n_token));
	value_put(v, "window_start", value_uint(start));
	value_put(v, "forgotten", value_uint(start - row->window.n_sink));
	value_put(v, "seq", value_uint(row->n_seq));
	value_put(v, "sinks", value_uint(row->window.n_sink));
	value_put(v, "window", value_uint(row->window.n_recent));
	value_put(v, "created", value_int(row->created));
	value_put(v, "used", value_int(row->used));
	value_put(v, "queued", value_uint(t->n_queued));
	value_put(v, "share", value_str(share_names[row->share < N_SHARE ? row->share : 0]));
	return v;
}

void verb_info(struct engine *e, struct request *r, struct timeline *t)
{
	struct value *v = session_value(t);

	value_put(v, "raw", value_bool(t->row.raw));
	value_put(v, "chat", value_str(t->chat != NULL ? t->chat->name : NULL));
	value_put(v, "model", value_str(t->row.model));
	value_put(v, "memory", value_uint(e->kv != NULL ? e->ops->kv_bytes(&e->shape, t->row.window) : 0));
	put_settings(v, &t->row.settings);
	r->result = v;
	answer(e, r);
}

/* ---- the server ---- */

static struct value *model_value(const struct engine *e)
{
	const struct model_info *m = model_info(e->model);
	const struct chat_format *chat = model_chat(e->model);
	struct value *v = value_map();
	char hex[17];

	value_put(v, "name", value_str(m->name));
	value_put(v, "arch", value_str(m->arch));
	value_put(v, "n_layer", value_uint(m->n_layer));
	value_put(v, "n_embd", value_uint(m->n_embd));
	value_put(v, "n_vocab", value_uint(m->n_vocab));
	value_put(v, "n_ctx", value_uint(m->n_ctx));
	value_put(v, "parameters", value_uint(m->n_param));
	value_put(v, "bytes", value_uint(m->n_byte));
	value_put(v, "chat", value_str(chat != NULL ? chat->name : NULL));
	snprintf(hex, sizeof hex, "%016llx", (unsigned long long)m->fingerprint);
	value_put(v, "fingerprint", value_str(hex));
	return v;
}

static struct value *memory_value(const struct engine *e)
{
	struct request usual = { .verb = VERB_CREATE };
	struct value *v = value_map();

	value_put(v, "weights", value_uint(e->budget.weights));
	value_put(v, "session", value_uint(e->ops->kv_bytes(&e->shape, window_of(e, &usual))));
	value_put(v, "slots", value_uint(e->p.n_slot * (uint64_t)e->slot_bytes));
	if (e->budget.total == 0)
		return v;
	value_put(v, "work", value_uint(e->budget.work));
	value_put(v, "computed", value_uint(budget_bytes(&e->budget)));
	value_put(v, "taken", value_uint(e->device_taken));
	value_put(v, "limit", value_uint(e->budget.limit));
	value_put(v, "total", value_uint(e->budget.total));
	return v;
}

/* What the model and the device allow; serve tells the rest. */
static struct value *limits_value(const struct engine *e)
{
	struct value *v = value_map();

	value_put(v, "slots", value_uint(e->p.n_slot));
	if (e->n_window_max > 0)
		value_put(v, "window", value_uint(e->n_window_max));
	return v;
}

void verb_server_info(struct engine *e, struct request *r, struct timeline *none)
{
	static const char *const phases[] = { "loading", "ready", "failed", "stopping", "unloaded" };
	bool there = e->model != NULL && e->kv != NULL && e->phase != PHASE_LOADING;
	struct value *v = value_map(), *features = value_list();

	(void)none;
	value_put(v, "state", value_str(e->phase == PHASE_UNLOADED && e->leaving ? "unloading" : phases[e->phase]));
	value_put(v, "progress", value_real(e->phase == PHASE_LOADING ? e->load_progress : 1));
	value_put(v, "model", there ? model_value(e) : value_nil());
	value_put(v, "backend", value_str(there ? e->ops->describe(e->backend) : NULL));
	value_put(v, "threads", value_uint(e->p.n_thread));
	if (there)
		value_put(v, "memory", memory_value(e));
	value_put(v, "limits", limits_value(e));
	if (there && e->ops->bitwise)
		value_push(features, value_str("bitwise"));
	value_put(v, "features", features);
	r->result = v;
	answer(e, r);
}

void verb_server_stats(struct engine *e, struct request *r, struct timeline *none)
{
	const struct stats *s = &e->stats;
	uint64_t queued = 0, resident = 0, busy = 0;
	struct value *v = value_map();
	const struct timeline *t;
	size_t i;

	(void)none;
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next) {
			queued += t->n_queued;
			resident += t->state != TIMELINE_ASLEEP;
			busy += timeline_busy(t);
		}
	value_put(v, "computed_tokens", value_uint(s->computed));
	value_put(v, "prefill_tokens", value_uint(s->prefill));
	value_put(v, "generated_tokens", value_uint(s->generated));
	value_put(v, "skipped_tokens", value_uint(s->skipped));
	value_put(v, "whole_rows", value_uint(s->whole_rows));
	value_put(v, "steps", value_uint(s->steps));
	value_put(v, "step_ms", value_uint((uint64_t)(1000 * s->step_seconds)));
	value_put(v, "sessions", value_uint(e->n_session));
	value_put(v, "resident_sessions", value_uint(resident));
	value_put(v, "busy_sessions", value_uint(busy));
	value_put(v, "queued", value_uint(queued));
	value_put(v, "uptime_ms", value_uint((uint64_t)(clock_ms() - e->started)));
	value_put(v, "requests", value_uint(s->requests));
	value_put(v, "orders", value_uint(s->orders));
	value_put(v, "scores", value_uint(s->scores));
	value_put(v, "kept_sessions", value_uint(s->kept));
	value_put(v, "device_failures", value_uint(s->device_failures));
	value_put(v, "rebuilt_sessions", value_uint(s->rebuilt));
	value_put(v, "slots_evicted", value_uint(s->slots_evicted));
	value_put(v, "swapped_out", value_uint(s->swapped_out));
	value_put(v, "swapped_in", value_uint(s->swapped_in));
	value_put(v, "swap_bytes", value_uint(e->swap != NULL ? swap_bytes(e->swap) : 0));
	value_put(v, "unloads", value_uint(s->unloads));
	value_put(v, "checkpoints_written", value_uint(s->checkpoints_written));
	value_put(v, "checkpoints_loaded", value_uint(s->checkpoints_loaded));
	value_put(v, "checkpoints_refused", value_uint(s->checkpoints_refused));
	r->result = v;
	answer(e, r);
}

void verb_ping(struct engine *e, struct request *r, struct timeline *none)
{
	(void)none;
	r->result = value_map();
	answer(e, r);
}

void status_text(const struct engine *e, char *out, size_t n)
{
	struct request usual = { .verb = VERB_CREATE };
	double mib = 1024.0 * 1024.0;

	if (e->phase == PHASE_UNLOADED)
		snprintf(out, n, "unloaded; the next request loads the model");
	else if (e->model == NULL || e->kv == NULL)
		snprintf(out, n, "loading");
	else
		snprintf(out, n, "%s on %s, %.0f MiB a session, %u slots", model_info(e->model)->name,
		         e->ops->describe(e->backend),
		         (double)e->ops->kv_bytes(&e->shape, window_of(e, &usual)) / mib, e->p.n_slot);
}
