/*
 * Values of answers: as JSON, and by key.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "proto/frame.h"

static void string_print(FILE *f, const char *s, size_t n)
{
	size_t i;

	fputc('"', f);
	for (i = 0; i < n; i++) {
		unsigned char b = (unsigned char)s[i];

		if (b == '"' || b == '\\')
			fprintf(f, "\\%c", b);
		else if (b == '\n')
			fputs("\\n", f);
		else if (b < 0x20 || b == 0x7f)
			fprintf(f, "\\u%04x", b);
		else
			fputc(b, f);
	}
	fputc('"', f);
}

static void bin_print(FILE *f, const unsigned char *p, size_t n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	unsigned three;
	size_t i;

	fputs("{\"bin\": \"", f);
	for (i = 0; i < n; i += 3) {
		three = (unsigned)p[i] << 16 | (i + 1 < n ? (unsigned)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
		fputc(digits[three >> 18], f);
		fputc(digits[three >> 12 & 63], f);
		fputc(i + 1 < n ? digits[three >> 6 & 63] : '=', f);
		fputc(i + 2 < n ? digits[three & 63] : '=', f);
	}
	fputs("\"}", f);
}

/* The shortest spelling that reads back as the same number: as a float where it is
 * one, so that a setting of 0.7 is printed as 0.7. */
static void real_print(FILE *f, double d)
{
	bool single = (double)(float)d == d;
	char buf[40];
	int digits;

	if (!isfinite(d)) {
		fputs("null", f);
		return;
	}
	for (digits = single ? 1 : 15; digits < 17; digits++) {
		snprintf(buf, sizeof buf, "%.*g", digits, d);
		if (single ? strtof(buf, NULL) == (float)d : strtod(buf, NULL) == d)
			break;
	}
	if (digits == 17)
		snprintf(buf, sizeof buf, "%.17g", d);
	fputs(buf, f);
	if (!strpbrk(buf, ".e"))
		fputs(".0", f);
}

static void list_print(FILE *f, const msgpack_object_array *a)
{
	uint32_t i;

	fputc('[', f);
	for (i = 0; i < a->size; i++) {
		if (i)
			fputs(", ", f);
		json_print(f, &a->ptr[i]);
	}
	fputc(']', f);
}

static void map_print(FILE *f, const msgpack_object_map *m)
{
	uint32_t i;

	fputc('{', f);
	for (i = 0; i < m->size; i++) {
		if (i)
			fputs(", ", f);
		json_print(f, &m->ptr[i].key);
		fputs(": ", f);
		json_print(f, &m->ptr[i].val);
	}
	fputc('}', f);
}

void json_print(FILE *f, const msgpack_object *o)
{
	switch (o->type) {
	case MSGPACK_OBJECT_NIL: fputs("null", f); break;
	case MSGPACK_OBJECT_BOOLEAN: fputs(o->via.boolean ? "true" : "false", f); break;
	case MSGPACK_OBJECT_POSITIVE_INTEGER: fprintf(f, "%llu", (unsigned long long)o->via.u64); break;
	case MSGPACK_OBJECT_NEGATIVE_INTEGER: fprintf(f, "%lld", (long long)o->via.i64); break;
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64: real_print(f, o->via.f64); break;
	case MSGPACK_OBJECT_STR: string_print(f, o->via.str.ptr, o->via.str.size); break;
	case MSGPACK_OBJECT_BIN: bin_print(f, (const unsigned char *)o->via.bin.ptr, o->via.bin.size); break;
	case MSGPACK_OBJECT_ARRAY: list_print(f, &o->via.array); break;
	case MSGPACK_OBJECT_MAP: map_print(f, &o->via.map); break;
	case MSGPACK_OBJECT_EXT: fputs("null", f); break;
	}
}

void json_line(const msgpack_object *o)
{
	json_print(stdout, o);
	putchar('\n');
}

uint64_t answer_uint(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = frame_get(map, key);

	return o && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? o->via.u64 : 0;
}

double answer_real(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = frame_get(map, key);

	if (!o)
		return 0;
	if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64)
		return o->via.f64;
	return (double)answer_uint(map, key);
}

const msgpack_object_str *answer_str(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = frame_get(map, key);

	return o && o->type == MSGPACK_OBJECT_STR ? &o->via.str : NULL;
}

bool answer_is(const msgpack_object *map, const char *key, const char *word)
{
	const msgpack_object_str *s = answer_str(map, key);

	return s && s->size == strlen(word) && memcmp(s->ptr, word, s->size) == 0;
}
