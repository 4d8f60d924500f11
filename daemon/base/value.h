/*
 * A value: what an answer is made of, without knowing how it travels.  The engine
 * builds one, serve encodes it as MessagePack.  A tree owned by its root; str and
 * bin are copied.  Not thread safe; give the whole tree away.
 * Where there is no memory a value is VALUE_LOST, and so becomes what it is put into:
 * many are as large as a client wants them, and nobody looks before the answer goes.
 */
#ifndef DAEMON_BASE_VALUE_H
#define DAEMON_BASE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum value_kind { VALUE_NIL, VALUE_BOOL, VALUE_INT, VALUE_UINT, VALUE_REAL, VALUE_STR, VALUE_BIN,
                  VALUE_LIST, VALUE_MAP, VALUE_LOST };

struct value {
	enum value_kind kind;
	union {
		bool b;
		int64_t i;
		uint64_t u;
		double d;
		struct { char *data; size_t n; } s;              /* STR, BIN; NUL behind n */
		struct { struct value **items; char **keys; size_t n, room; } l;   /* LIST, MAP */
	};
};

struct value *value_nil(void);
struct value *value_bool(bool b);
struct value *value_int(int64_t i);
struct value *value_uint(uint64_t u);
struct value *value_real(double d);
struct value *value_str(const char *s);                      /* NULL: nil */
struct value *value_strn(const char *s, size_t n);           /* valid UTF-8 */
struct value *value_bin(const void *p, size_t n);
struct value *value_list(void);
struct value *value_map(void);
struct value *value_lost(void);
/* Take ownership of v.  put returns v, so that containers can be chained. */
struct value *value_push(struct value *list, struct value *v);
struct value *value_put(struct value *map, const char *key, struct value *v);
const struct value *value_get(const struct value *map, const char *key);   /* NULL: absent */
void value_free(struct value *v);                            /* NULL is fine */

#endif
