/*
 * Makes GGUF files in memory, whole ones and wrong ones, for tests.  A made file is
 * opened through its descriptor's path.
 */
#ifndef TESTS_UNIT_GGUF_MAKE_H
#define TESTS_UNIT_GGUF_MAKE_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/model/gguf.h"

struct make {
	uint8_t *data;
	size_t n, room;
	uint64_t n_key, n_tensor;
};

void make_begin(struct make *m, uint32_t version);
void make_free(struct make *m);
void make_u32(struct make *m, uint32_t v);             /* bare bytes */
void make_u64(struct make *m, uint64_t v);
void make_string(struct make *m, const char *s);
/* Keys: the caller appends the value where there is none here. */
void make_key(struct make *m, const char *name, uint32_t type);
void make_key_u32(struct make *m, const char *name, uint32_t v);
void make_key_f32(struct make *m, const char *name, float v);
void make_key_string(struct make *m, const char *name, const char *v);
void make_tensor(struct make *m, const char *name, uint32_t n_dim, const uint64_t *ne, uint32_t type, uint64_t offset);
/* Pads to align and appends n zero bytes of tensor data. */
void make_data(struct make *m, size_t align, size_t n);
/* Writes the two counts into the header (calls may follow that damage it again). */
void make_counts(struct make *m);

/* Opens data[n] as a file. */
int make_open(struct gguf **out, const void *data, size_t n, struct reason *why);
/* A whole file of the disk, in memory. */
void make_load(struct make *m, const char *path);
/* Place of the value of a key (behind its type), found by its spelling; 0: absent. */
size_t make_find(const struct make *m, const char *spelling);

#endif
