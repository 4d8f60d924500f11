/*
 * The words of a mode, and the errors that a mode injects.
 *
 * Only here is the environment read, and only here are calls counted.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/cusim/inside.h"

struct cusim_modes cusim_modes;
static bool begun;

/* A whole number with an end that may be a K, M or G; false: it is none. */
static bool number(const char *w, const char *end, uint64_t *out)
{
	static const char units[] = "KMG";
	char *at;

	if (w == end || *w < '0' || *w > '9')
		return false;
	*out = strtoull(w, &at, 10);
	for (unsigned i = 0; i < 3 && at < end; i++)
		if (*at == units[i]) {
			*out <<= 10 * (i + 1);
			at++;
			break;
		}
	return at == end;
}

/* "N" or "NAME:N" */
static bool fail_word(const char *w, const char *end, struct cusim_modes *m)
{
	const char *name = "launch", *colon = (const char *)memchr(w, ':', (size_t)(end - w));
	size_t n = strlen(name);

	if (colon) {
		name = w;
		n = (size_t)(colon - w);
		w = colon + 1;
	}
	for (auto &f : m->fails)
		if (f.name[0] == '\0') {
			if (n == 0 || n >= sizeof f.name || !number(w, end, &f.left) || f.left == 0)
				return false;
			memcpy(f.name, name, n);
			f.name[n] = '\0';
			return true;
		}
	return false;
}

/* "PATH" or "NAME:PATH" */
static bool fail_file(const char *w, const char *end, struct cusim_modes *m)
{
	const char *colon = (const char *)memchr(w, ':', (size_t)(end - w));

	if ((colon && (size_t)(colon - w) >= sizeof m->fail_file_of) || (size_t)(end - w) >= sizeof m->fail_file)
		return false;
	snprintf(m->fail_file_of, sizeof m->fail_file_of, "%.*s", colon ? (int)(colon - w) : 6, colon ? w : "launch");
	memcpy(m->fail_file, colon ? colon + 1 : w, (size_t)(end - (colon ? colon + 1 : w)));
	return true;
}

/* Pairs of hexadecimal digits. */
static bool fail_bytes(const char *w, const char *end, struct cusim_modes *m)
{
	const size_t n = (size_t)(end - w) / 2;

	if (n == 0 || n > sizeof m->fail_bytes || (end - w) % 2)
		return false;
	for (size_t i = 0; i < n; i++)
		if (sscanf(w + 2 * i, "%2hhx", &m->fail_bytes[i]) != 1)
			return false;
	m->n_fail_bytes = n;
	return true;
}

static bool word(const char *w, const char *end, struct cusim_modes *m)
{
	const auto is = [w, end](const char *x) { return (size_t)(end - w) == strlen(x) && strncmp(w, x, strlen(x)) == 0; };
	const auto begins = [w, end](const char *x) { return (size_t)(end - w) > strlen(x) && strncmp(w, x, strlen(x)) == 0; };
	uint64_t n;

	if (is("order:forward"))
		m->order = cusim_modes::FORWARD;
	else if (is("order:reverse"))
		m->order = cusim_modes::REVERSE;
	else if (begins("order:") && number(w + 6, end, &m->seed))
		m->order = cusim_modes::SEEDED;
	else if (is("lazy"))
		m->lazy = true;
	else if (is("poison"))
		m->poison = true;
	else if (is("unreadable"))
		m->unreadable = true;
	else if (is("nodevice"))
		m->absent = cudaErrorNoDevice;
	else if (is("nodriver"))
		m->absent = cudaErrorInsufficientDriver;
	else if (begins("memory:") && number(w + 7, end, &n))
		m->memory = (size_t)n;
	else if (begins("fail:"))
		return fail_word(w + 5, end, m);
	else if (begins("failcopy:"))
		return fail_bytes(w + 9, end, m);
	else if (begins("failfile:"))
		return fail_file(w + 9, end, m);
	else
		return false;
	return true;
}

bool cusim_mode(const char *words)
{
	struct cusim_modes m = {};

	for (const char *w = words ? words : ""; *w;) {
		size_t n = strcspn(w, ",");

		if (!word(w, w + n, &m))
			return false;
		w += n + (w[n] == ',');
	}
	if (cusim_memory_held() && m.unreadable != cusim_modes.unreadable)
		return false;
	cusim_modes = m;
	begun = true;
	cusim_healed();
	return true;
}

void cusim_begin(void)
{
	if (begun)
		return;
	begun = true;
	if (!cusim_mode(getenv("CUSIM"))) {
		fprintf(stderr, "cusim: CUSIM=%s: not a mode\n", getenv("CUSIM"));
		abort();
	}
}

bool cusim_injected(const char *name)
{
	for (auto &f : cusim_modes.fails)
		if (f.left && strcmp(f.name, name) == 0 && --f.left == 0)
			return true;
	return cusim_modes.fail_file[0] && strcmp(name, cusim_modes.fail_file_of) == 0 && unlink(cusim_modes.fail_file) == 0;
}

bool cusim_poisonous(const void *p, size_t n)
{
	const unsigned char *at = (const unsigned char *)p;

	for (size_t i = 0; cusim_modes.n_fail_bytes && i + cusim_modes.n_fail_bytes <= n; i += 8)
		if (memcmp(at + i, cusim_modes.fail_bytes, cusim_modes.n_fail_bytes) == 0)
			return true;
	return false;
}
