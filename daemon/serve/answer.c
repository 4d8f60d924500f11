/*
 * Answers: values become MessagePack and go to a peer's output.
 *
 * Output is bounded: a message that would bring a peer over its cap is replaced
 * by the small error `too_large`, so that every request still has an answer.
 * Small messages always go; their number is bounded by the requests under way.
 * One that there is no memory for is never sent in part: the stream would be of no
 * more use.  It is replaced by the error `memory`, and where not even that can be
 * made the connection ends.
 */
#include "daemon/serve/answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/serve/peer.h"

#define SCRATCH_KEPT (256u << 10)      /* bytes of the packing buffer kept between messages */
#define SMALL 4096
#define ANSWER_MAX (32u << 20)

static void pack(msgpack_packer *pk, const struct value *v);

static void pack_list(msgpack_packer *pk, const struct value *v)
{
	size_t i;

	msgpack_pack_array(pk, v->l.n);
	for (i = 0; i < v->l.n; i++)
		pack(pk, v->l.items[i]);
}

static void pack_map(msgpack_packer *pk, const struct value *v)
{
	size_t i;

	msgpack_pack_map(pk, v->l.n);
	for (i = 0; i < v->l.n; i++) {
		frame_pack_str(pk, v->l.keys[i]);
		pack(pk, v->l.items[i]);
	}
}

static void pack(msgpack_packer *pk, const struct value *v)
{
	switch (v->kind) {
	case VALUE_NIL:
		msgpack_pack_nil(pk);
		break;
	case VALUE_BOOL:
		v->b ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
		break;
	case VALUE_INT:
		msgpack_pack_int64(pk, v->i);
		break;
	case VALUE_UINT:
		msgpack_pack_uint64(pk, v->u);
		break;
	case VALUE_REAL:
		msgpack_pack_double(pk, v->d);
		break;
	case VALUE_STR:
		msgpack_pack_str(pk, v->s.n);
		msgpack_pack_str_body(pk, v->s.data, v->s.n);
		break;
	case VALUE_BIN:
		msgpack_pack_bin(pk, v->s.n);
		msgpack_pack_bin_body(pk, v->s.data, v->s.n);
		break;
	case VALUE_LIST:
		pack_list(pk, v);
		break;
	case VALUE_MAP:
		pack_map(pk, v);
		break;
	case VALUE_LOST:
		((struct serve *)pk->data)->unpacked = true;
		break;
	}
}

/* The packer goes on after a failure: one is enough for the whole message. */
static int put(void *serve, const char *data, size_t n)
{
	struct serve *s = serve;

	if (!s->unpacked && msgpack_sbuffer_write(&s->scratch, data, n) < 0)
		s->unpacked = true;
	return s->unpacked ? -1 : 0;
}

/* The room's one packing buffer, empty. */
static msgpack_sbuffer *begin(struct serve *s, msgpack_packer *pk)
{
	msgpack_sbuffer *b = &s->scratch;

	if (b->alloc > SCRATCH_KEPT) {
		msgpack_sbuffer_destroy(b);
		msgpack_sbuffer_init(b);
	}
	msgpack_sbuffer_clear(b);
	msgpack_packer_init(pk, s, put);
	s->unpacked = false;
	return b;
}

static bool fits(const struct peer *p, size_t n)
{
	if (n <= SMALL || peer_unread(p) + n <= p->serve->params.n_output)
		return true;
	return peer_unread(p) < PEER_HIGH_WATER && n <= ANSWER_MAX;    /* one big one at a time */
}

/* False: no memory for it, and nothing is sent. */
static bool send_result(struct peer *p, uint32_t id, const struct value *v)
{
	msgpack_packer pk;
	msgpack_sbuffer *b = begin(p->serve, &pk);

	frame_pack_result(&pk, id);
	if (v)
		pack(&pk, v);
	else
		msgpack_pack_map(&pk, 0);
	if (p->serve->unpacked)
		return false;
	if (fits(p, b->size))
		peer_send(p, b->data, b->size);
	else
		answer_error(p, id, "too_large", "the answer is over what may lie unread; read first, then ask again");
	return true;
}

void answer_result(struct peer *p, uint32_t id, const struct value *v)
{
	if (!send_result(p, id, v))
		answer_error(p, id, "memory", "no memory for the answer");
}

void answer_done(struct peer *p, uint32_t id, const struct value *v)
{
	if (!send_result(p, id, v))
		peer_break(p);
}

bool answer_pack(struct serve *s, uint32_t id, bool as_map, const char *name, const char *text)
{
	msgpack_packer pk;

	begin(s, &pk);
	frame_pack_error(&pk, id, as_map, name, text);
	return !s->unpacked;
}

void answer_error(struct peer *p, uint32_t id, const char *name, const char *text)
{
	if (answer_pack(p->serve, id, p->error_map, name, text))
		peer_send(p, p->serve->scratch.data, p->serve->scratch.size);
	else
		peer_break(p);
}

void answer_reason(struct peer *p, uint32_t id, int rc, const struct reason *why)
{
	if (rc > 0 && why->name[0])
		answer_error(p, id, why->name, why->text);
	else if (rc == -ENOMEM)
		answer_error(p, id, "memory", "no memory for it");
	else
		answer_error(p, id, "internal", "a mistake of the daemon's own; its log says more");
}

/* ---- events ---- */

static void rename_one(struct value *map, const char *prefix)
{
	struct value *name;
	char *full;
	size_t i;

	if (map->kind != VALUE_MAP)
		return;
	for (i = 0; i < map->l.n && strcmp(map->l.keys[i], "session") != 0; i++)
		;
	if (i == map->l.n || map->l.items[i]->kind != VALUE_STR)
		return;
	name = map->l.items[i];
	if (asprintf(&full, "%s%s", prefix, name->s.data) < 0)
		full = NULL;
	map->l.items[i] = full ? value_str(full) : value_lost();
	value_free(name);
	free(full);
}

void answer_rename(struct value *events, const char *prefix)
{
	size_t i;

	if (!prefix[0] || !events || events->kind != VALUE_LIST)
		return;
	for (i = 0; i < events->l.n; i++)
		rename_one(events->l.items[i], prefix);
}

void answer_event(struct peer *p, const struct value *v)
{
	msgpack_packer pk;
	msgpack_sbuffer *b = begin(p->serve, &pk);

	frame_pack_notification(&pk, "session.event");
	pack(&pk, v);
	if (p->serve->unpacked)
		peer_break(p);         /* a follower must not miss one without knowing */
	else
		peer_send(p, b->data, b->size);
}
