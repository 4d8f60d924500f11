/*
 * MessagePack-RPC messages: whole, scanned bytes to their parts, and the heads of
 * those that we send.
 *
 * It must not be given bytes that scan has not accepted: the unpacker allocates
 * from declared counts.
 */
#include "proto/frame.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/errors.h"

static int not_one(char *why, size_t n_why, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int not_one(char *why, size_t n_why, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, n_why, fmt, ap);
	va_end(ap);
	return 1;
}

static int no_memory(char *why, size_t n_why)
{
	not_one(why, n_why, "no memory for the message");
	return FRAME_NO_MEMORY;
}

static bool is_uint32(const msgpack_object *o)
{
	return o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= UINT32_MAX;
}

static int method_parse(struct frame *f, const msgpack_object *o, char *why, size_t n_why)
{
	if (o->type != MSGPACK_OBJECT_STR)
		return not_one(why, n_why, "the method must be a string");
	f->method = o->via.str.ptr;
	f->n_method = o->via.str.size;
	return 0;
}

/* The list of parameters to the one map, or NIL. */
static int params_parse(struct frame *f, const msgpack_object *o, char *why, size_t n_why)
{
	const msgpack_object *one;
	uint32_t i;

	f->params.type = MSGPACK_OBJECT_NIL;
	if (o->type != MSGPACK_OBJECT_ARRAY)
		return not_one(why, n_why, "the parameters must be a list with one map");
	if (o->via.array.size > 1)
		return not_one(why, n_why, "%u parameters; one map is taken", (unsigned)o->via.array.size);
	if (o->via.array.size == 0)
		return 0;
	one = o->via.array.ptr;
	if (one->type == MSGPACK_OBJECT_NIL ||
	    (one->type == MSGPACK_OBJECT_ARRAY && one->via.array.size == 0))
		return 0;
	if (one->type != MSGPACK_OBJECT_MAP)
		return not_one(why, n_why, "the parameter must be a map");
	for (i = 0; i < one->via.map.size; i++)
		if (one->via.map.ptr[i].key.type != MSGPACK_OBJECT_STR)
			return not_one(why, n_why, "the keys of a map must be strings");
	f->params = *one;
	return 0;
}

static int request_parse(struct frame *f, const msgpack_object *at, char *why, size_t n_why)
{
	if (!is_uint32(&at[1]))
		return not_one(why, n_why, "a request's id must be an integer of 32 bits, not negative");
	f->id = (uint32_t)at[1].via.u64;
	f->has_id = true;
	if (method_parse(f, &at[2], why, n_why))
		return 1;
	return params_parse(f, &at[3], why, n_why);
}

static int response_parse(struct frame *f, const msgpack_object *at, char *why, size_t n_why)
{
	if (!is_uint32(&at[1]))
		return not_one(why, n_why, "a response's id must be an integer of 32 bits, not negative");
	f->id = (uint32_t)at[1].via.u64;
	f->error = at[2];
	f->result = at[3];
	return 0;
}

static int notification_parse(struct frame *f, const msgpack_object *at, char *why, size_t n_why)
{
	if (method_parse(f, &at[1], why, n_why))
		return 1;
	return params_parse(f, &at[2], why, n_why);
}

/* By enum frame_kind. */
static const struct {
	uint32_t n;
	int (*parse)(struct frame *f, const msgpack_object *at, char *why, size_t n_why);
} kinds[] = {
	[FRAME_REQUEST] = { 4, request_parse },
	[FRAME_RESPONSE] = { 4, response_parse },
	[FRAME_NOTIFICATION] = { 3, notification_parse },
};

int frame_parse(struct frame *f, const void *p, size_t n, char *why, size_t n_why)
{
	msgpack_object top;
	const msgpack_object *at;
	msgpack_unpack_return rc;
	size_t off = 0;

	memset(f, 0, sizeof *f);
	if (!msgpack_zone_init(&f->zone, MSGPACK_ZONE_CHUNK_SIZE))
		return no_memory(why, n_why);
	f->open = true;
	rc = msgpack_unpack(p, n, &off, &f->zone, &top);
	if (rc == MSGPACK_UNPACK_NOMEM_ERROR)
		return no_memory(why, n_why);
	if (rc != MSGPACK_UNPACK_SUCCESS || off != n)
		return not_one(why, n_why, "not one whole MessagePack value");
	if (top.type != MSGPACK_OBJECT_ARRAY || top.via.array.size == 0)
		return not_one(why, n_why, "a message must be a list");
	at = top.via.array.ptr;
	if (at[0].type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
	    at[0].via.u64 >= sizeof kinds / sizeof kinds[0])
		return not_one(why, n_why, "a message must begin with 0, 1 or 2");
	f->kind = (enum frame_kind)at[0].via.u64;
	if (top.via.array.size != kinds[f->kind].n)
		return not_one(why, n_why, "a list of %u values; this kind of message has %u",
		               (unsigned)top.via.array.size, (unsigned)kinds[f->kind].n);
	return kinds[f->kind].parse(f, at, why, n_why);
}

void frame_close(struct frame *f)
{
	if (f->open)
		msgpack_zone_destroy(&f->zone);
	f->open = false;
}

const msgpack_object *frame_get(const msgpack_object *map, const char *key)
{
	size_t n = strlen(key);
	uint32_t i;

	if (!map || map->type != MSGPACK_OBJECT_MAP)
		return NULL;
	for (i = 0; i < map->via.map.size; i++) {
		const msgpack_object_kv *kv = &map->via.map.ptr[i];

		if (kv->key.type == MSGPACK_OBJECT_STR && kv->key.via.str.size == n &&
		    memcmp(kv->key.via.str.ptr, key, n) == 0)
			return &kv->val;
	}
	return NULL;
}

void frame_pack_str(msgpack_packer *pk, const char *s)
{
	size_t n = strlen(s);

	msgpack_pack_str(pk, n);
	msgpack_pack_str_body(pk, s, n);
}

void frame_pack_request(msgpack_packer *pk, uint32_t id, const char *method)
{
	msgpack_pack_array(pk, 4);
	msgpack_pack_int(pk, FRAME_REQUEST);
	msgpack_pack_uint32(pk, id);
	frame_pack_str(pk, method);
	msgpack_pack_array(pk, 1);
}

void frame_pack_notification(msgpack_packer *pk, const char *method)
{
	msgpack_pack_array(pk, 3);
	msgpack_pack_int(pk, FRAME_NOTIFICATION);
	frame_pack_str(pk, method);
	msgpack_pack_array(pk, 1);
}

void frame_pack_result(msgpack_packer *pk, uint32_t id)
{
	msgpack_pack_array(pk, 4);
	msgpack_pack_int(pk, FRAME_RESPONSE);
	msgpack_pack_uint32(pk, id);
	msgpack_pack_nil(pk);
}

static void pack_error_map(msgpack_packer *pk, const char *name, const char *message)
{
	const struct proto_error_row *row = proto_error_find(name);

	msgpack_pack_map(pk, 3);
	frame_pack_str(pk, "code");
	msgpack_pack_int(pk, row ? row->code : PROTO_INTERNAL);
	frame_pack_str(pk, "name");
	frame_pack_str(pk, name);
	frame_pack_str(pk, "message");
	frame_pack_str(pk, message);
}

static void pack_error_str(msgpack_packer *pk, const char *name, const char *message)
{
	size_t n_name = strlen(name), n_message = strlen(message);

	msgpack_pack_str(pk, n_name + 2 + n_message);
	msgpack_pack_str_body(pk, name, n_name);
	msgpack_pack_str_body(pk, ": ", 2);
	msgpack_pack_str_body(pk, message, n_message);
}

void frame_pack_error(msgpack_packer *pk, uint32_t id, bool as_map, const char *name, const char *message)
{
	msgpack_pack_array(pk, 4);
	msgpack_pack_int(pk, FRAME_RESPONSE);
	msgpack_pack_uint32(pk, id);
	if (as_map)
		pack_error_map(pk, name, message);
	else
		pack_error_str(pk, name, message);
	msgpack_pack_nil(pk);
}
