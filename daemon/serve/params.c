/*
 * Parameters: a map of the wire to the fields of a request, by a table.
 *
 * A row says how a parameter's value is read, where it goes and what is in
 * range; proto/methods.c says which method takes it.  So a handler sees only
 * values that are of their type and in range.  Everything is copied: the request
 * outlives the message.
 *
 * A user's text never goes into an error; names do, made printable.
 */
#include "daemon/serve/params.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/utf8.h"

#define AT(field) offsetof(struct request, field)

struct row {
	int (*read)(const struct row *row, const char *key, const msgpack_object *o, struct args *a, struct reason *why);
	size_t offset;             /* of the field in struct request */
	unsigned given;            /* enum given */
	double least, most;        /* of integers, most 0: no limit but the field's */
	const char *const *words;
	size_t n_word;
};

void printable(char *to, size_t size, const char *s, size_t n)
{
	size_t i;

	n = n < size ? n : size - 1;
	for (i = 0; i < n; i++)
		to[i] = s[i] > ' ' && s[i] <= '~' ? s[i] : '?';
	to[n] = '\0';
}

static int bad(struct reason *why, const char *key, const char *what)
{
	return refuse(why, "bad_param", "%s %s", key, what);
}

static void *place(const struct row *row, const struct args *a)
{
	return (char *)a->request + row->offset;
}

/* A view of a str (or of a bin, where that may be). */
static bool view(const msgpack_object *o, bool or_bin, const char **s, size_t *n)
{
	if (o->type == MSGPACK_OBJECT_STR) {
		*s = o->via.str.ptr;
		*n = o->via.str.size;
		return true;
	}
	if (!or_bin || o->type != MSGPACK_OBJECT_BIN)
		return false;
	*s = o->via.bin.ptr;
	*n = o->via.bin.size;
	return true;
}

/* ---- values ---- */

static int read_bool(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                     struct reason *why)
{
	if (o->type != MSGPACK_OBJECT_BOOLEAN)
		return bad(why, key, "must be true or false");
	*(bool *)place(row, a) = o->via.boolean;
	a->request->given |= row->given;
	return 0;
}

static int read_uint(const struct row *row, const char *key, const msgpack_object *o, uint64_t *out,
                     struct reason *why)
{
	if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
		return bad(why, key, "must be a whole number, not negative");
	if (o->via.u64 < (uint64_t)row->least)
		return refuse(why, "bad_param", "%s must be at least %.15g", key, row->least);
	if (row->most > 0 && o->via.u64 > (uint64_t)row->most)
		return refuse(why, "bad_param", "%s must be at most %.15g", key, row->most);
	*out = o->via.u64;
	return 0;
}

static int read_u64(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                    struct reason *why)
{
	a->request->given |= row->given;
	return read_uint(row, key, o, place(row, a), why);
}

static int read_limit(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                      struct reason *why)
{
	int rc = read_uint(row, key, o, &a->request->limit, why);

	if (a->request->limit > LIMIT_MAX)
		a->request->limit = LIMIT_MAX;
	return rc;
}

static int read_u32(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                    struct reason *why)
{
	uint64_t v = 0;
	int rc = read_uint(row, key, o, &v, why);

	*(uint32_t *)place(row, a) = (uint32_t)v;      /* every row's most fits */
	a->request->given |= row->given;
	return rc;
}

static int read_real(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                     struct reason *why)
{
	double v;

	if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64)
		v = o->via.f64;
	else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
		v = (double)o->via.u64;
	else if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
		v = (double)o->via.i64;
	else
		return bad(why, key, "must be a number");
	if (!(v >= row->least && v <= row->most))
		return refuse(why, "bad_param", "%s must be from %.15g to %.15g", key, row->least, row->most);
	*(float *)place(row, a) = (float)v;
	a->request->given |= row->given;
	return 0;
}

/* A view of a text: a str that is one, or a bin. */
static int view_text(const char *key, const msgpack_object *o, const char *wanted, const char **s, size_t *n,
                     struct reason *why)
{
	if (!view(o, true, s, n))
		return bad(why, key, wanted);
	if (o->type == MSGPACK_OBJECT_STR && !utf8_is_valid(*s, *n))
		return bad(why, key, "is not UTF-8; send it as bin");
	return 0;
}

struct text { char **data; size_t *n; };

static int read_bytes(struct text to, unsigned given, const char *key, const msgpack_object *o, struct args *a,
                      struct reason *why)
{
	const char *s = NULL;
	size_t n = 0;
	int rc = view_text(key, o, "must be a str or a bin", &s, &n, why);

	if (rc)
		return rc;
	*to.data = malloc(n + 1);
	if (!*to.data)
		return refuse(why, "memory", "no memory for %s", key);
	memcpy(*to.data, s, n);
	(*to.data)[n] = '\0';
	*to.n = n;
	a->request->given |= given;
	return 0;
}

static int read_text(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                     struct reason *why)
{
	return read_bytes((struct text){ &a->request->text, &a->request->n_text }, row->given, key, o, a, why);
}

static int read_system(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                       struct reason *why)
{
	return read_bytes((struct text){ &a->request->system, &a->request->n_system }, row->given, key, o, a, why);
}

static int read_key(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                    struct reason *why)
{
	const char *s;
	size_t n;

	if (!view(o, true, &s, &n))
		return bad(why, key, "must be a str or a bin");
	if (n == 0 || n > KEY_MAX)
		return bad(why, key, "must be 1 to 64 bytes");
	memcpy(a->request->key, s, n);
	a->request->n_key = n;
	a->request->given |= row->given;
	return 0;
}

static int read_ids(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                    struct reason *why)
{
	const msgpack_object *at;
	uint32_t i;

	if (o->type != MSGPACK_OBJECT_ARRAY)
		return bad(why, key, "must be a list of token ids");
	if (ids_reserve(&a->request->tokens, o->via.array.size) != 0)
		return refuse(why, "memory", "no memory for %s", key);
	for (i = 0; i < o->via.array.size; i++) {
		at = &o->via.array.ptr[i];
		if (at->type != MSGPACK_OBJECT_POSITIVE_INTEGER || at->via.u64 > INT32_MAX)
			return bad(why, key, "must be a list of token ids");
		ids_push(&a->request->tokens, (int32_t)at->via.u64);
	}
	a->request->given |= row->given;
	return 0;
}

static int read_stop(const char *key, const msgpack_object *o, struct stops *to, struct reason *why)
{
	const char *s = NULL;
	size_t n = 0;
	int rc = view_text(key, o, "must be a str or a bin, or a list of them", &s, &n, why);

	if (rc)
		return rc;
	if (n == 0 || n > STOP_BYTES)
		return bad(why, key, "must be 1 to 128 bytes each");
	if (to->n == STOP_MAX)
		return bad(why, key, "may be given at most 8 times");
	memcpy(to->at[to->n].data, s, n);
	to->at[to->n++].n = (uint32_t)n;
	return 0;
}

static int read_stops(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                      struct reason *why)
{
	struct stops *to = &a->request->settings.stops;
	uint32_t i;
	int rc = 0;

	a->request->given |= row->given;
	if (o->type != MSGPACK_OBJECT_ARRAY)
		return read_stop(key, o, to, why);
	for (i = 0; i < o->via.array.size && !rc; i++)
		rc = read_stop(key, &o->via.array.ptr[i], to, why);
	return rc;
}

/* ---- words and names ---- */

static bool is_word(const msgpack_object *o, const char *word)
{
	return o->type == MSGPACK_OBJECT_STR && o->via.str.size == strlen(word) &&
	       memcmp(o->via.str.ptr, word, o->via.str.size) == 0;
}

/* One of words, NULL entries left out; its index goes to the uint8_t field. */
static int read_word(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                     struct reason *why)
{
	char list[128] = "";
	size_t i, n = 0;

	for (i = 0; i < row->n_word; i++) {
		if (!row->words[i])
			continue;
		if (is_word(o, row->words[i])) {
			*(uint8_t *)place(row, a) = (uint8_t)i;
			a->request->given |= row->given;
			return 0;
		}
		n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", row->words[i]);
	}
	return refuse(why, "bad_param", "%s must be one of: %s", key, list);
}

static int read_errors(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                       struct reason *why)
{
	(void)row;
	a->error_map = is_word(o, "map");
	if (!a->error_map && !is_word(o, "string"))
		return bad(why, key, "must be \"string\" or \"map\"");
	return 0;
}

static int read_model(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                      struct reason *why)
{
	if (!is_word(o, "current"))
		return bad(why, key, "must be \"current\"");
	a->request->given |= row->given;
	return 0;
}

static int read_client(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                       struct reason *why)
{
	(void)row;
	if (o->type != MSGPACK_OBJECT_STR || o->via.str.size > PROTO_NAME_MAX)
		return bad(why, key, "must be a str of at most 256 bytes");
	printable(a->client, sizeof a->client, o->via.str.ptr, o->via.str.size);
	return 0;
}

static int read_protocol(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                         struct reason *why)
{
	return read_uint(row, key, o, &a->protocol, why);
}

static int read_wait_ms(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                        struct reason *why)
{
	int rc = read_uint(row, key, o, &a->wait_ms, why);

	if (a->wait_ms > WAIT_MS_MAX)
		a->wait_ms = WAIT_MS_MAX;
	return rc;
}

/* NAME: [A-Za-z0-9][A-Za-z0-9._-]{0,63} */
static bool is_name(const char *s, size_t n)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
	size_t i;

	if (n == 0 || n > SESSION_NAME_MAX || !memchr(letters, s[0], sizeof letters - 1))
		return false;
	for (i = 1; i < n; i++)
		if (!memchr(letters, s[i], sizeof letters - 1) && !memchr("._-", s[i], 3))
			return false;
	return true;
}

static int read_name(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                     struct reason *why)
{
	char *to = place(row, a);

	if (o->type != MSGPACK_OBJECT_STR)
		return bad(why, key, "must be a str");
	if (!is_name(o->via.str.ptr, o->via.str.size))
		return refuse(why, "bad_name", "%s must be [A-Za-z0-9][A-Za-z0-9._-]{0,63}", key);
	memcpy(to, o->via.str.ptr, o->via.str.size);
	to[o->via.str.size] = '\0';
	return 0;
}

/* A uid by number, or by a name of /etc/passwd.  Not through the name service,
 * which may wait for a network: users that are only there are named by number. */
static bool find_user(const char *user, uid_t *uid)
{
	struct passwd entry, *found = NULL;
	char text[4096], *end;
	unsigned long v;
	FILE *f;

	if (user[0] >= '0' && user[0] <= '9') {
		errno = 0;
		v = strtoul(user, &end, 10);
		*uid = (uid_t)v;
		return !*end && !errno && v < UINT32_MAX;
	}
	f = fopen("/etc/passwd", "re");
	if (!f)
		return false;
	while (fgetpwent_r(f, &entry, text, sizeof text, &found) == 0)
		if (strcmp(entry.pw_name, user) == 0) {
			*uid = entry.pw_uid;
			break;
		}
	fclose(f);
	return found != NULL;
}

/* NAME, or USER:NAME. */
static int read_session(const struct row *row, const char *key, const msgpack_object *o, struct args *a,
                        struct reason *why)
{
	char text[sizeof a->prefix + SESSION_NAME_MAX];
	msgpack_object name = *o;
	const char *colon;
	size_t n;

	if (o->type != MSGPACK_OBJECT_STR)
		return bad(why, key, "must be a str");
	colon = memchr(o->via.str.ptr, ':', o->via.str.size);
	if (!colon)
		return read_name(row, key, o, a, why);
	n = (size_t)(colon - o->via.str.ptr);
	if (n == 0 || n + 1 >= sizeof a->prefix || memchr(o->via.str.ptr, '\0', n))
		return refuse(why, "bad_name", "%s: no such user", key);
	memcpy(a->prefix, o->via.str.ptr, n);
	if (!find_user(a->prefix, &a->request->owner)) {
		printable(text, sizeof text, o->via.str.ptr, o->via.str.size);
		return refuse(why, "no_session", "no session %s", text);
	}
	a->prefix[n] = ':';
	name.via.str.ptr += n + 1;
	name.via.str.size -= (uint32_t)n + 1;
	return read_name(row, key, &name, a, why);
}

/* ---- the table ---- */

/* What a client may append; an answer is the model's. */
static const char *const roles[N_ROLE] = {
	[ROLE_RAW] = "raw", [ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_TOOL] = "tool",
};

static const struct row rows[N_PARAM] = {
	[PARAM_CLIENT] = { read_client },
	[PARAM_PROTOCOL] = { read_protocol },
	[PARAM_ERRORS] = { read_errors },
	[PARAM_SESSION] = { read_session, AT(name) },
	[PARAM_NEW_NAME] = { read_name, AT(new_name) },
	[PARAM_TEXT] = { read_text, 0, GIVEN_TEXT },
	[PARAM_TOKENS] = { read_ids, 0, GIVEN_TOKENS },
	[PARAM_ROLE] = { read_word, AT(role), GIVEN_ROLE, .words = roles, .n_word = N_ROLE },
	[PARAM_KEY] = { read_key, 0, GIVEN_KEY },
	[PARAM_WAIT] = { read_bool, AT(wait) },
	[PARAM_SINKS] = { read_u32, AT(window.n_sink), GIVEN_SINKS, 0, 1 << 20 },
	[PARAM_WINDOW] = { read_u32, AT(window.n_recent), GIVEN_WINDOW, 1, 1 << 24 },
	[PARAM_SYSTEM] = { read_system, 0, GIVEN_SYSTEM },
	[PARAM_PIN] = { read_bool, AT(pin) },
	[PARAM_RAW] = { read_bool, AT(raw) },
	[PARAM_TEMPERATURE] = { read_real, AT(settings.sampling.temperature), GIVEN_TEMPERATURE, 0, 100 },
	[PARAM_TOP_K] = { read_u32, AT(settings.sampling.top_k), GIVEN_TOP_K, 0, 1 << 20 },
	[PARAM_TOP_P] = { read_real, AT(settings.sampling.top_p), GIVEN_TOP_P, 0, 1 },
	[PARAM_MIN_P] = { read_real, AT(settings.sampling.min_p), GIVEN_MIN_P, 0, 1 },
	[PARAM_REPEAT_PENALTY] = { read_real, AT(settings.sampling.repeat_penalty), GIVEN_REPEAT_PENALTY, 0.01, 100 },
	[PARAM_SEED] = { read_u64, AT(settings.sampling.seed), GIVEN_SEED },
	[PARAM_STOP] = { read_stops, 0, GIVEN_STOP },
	[PARAM_MAX_TOKENS] = { read_u32, AT(settings.max_tokens), GIVEN_MAX_TOKENS, 1, 1000000000 },
	[PARAM_UNTIL_DISCONNECT] = { read_bool, AT(until_disconnect) },
	[PARAM_FROM] = { read_u64, AT(from) },
	[PARAM_LIMIT] = { read_limit, 0, 0, 1, 0 },
	[PARAM_WAIT_MS] = { read_wait_ms },
	[PARAM_SHARE] = { read_word, AT(share), GIVEN_SHARE, .words = share_names, .n_word = N_SHARE },
	[PARAM_MODEL] = { read_model, 0, GIVEN_MODEL },
	[PARAM_CHUNK] = { read_u32, AT(chunk), 0, 1, 1 << 20 },
	[PARAM_EXACT] = { read_bool, AT(exact) },
	[PARAM_PER_TOKEN] = { read_bool, AT(per_token) },
};

static int find_param(const msgpack_object *key)
{
	int i;

	for (i = 0; i < N_PARAM; i++)
		if (is_word(key, proto_params[i].key))
			return i;
	return -1;
}

static int unknown(const struct proto_method *m, const msgpack_object *key, struct reason *why)
{
	char name[40];

	printable(name, sizeof name, key->via.str.ptr, key->via.str.size);
	return refuse(why, "bad_param", "%s knows no parameter %s", m->name, name);
}

static int missing(const struct proto_method *m, uint64_t given, struct reason *why)
{
	int i;

	for (i = 0; i < N_PARAM; i++)
		if (m->needs & ~given & UINT64_C(1) << i)
			return refuse(why, "bad_param", "%s needs the parameter %s", m->name, proto_params[i].key);
	return 0;
}

int params_read(struct args *a, const struct proto_method *m, const msgpack_object *params,
                struct reason *why)
{
	uint32_t i, n = params->type == MSGPACK_OBJECT_MAP ? params->via.map.size : 0;
	const msgpack_object_kv *kv;
	int k, rc;

	for (i = 0; i < n; i++) {
		kv = &params->via.map.ptr[i];
		k = find_param(&kv->key);
		if (k < 0 || !(m->takes & UINT64_C(1) << k))
			return unknown(m, &kv->key, why);
		if (a->given & UINT64_C(1) << k)
			return bad(why, proto_params[k].key, "is given twice");
		a->given |= UINT64_C(1) << k;
		rc = rows[k].read(&rows[k], proto_params[k].key, &kv->val, a, why);
		if (rc)
			return rc;
	}
	return missing(m, a->given, why);
}
