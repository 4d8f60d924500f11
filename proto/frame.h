/*
 * Messages of MessagePack-RPC: whole checked bytes <-> their parts.
 *   request      [0, id, method, [params]]
 *   response     [1, id, error, result]
 *   notification [2, method, [params]]
 * One parameter, a map with string keys; [], [[]] and [nil] mean the empty map.
 */
#ifndef PROTO_FRAME_H
#define PROTO_FRAME_H

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum frame_kind { FRAME_REQUEST = 0, FRAME_RESPONSE = 1, FRAME_NOTIFICATION = 2 };

struct frame {
	msgpack_zone zone;         /* owns what the objects point to */
	bool open;
	enum frame_kind kind;
	bool has_id;               /* a request's id is known, also where the rest is refused */
	uint32_t id;
	const char *method; size_t n_method;
	msgpack_object params;     /* MAP, or NIL: the empty map */
	msgpack_object error, result;
};

enum { FRAME_NO_MEMORY = 2 };

/* p[n]: one whole message that scan has accepted; the views point into the zone
 * and p.  0, or 1 with a sentence in why: not such a message (has_id: answer it
 * by name); FRAME_NO_MEMORY: it may be one.  frame_close in any case. */
int frame_parse(struct frame *f, const void *p, size_t n, char *why, size_t n_why);
void frame_close(struct frame *f);
/* A map's value by key, NULL: absent. */
const msgpack_object *frame_get(const msgpack_object *map, const char *key);

/* Heads of messages; the caller packs the rest behind them. */
void frame_pack_request(msgpack_packer *pk, uint32_t id, const char *method);      /* then one map */
void frame_pack_notification(msgpack_packer *pk, const char *method);              /* then one map */
void frame_pack_result(msgpack_packer *pk, uint32_t id);                           /* then the result */
void frame_pack_error(msgpack_packer *pk, uint32_t id, bool as_map, const char *name, const char *message);
void frame_pack_str(msgpack_packer *pk, const char *s);

#endif
