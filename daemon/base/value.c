/* Values: trees that answers are made of; see the header. */
#include "daemon/base/value.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static struct value lost = { .kind = VALUE_LOST };     /* never written */

static struct value *make(enum value_kind kind)
{
	struct value *v = calloc(1, sizeof *v);

	if (v == NULL)
		return &lost;
	v->kind = kind;
	return v;
}

struct value *value_lost(void)
{
	return &lost;
}

struct value *value_nil(void)
{
	return make(VALUE_NIL);
}

struct value *value_bool(bool b)
{
	struct value *v = make(VALUE_BOOL);

	if (v != &lost)
		v->b = b;
	return v;
}

struct value *value_int(int64_t i)
{
	struct value *v = make(VALUE_INT);

	if (v != &lost)
		v->i = i;
	return v;
}

struct value *value_uint(uint64_t u)
{
	struct value *v = make(VALUE_UINT);

	if (v != &lost)
		v->u = u;
	return v;
}

struct value *value_real(double d)
{
	struct value *v = make(VALUE_REAL);

	if (v != &lost)
		v->d = d;
	return v;
}

static struct value *bytes(enum value_kind kind, const void *p, size_t n)
{
	struct value *v = make(kind);

	if (v == &lost)
		return v;
	v->s.data = malloc(n + 1);
	if (v->s.data == NULL) {
		free(v);
		return &lost;
	}
	if (n > 0)
		memcpy(v->s.data, p, n);
	v->s.data[n] = '\0';
	v->s.n = n;
	return v;
}

struct value *value_strn(const char *s, size_t n)
{
	return bytes(VALUE_STR, s, n);
}

struct value *value_str(const char *s)
{
	return s == NULL ? value_nil() : bytes(VALUE_STR, s, strlen(s));
}

struct value *value_bin(const void *p, size_t n)
{
	return bytes(VALUE_BIN, p, n);
}

struct value *value_list(void)
{
	return make(VALUE_LIST);
}

struct value *value_map(void)
{
	return make(VALUE_MAP);
}

/* Room for one more; false: no memory. */
static bool grow(struct value *c)
{
	size_t room = c->l.room ? 2 * c->l.room : 8;
	void *p;

	if (c->l.n < c->l.room)
		return true;
	p = reallocarray(c->l.items, room, sizeof *c->l.items);
	if (p == NULL)
		return false;
	c->l.items = p;
	if (c->kind == VALUE_MAP) {
		p = reallocarray(c->l.keys, room, sizeof *c->l.keys);
		if (p == NULL)
			return false;
		c->l.keys = p;
	}
	c->l.room = room;
	return true;
}

static void clear(struct value *v)
{
	if (v->kind == VALUE_STR || v->kind == VALUE_BIN) {
		free(v->s.data);
	} else if (v->kind == VALUE_LIST || v->kind == VALUE_MAP) {
		for (size_t i = 0; i < v->l.n; i++) {
			value_free(v->l.items[i]);
			if (v->kind == VALUE_MAP)
				free(v->l.keys[i]);
		}
		free(v->l.items);
		free(v->l.keys);
	}
}

/* c and what was to be put into it. */
static struct value *lose(struct value *c, struct value *v)
{
	value_free(v);
	if (c->kind != VALUE_LOST) {
		clear(c);
		c->kind = VALUE_LOST;
	}
	return &lost;
}

struct value *value_push(struct value *list, struct value *v)
{
	assert(list->kind == VALUE_LIST || list->kind == VALUE_LOST);
	if (list->kind == VALUE_LOST || v->kind == VALUE_LOST || !grow(list))
		return lose(list, v);
	list->l.items[list->l.n++] = v;
	return v;
}

struct value *value_put(struct value *map, const char *key, struct value *v)
{
	char *name;

	assert(map->kind == VALUE_MAP || map->kind == VALUE_LOST);
	if (map->kind == VALUE_LOST || v->kind == VALUE_LOST || !grow(map))
		return lose(map, v);
	name = strdup(key);
	if (name == NULL)
		return lose(map, v);
	map->l.keys[map->l.n] = name;
	map->l.items[map->l.n++] = v;
	return v;
}

const struct value *value_get(const struct value *map, const char *key)
{
	assert(map->kind == VALUE_MAP || map->kind == VALUE_LOST);
	if (map->kind == VALUE_LOST)
		return NULL;
	for (size_t i = 0; i < map->l.n; i++)
		if (strcmp(map->l.keys[i], key) == 0)
			return map->l.items[i];
	return NULL;
}

void value_free(struct value *v)
{
	if (v == NULL || v == &lost)
		return;
	clear(v);
	free(v);
}
