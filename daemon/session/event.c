/*
 * Events: copying, chaining, and what a client reads.  Owns no state.
 *
 * The chain hashes every stored field of an entry in one fixed little-endian
 * layout; it is on disk, so the layout never changes.
 */
#define XXH_STATIC_LINKING_ONLY        /* a hash state on the stack */
#include "daemon/session/event.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/utf8.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ids and chains are little endian on disk");

const char *const event_kind_names[N_EVENT_KIND] = {
	NULL, "text", "turn", "applied", "evicted", "state",
};

const char *const turn_reason_names[] = {
	"begin", "stop", "length", "cancelled", "error",
};
#define N_TURN_REASON (sizeof turn_reason_names / sizeof *turn_reason_names)

void event_clear(struct event *e)
{
	if (e == NULL)
		return;
	ids_free(&e->ids);
	free(e->text);
	e->text = NULL;
	e->n_text = 0;
}

char *event_text(const char *text, size_t n)
{
	char *copy = malloc(n + 1);

	if (copy == NULL)
		return NULL;
	if (n > 0)
		memcpy(copy, text, n);
	copy[n] = '\0';
	return copy;
}

int event_copy(struct event *to, const struct event *from)
{
	*to = *from;
	memset(&to->ids, 0, sizeof to->ids);
	to->text = event_text(from->text, from->n_text);
	if (to->text == NULL) {
		to->n_text = 0;
		return -ENOMEM;
	}
	if (ids_reserve(&to->ids, from->ids.n) != 0) {
		event_clear(to);
		return -ENOMEM;
	}
	ids_append(&to->ids, from->ids.data, from->ids.n);
	return 0;
}

/* On disk: never change. */
struct chained {
	uint64_t previous, session, seq, time, order, position, window_start;
	uint64_t n_ids, n_text;
	uint32_t n_prompt, n_generated;
	uint8_t kind, role, reason, zero[5];
};
_Static_assert(sizeof(struct chained) == 88, "no padding in what is hashed");

uint64_t event_chain(uint64_t previous, const struct event *e)
{
	struct chained c = {
		.previous = previous, .session = e->session, .seq = e->seq,
		.time = (uint64_t)e->time, .order = e->order, .position = e->position,
		.window_start = e->window_start, .n_ids = e->ids.n, .n_text = e->n_text,
		.n_prompt = e->n_prompt, .n_generated = e->n_generated,
		.kind = e->kind, .role = e->role, .reason = e->reason,
	};
	XXH3_state_t state;
	uint64_t hash;

	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, &c, sizeof c);
	if (e->ids.n > 0)
		XXH3_64bits_update(&state, e->ids.data, e->ids.n * sizeof *e->ids.data);
	if (e->n_text > 0)
		XXH3_64bits_update(&state, e->text, e->n_text);
	hash = XXH3_64bits_digest(&state);
	return hash != 0 ? hash : 1;   /* 0 means: no entry yet */
}

uint64_t event_stored(const struct event *e)
{
	return 64 + e->n_text + e->ids.n * sizeof *e->ids.data;
}

size_t event_cost(const struct event *e)
{
	/* A character of U+FFFD for a byte, and the byte itself. */
	return 256 + (utf8_is_valid(e->text, e->n_text) ? e->n_text : 4 * e->n_text);
}

static void put_text(struct value *v, const struct event *e)
{
	size_t n;
	char *s;

	value_put(v, "role", value_str(e->role < N_ROLE ? role_names[e->role] : "raw"));
	if (utf8_is_valid(e->text, e->n_text)) {
		value_put(v, "text", value_strn(e->text, e->n_text));
	} else {
		s = utf8_scrub(e->text, e->n_text, &n);
		value_put(v, "text", s != NULL ? value_strn(s, n) : value_lost());
		value_put(v, "bytes", value_bin(e->text, e->n_text));
		free(s);
	}
	value_put(v, "tokens", value_uint(e->ids.n));
}

static void put_turn(struct value *v, const struct event *e)
{
	bool begin = e->reason == TURN_BEGIN;

	value_put(v, "role", value_str(e->role < N_ROLE ? role_names[e->role] : "raw"));
	value_put(v, "state", value_str(begin ? "begin" : "end"));
	value_put(v, "tokens", value_uint(e->ids.n));
	if (begin)
		return;
	value_put(v, "reason", value_str(e->reason < N_TURN_REASON ? turn_reason_names[e->reason] : "error"));
	value_put(v, "prompt_tokens", value_uint(e->n_prompt));
	value_put(v, "generated_tokens", value_uint(e->n_generated));
}

static void put_nothing(struct value *v, const struct event *e)
{
	(void)v, (void)e;
}

static void put_state(struct value *v, const struct event *e)
{
	value_put(v, "state", value_str(e->state));
	value_put(v, "progress", value_real(e->progress));
}

static void (*const put_kind[N_EVENT_KIND])(struct value *, const struct event *) = {
	[EVENT_TEXT] = put_text, [EVENT_TURN] = put_turn, [EVENT_APPLIED] = put_nothing,
	[EVENT_EVICTED] = put_nothing, [EVENT_STATE] = put_state,
};

struct value *event_value(const struct event *e, const char *name)
{
	struct value *v = value_map();

	assert(e->kind > 0 && e->kind < N_EVENT_KIND);
	value_put(v, "session", value_str(name));
	value_put(v, "seq", value_uint(e->seq));
	value_put(v, "time", value_int(e->time));
	value_put(v, "kind", value_str(event_kind_names[e->kind]));
	value_put(v, "position", value_uint(e->position));
	if (e->order != 0)
		value_put(v, "request", value_uint(e->order));
	put_kind[e->kind](v, e);
	value_put(v, "window_start", value_uint(e->window_start));
	value_put(v, "forgotten", value_uint(e->forgotten));
	return v;
}
