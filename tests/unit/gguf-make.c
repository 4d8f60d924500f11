/* See gguf-make.h. */
#include "tests/unit/gguf-make.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void put(struct make *m, const void *p, size_t n)
{
	if (m->n + n > m->room) {
		m->room = 2 * (m->n + n);
		m->data = realloc(m->data, m->room);
		assert(m->data);
	}
	memcpy(m->data + m->n, p, n);
	m->n += n;
}

void make_u32(struct make *m, uint32_t v)
{
	put(m, &v, sizeof v);
}

void make_u64(struct make *m, uint64_t v)
{
	put(m, &v, sizeof v);
}

void make_string(struct make *m, const char *s)
{
	make_u64(m, strlen(s));
	put(m, s, strlen(s));
}

void make_begin(struct make *m, uint32_t version)
{
	memset(m, 0, sizeof *m);
	put(m, "GGUF", 4);
	make_u32(m, version);
	make_u64(m, 0);
	make_u64(m, 0);
}

void make_free(struct make *m)
{
	free(m->data);
	memset(m, 0, sizeof *m);
}

void make_key(struct make *m, const char *name, uint32_t type)
{
	make_string(m, name);
	make_u32(m, type);
	m->n_key++;
}

void make_key_u32(struct make *m, const char *name, uint32_t v)
{
	make_key(m, name, 4);
	make_u32(m, v);
}

void make_key_f32(struct make *m, const char *name, float v)
{
	make_key(m, name, 6);
	put(m, &v, sizeof v);
}

void make_key_string(struct make *m, const char *name, const char *v)
{
	make_key(m, name, 8);
	make_string(m, v);
}

void make_tensor(struct make *m, const char *name, uint32_t n_dim, const uint64_t *ne, uint32_t type, uint64_t offset)
{
	uint32_t d;

	make_string(m, name);
	make_u32(m, n_dim);
	for (d = 0; d < n_dim; d++)
		make_u64(m, ne[d]);
	make_u32(m, type);
	make_u64(m, offset);
	m->n_tensor++;
}

void make_data(struct make *m, size_t align, size_t n)
{
	static const uint8_t zero[4096];
	size_t total = (align - m->n % align) % align + n, part;

	for (; total; total -= part) {
		part = total < sizeof zero ? total : sizeof zero;
		put(m, zero, part);
	}
}

void make_counts(struct make *m)
{
	memcpy(m->data + 8, &m->n_tensor, 8);
	memcpy(m->data + 16, &m->n_key, 8);
}

int make_open(struct gguf **out, const void *data, size_t n, struct reason *why)
{
	int rc, fd = memfd_create("made.gguf", MFD_CLOEXEC);
	char path[64];

	assert(fd >= 0 && write(fd, data, n) == (ssize_t)n);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	rc = gguf_open(out, path, why);
	close(fd);
	return rc;
}

void make_load(struct make *m, const char *path)
{
	FILE *f = fopen(path, "r");
	uint8_t buf[65536];
	size_t n;

	memset(m, 0, sizeof *m);
	assert(f);
	while ((n = fread(buf, 1, sizeof buf, f)) > 0)
		put(m, buf, n);
	fclose(f);
}

size_t make_find(const struct make *m, const char *spelling)
{
	const uint8_t *p = memmem(m->data, m->n, spelling, strlen(spelling));

	return p ? (size_t)(p - m->data) + strlen(spelling) + 4 : 0;
}
