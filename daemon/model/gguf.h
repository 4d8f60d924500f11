/*
 * A GGUF file (v2, v3; little endian) over a read-only mapping.  Every count and
 * offset is checked against the mapping before it is used; strings and arrays
 * are views into it.  Immutable once open: any thread may read.
 *
 * Source: the GGUF specification of ggml (docs/gguf.md).
 */
#ifndef DAEMON_MODEL_GGUF_H
#define DAEMON_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/error.h"

struct gguf;

struct gguf_str { const char *data; size_t n; };      /* not NUL-terminated */

struct gguf_array {
	uint32_t type;          /* GGUF value type of the elements; 8: strings */
	uint64_t n;
	const void *data;       /* first element, unaligned */
};

struct gguf_tensor {
	struct gguf_str name;
	uint32_t type;          /* enum quant_type, or a GGML type of no use to us */
	uint32_t n_dim;         /* 1 .. 4 */
	uint64_t ne[4];         /* GGML order: ne[0] is the contiguous one */
	const void *data;       /* inside the mapping, n_byte of it checked */
	uint64_t n_byte;        /* 0: a format we do not know (data then unchecked, NULL) */
};

/* REFUSED with the name bad_model, or -errno (cannot open, map). */
int gguf_open(struct gguf **out, const char *path, struct reason *why);
/* Gives back the memory of what was read of the file; what is read again comes again. */
void gguf_rest(struct gguf *g);
void gguf_close(struct gguf *g);                       /* NULL is fine */

/* Typed look-ups; false: absent or of another type.  Integers of any width are
 * converted where they fit. */
bool gguf_has(const struct gguf *g, const char *key);  /* of any type */
bool gguf_u64(const struct gguf *g, const char *key, uint64_t *out);
bool gguf_f64(const struct gguf *g, const char *key, double *out);
bool gguf_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_string(const struct gguf *g, const char *key, struct gguf_str *out);
bool gguf_array(const struct gguf *g, const char *key, struct gguf_array *out);
/* Elements: numeric by index; strings in order through a cursor (start with 0). */
bool gguf_array_u64(const struct gguf_array *a, uint64_t i, uint64_t *out);    /* booleans too */
bool gguf_array_f64(const struct gguf_array *a, uint64_t i, double *out);
/* next is called at most a->n times; the caller counts. */
bool gguf_array_next(const struct gguf_array *a, size_t *cursor, struct gguf_str *out);

size_t gguf_n_tensor(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);   /* NULL: absent */
/* For `sinkd --gguf`: the i-th key, its value type and a short printable value. */
bool gguf_key_at(const struct gguf *g, size_t i, struct gguf_str *key, char *value, size_t n_value);

/* The file's own text for people: printable ASCII, cut to n with "...". */
void gguf_print(struct gguf_str s, char *dst, size_t n);
size_t gguf_size(const struct gguf *g);                /* bytes of the file */

/* XXH3-64 over the header (keys and tensor table), the file's size and samples of
 * every tensor's data: names a model for checkpoints and sessions. */
uint64_t gguf_fingerprint(const struct gguf *g);

#endif
