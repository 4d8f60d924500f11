/*
 * The inside of an open GGUF file, for gguf.c (which reads and checks it) and
 * gguf-look.c (which answers questions about it).  Nobody else includes this.
 */
#ifndef DAEMON_MODEL_GGUF_INSIDE_H
#define DAEMON_MODEL_GGUF_INSIDE_H

#include "daemon/model/gguf.h"

enum value_type {
	V_U8, V_I8, V_U16, V_I16, V_U32, V_I32, V_F32, V_BOOL, V_STRING, V_ARRAY, V_U64, V_I64, V_F64,
	N_VALUE_TYPE
};

struct value_row { const char *name; uint8_t size; };
extern const struct value_row gguf_values[N_VALUE_TYPE];      /* size 0: of no fixed size */

struct entry {
	struct gguf_str key;
	uint32_t type;
	const uint8_t *data;       /* a number, or a string's first byte */
	size_t n_string;
	struct gguf_array array;
};

struct gguf {
	const uint8_t *map;
	size_t n_map, n_header;    /* n_header: keys and tensor table */
	size_t n_key, n_tensor;
	struct entry *keys;                    /* in the file's order */
	struct gguf_tensor *tensors;
	const struct entry **key_index;        /* by key */
	const struct gguf_tensor **tensor_index;
};

/* Bytes, then length: the order of the two indices. */
int gguf_compare(struct gguf_str a, struct gguf_str b);

#endif
