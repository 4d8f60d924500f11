/*
 * Options and parameters: the command line into a verb's options and arguments,
 * and those into the map of a request.  Which options there are, tables say.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "client/client.h"
#include "proto/frame.h"

/* Does arg spell this option?  *value: what is glued to it, or NULL. */
static bool option_spells(const struct option *o, const char *arg, const char **value)
{
	size_t n = strlen(o->name);

	*value = NULL;
	if (strncmp(arg, o->name, n) != 0)
		return false;
	if (arg[n] == 0)
		return true;
	if (!o->arg)
		return false;
	if (o->name[1] != '-') {           /* -n5 */
		*value = arg + n;
		return true;
	}
	if (arg[n] != '=')
		return false;
	*value = arg + n + 1;
	return true;
}

static const struct option *table_find(const struct option *o, const char *arg, const char **value)
{
	for (; o && o->name; o++)
		if (option_spells(o, arg, value))
			return o;
	return NULL;
}

static int option_take(struct client *c, const struct option *global, char ***at)
{
	const char *arg = **at, *value = NULL;
	const struct option *o = table_find(c->verb ? c->verb->options : NULL, arg, &value);

	if (!o)
		o = table_find(global, arg, &value);
	if (!o && c->verb)
		return usage_error("no option %s of %s; -- goes before text that begins with -",
		                   arg, c->verb->name);
	if (!o)
		return usage_error("no option %s", arg);
	if (o->arg && !value && !(value = *++*at))
		return usage_error("%s wants %s", o->name, o->arg);
	if (c->n_given == GIVEN_MAX)
		return usage_error("too many options");
	c->given[c->n_given++] = (struct given){ o, value };
	return 0;
}

int options_parse(struct client *c, int argc, char **argv, const struct option *global)
{
	char **end = argv + argc;
	bool only_arguments = false;
	int rc;

	for (; argv < end; argv++) {
		if (!only_arguments && strcmp(*argv, "--") == 0) {
			only_arguments = true;
		} else if (!only_arguments && (*argv)[0] == '-' && (*argv)[1]) {
			rc = option_take(c, global, &argv);
			if (rc)
				return rc;
		} else if (!c->verb) {
			c->verb = verb_find(*argv);
			if (!c->verb)
				return usage_error("no verb %s; sink help lists them", *argv);
		} else {
			c->argv[c->argc++] = *argv;
		}
	}
	return 0;
}

const char *option_value(const struct client *c, const char *name)
{
	int i;

	for (i = c->n_given - 1; i >= 0; i--)
		if (strcmp(c->given[i].row->name, name) == 0)
			return c->given[i].value;
	return NULL;
}

bool option_given(const struct client *c, const char *name)
{
	int i;

	for (i = 0; i < c->n_given; i++)
		if (strcmp(c->given[i].row->name, name) == 0)
			return true;
	return false;
}

/* ---- parameters ---- */

void params_init(struct params *p)
{
	msgpack_sbuffer_init(&p->buf);
	msgpack_packer_init(&p->pk, &p->buf, msgpack_sbuffer_write);
	p->n = 0;
}

void params_free(struct params *p)
{
	msgpack_sbuffer_destroy(&p->buf);
}

msgpack_packer *params_key(struct params *p, const char *key)
{
	p->n++;
	frame_pack_str(&p->pk, key);
	return &p->pk;
}

void params_str(struct params *p, const char *key, const char *s)
{
	params_text(p, key, s, strlen(s));
}

void params_uint(struct params *p, const char *key, uint64_t u)
{
	msgpack_pack_uint64(params_key(p, key), u);
}

void params_bool(struct params *p, const char *key, bool b)
{
	msgpack_packer *pk = params_key(p, key);

	if (b)
		msgpack_pack_true(pk);
	else
		msgpack_pack_false(pk);
}

static void pack_text(msgpack_packer *pk, const char *s, size_t n)
{
	if (utf8_valid(s, n)) {
		msgpack_pack_str(pk, n);
		msgpack_pack_str_body(pk, s, n);
	} else {
		msgpack_pack_bin(pk, n);
		msgpack_pack_bin_body(pk, s, n);
	}
}

void params_text(struct params *p, const char *key, const char *s, size_t n)
{
	pack_text(params_key(p, key), s, n);
}

static int params_number(struct params *p, const char *key, const char *called, enum option_type type, const char *value)
{
	unsigned long long u;
	double d;
	char *end;

	errno = 0;
	if (type == OPTION_UINT) {
		u = strtoull(value, &end, 10);
		if (*value < '0' || *value > '9' || *end || errno)
			return usage_error("%s is a whole number, not negative: not %s", called, value);
		params_uint(p, key, u);
		return 0;
	}
	d = strtod(value, &end);
	if (!*value || *end || errno || !isfinite(d))
		return usage_error("%s is a number: not %s", called, value);
	msgpack_pack_double(params_key(p, key), d);
	return 0;
}

int params_typed(struct params *p, const char *key, const char *called, enum option_type type, const char *value)
{
	switch (type) {
	case OPTION_FLAG:
		params_bool(p, key, true);
		return 0;
	case OPTION_TEXT:
		params_str(p, key, value);
		return 0;
	case OPTION_UINT:
	case OPTION_REAL:
		break;
	}
	return params_number(p, key, called, type, value);
}

/* Options given more than once become a list, or the last one counts. */
static int params_given(struct params *p, const struct client *c, int at)
{
	const struct option *o = c->given[at].row;
	msgpack_packer *pk;
	size_t n = 0;
	int i, last = at;

	for (i = 0; i < c->n_given; i++) {
		if (c->given[i].row != o)
			continue;
		if (i < at)
			return 0;          /* done with the first one */
		last = i;
		n++;
	}
	if (o->type != OPTION_TEXT || n == 1)
		return params_typed(p, o->key, o->name, o->type, c->given[last].value);
	pk = params_key(p, o->key);
	msgpack_pack_array(pk, n);
	for (i = at; i < c->n_given; i++)
		if (c->given[i].row == o)
			pack_text(pk, c->given[i].value, strlen(c->given[i].value));
	return 0;
}

int params_options(struct params *p, const struct client *c)
{
	int i, rc;

	if (c->verb->n_least > 0)
		params_str(p, "session", c->argv[0]);
	for (i = 0; i < c->n_given; i++) {
		if (!c->given[i].row->key)
			continue;
		rc = params_given(p, c, i);
		if (rc)
			return rc;
	}
	return 0;
}

void request_key(unsigned char key[REQUEST_KEY])
{
	ssize_t n;

	do
		n = getrandom(key, REQUEST_KEY, 0);
	while (n < 0 && errno == EINTR);
	if (n != REQUEST_KEY)
		abort();
}

void params_request_key(struct params *p, const unsigned char key[REQUEST_KEY])
{
	msgpack_packer *pk = params_key(p, "key");

	msgpack_pack_bin(pk, REQUEST_KEY);
	msgpack_pack_bin_body(pk, key, REQUEST_KEY);
}
