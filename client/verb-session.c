/*
 * Verbs about sessions as things: new, ls, show, cancel, set, rename, rm, and info
 * and stats.
 */
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/client.h"
#include "proto/frame.h"

const struct option options_new[] = {
	{ "--sinks", "N", "sinks", OPTION_UINT, "attention sinks, tokens; default 4" },
	{ "--window", "N", "window", OPTION_UINT, "recent window, tokens; default what the model allows, at most 2000" },
	{ "--system", "TEXT", "system", OPTION_TEXT, "system prompt" },
	{ "--pin", NULL, "pin", OPTION_FLAG, "the system prompt is never forgotten" },
	{ "--raw", NULL, "raw", OPTION_FLAG, "no chat format: text is text" },
	{ "-n", "N", "max_tokens", OPTION_UINT, "most tokens of an answer" },
	OPTIONS_SAMPLING,
	{ "--share", "WHO", "share", OPTION_TEXT, "none, group-read or group-write" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};
const struct option options_stats[] = {
	{ "--prometheus", NULL, NULL, OPTION_FLAG, "in the text format of Prometheus" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};

/* A call whose answer is worth printing with --json only. */
static int call_quiet(struct client *c, const char *method, struct params *p)
{
	struct sink_answer a = { 0 };
	int rc = link_call(c, method, p, &a);

	if (rc == 0 && c->json)
		json_line(&a.result);
	sink_answer_free(&a);
	return rc;
}

/* The same, of the session in the first argument, with the options given. */
static int call_session(struct client *c, const char *method)
{
	struct params p;
	int rc;

	params_init(&p);
	rc = params_options(&p, c);
	if (rc == 0)
		rc = call_quiet(c, method, &p);
	params_free(&p);
	return rc;
}

int verb_new(struct client *c)
{
	if (option_given(c, "--pin") && !option_given(c, "--system"))
		return usage_error("--pin keeps the system prompt, and wants --system TEXT");
	return call_session(c, "session.create");
}

int verb_cancel(struct client *c)
{
	return call_session(c, "session.cancel");
}

int verb_rename(struct client *c)
{
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", c->argv[0]);
	params_str(&p, "new_name", c->argv[1]);
	rc = call_quiet(c, "session.rename", &p);
	params_free(&p);
	return rc;
}

int verb_rm(struct client *c)
{
	struct params p;
	int i, rc = 0, one;

	for (i = 0; i < c->argc; i++) {
		params_init(&p);
		params_str(&p, "session", c->argv[i]);
		one = call_quiet(c, "session.delete", &p);
		params_free(&p);
		if (one > rc)
			rc = one;
		if (one == EXIT_NO_DAEMON)
			break;
	}
	return rc;
}

/* ---- set ---- */

static const struct setting { const char *key; enum option_type type; } settings[] = {
	{ "temperature", OPTION_REAL }, { "top_k", OPTION_UINT }, { "top_p", OPTION_REAL },
	{ "min_p", OPTION_REAL }, { "repeat_penalty", OPTION_REAL }, { "seed", OPTION_UINT },
	{ "max_tokens", OPTION_UINT }, { "stop", OPTION_TEXT }, { "share", OPTION_TEXT },
	{ "model", OPTION_TEXT },
};

/* KEY of KEY=VALUE, dashes as underscores; NULL: none of ours. */
static const struct setting *setting_find(const char *arg, const char **value)
{
	const char *equals = strchr(arg, '=');
	size_t i, k, n = equals ? (size_t)(equals - arg) : 0;

	for (i = 0; i < sizeof settings / sizeof settings[0] && equals; i++) {
		for (k = 0; k < n && (arg[k] == '-' ? '_' : arg[k]) == settings[i].key[k]; k++)
			;
		if (k == n && settings[i].key[n] == 0) {
			*value = equals + 1;
			return &settings[i];
		}
	}
	return NULL;
}

/* stop=A stop=B becomes a list; stop= alone the empty one. */
static int params_stops(struct params *p, int argc, char **argv)
{
	const struct setting *s;
	const char *value;
	msgpack_packer *pk;
	size_t n = 0;
	int i;

	for (i = 0; i < argc; i++)
		if ((s = setting_find(argv[i], &value)) && strcmp(s->key, "stop") == 0)
			n += *value != 0;
	pk = params_key(p, "stop");
	msgpack_pack_array(pk, n);
	for (i = 0; i < argc; i++)
		if ((s = setting_find(argv[i], &value)) && strcmp(s->key, "stop") == 0 && *value)
			frame_pack_str(pk, value);
	return 0;
}

static int params_settings(struct params *p, int argc, char **argv)
{
	const struct setting *s;
	bool stops = false;
	const char *value;
	int i, rc = 0;

	for (i = 0; i < argc && rc == 0; i++) {
		s = setting_find(argv[i], &value);
		if (!s)
			return usage_error("%s: KEY=VALUE with a KEY of temperature, top_k, top_p, min_p, "
			                   "repeat_penalty, seed, max_tokens, stop, share, model", argv[i]);
		if (strcmp(s->key, "stop") == 0)
			stops = true;
		else
			rc = params_typed(p, s->key, s->key, s->type, value);
	}
	return rc == 0 && stops ? params_stops(p, argc, argv) : rc;
}

int verb_set(struct client *c)
{
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", c->argv[0]);
	rc = params_settings(&p, c->argc - 1, c->argv + 1);
	if (rc == 0)
		rc = call_quiet(c, "session.set", &p);
	params_free(&p);
	return rc;
}

/* ---- ls ---- */

enum { N_COLUMN = 6, CELL = 160 };
static const char *const titles[N_COLUMN] = { "NAME", "STATE", "SEEN", "WINDOW", "QUEUED", "LAST USE" };

static void name_cell(char *cell, const msgpack_object *s)
{
	const msgpack_object_str *name = answer_str(s, "session");
	uint64_t uid = answer_uint(s, "owner");
	struct passwd *pw;
	int n = 0;

	if (!name)
		return;
	if (uid != getuid() && !memchr(name->ptr, ':', name->size)) {
		pw = getpwuid((uid_t)uid);
		/* The number is a name that the daemon takes, too. */
		n = pw ? snprintf(cell, CELL / 2, "%s:", pw->pw_name) :
		         snprintf(cell, CELL / 2, "%llu:", (unsigned long long)uid);
		n = n < CELL / 2 ? n : CELL / 2 - 1;
	}
	snprintf(cell + n, (size_t)(CELL - n), "%.*s", (int)name->size, name->ptr);
}

static void age_cell(char *cell, uint64_t used)
{
	static const struct { int64_t seconds; const char *unit; } units[] = {
		{ 86400, "day" }, { 3600, "hour" }, { 60, "minute" }, { 1, "second" },
	};
	int64_t age = (int64_t)time(NULL) - (int64_t)(used / 1000), n;
	size_t i;

	for (i = 0; i < 4; i++) {
		n = age / units[i].seconds;
		if (n > 0) {
			snprintf(cell, CELL, "%lld %s%s ago", (long long)n, units[i].unit, n == 1 ? "" : "s");
			return;
		}
	}
	snprintf(cell, CELL, "now");
}

static void row_cells(char cells[N_COLUMN][CELL], const msgpack_object *s)
{
	const msgpack_object_str *state = answer_str(s, "state");

	memset(cells, 0, sizeof(char[N_COLUMN][CELL]));
	name_cell(cells[0], s);
	snprintf(cells[1], CELL, "%.*s", state ? (int)state->size : 0, state ? state->ptr : "");
	snprintf(cells[2], CELL, "%llu", (unsigned long long)answer_uint(s, "position"));
	snprintf(cells[3], CELL, "%llu+%llu", (unsigned long long)answer_uint(s, "sinks"),
	         (unsigned long long)answer_uint(s, "window"));
	snprintf(cells[4], CELL, "%llu", (unsigned long long)answer_uint(s, "queued"));
	age_cell(cells[5], answer_uint(s, "used"));
}

static void row_print(char cells[N_COLUMN][CELL], const int width[N_COLUMN])
{
	int i;

	for (i = 0; i < N_COLUMN - 1; i++)
		printf("%-*s  ", width[i], cells[i]);
	printf("%s\n", cells[i]);
}

static void sessions_print(const msgpack_object_array *list)
{
	char head[N_COLUMN][CELL] = { "" }, cells[N_COLUMN][CELL];
	int width[N_COLUMN], i, n;
	uint32_t r;

	for (i = 0; i < N_COLUMN; i++) {
		snprintf(head[i], CELL, "%s", titles[i]);
		width[i] = (int)strlen(titles[i]);
	}
	for (r = 0; r < list->size; r++) {
		row_cells(cells, &list->ptr[r]);
		for (i = 0; i < N_COLUMN; i++) {
			n = (int)strlen(cells[i]);
			width[i] = n > width[i] ? n : width[i];
		}
	}
	row_print(head, width);
	for (r = 0; r < list->size; r++) {
		row_cells(cells, &list->ptr[r]);
		row_print(cells, width);
	}
}

int verb_ls(struct client *c)
{
	const msgpack_object *list;
	struct sink_answer a = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	rc = link_call(c, "session.list", &p, &a);
	list = rc == 0 ? frame_get(&a.result, "sessions") : NULL;
	if (rc == 0 && c->json)
		json_line(&a.result);
	else if (list && list->type == MSGPACK_OBJECT_ARRAY && list->via.array.size > 0)
		sessions_print(&list->via.array);
	else if (rc == 0)
		fprintf(stderr, "sink: no sessions yet; sink say NAME TEXT makes one\n");
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* ---- show ---- */

/* A text of the answer, its bytes where they are not UTF-8. */
static void part_print(const msgpack_object *result, const char *key, const char *bytes_key)
{
	const msgpack_object *bytes = frame_get(result, bytes_key);
	const msgpack_object_str *text = answer_str(result, key);

	if (bytes && bytes->type == MSGPACK_OBJECT_BIN)
		fwrite(bytes->via.bin.ptr, 1, bytes->via.bin.size, stdout);
	else if (text)
		fwrite(text->ptr, 1, text->size, stdout);
}

static void show_print(const msgpack_object *result)
{
	unsigned long long forgotten = answer_uint(result, "forgotten"), seen = answer_uint(result, "position");
	bool terminal = isatty(STDOUT_FILENO);         /* now: later it would hide why a write failed */

	part_print(result, "head", "head_bytes");
	if (forgotten && terminal)
		printf("\n[... %llu tokens forgotten ...]\n", forgotten);
	part_print(result, "window", "window_bytes");
	if (fflush(stdout) || ferror(stdout))
		return;                        /* main says it */
	fprintf(stderr, "%ssink: %llu tokens seen, %llu forgotten%s\n", terminal ? "\n" : "", seen,
	        forgotten, forgotten ? " between the head and the window" : "");
}

int verb_show(struct client *c)
{
	struct sink_answer a = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", c->argv[0]);
	rc = link_call(c, "session.show", &p, &a);
	if (rc == 0 && c->json)
		json_line(&a.result);
	else if (rc == 0)
		show_print(&a.result);
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* ---- info, stats ---- */

static void plain_print(const msgpack_object *o)
{
	if (o->type == MSGPACK_OBJECT_STR)
		printf("%.*s\n", (int)o->via.str.size, o->via.str.ptr);
	else if (o->type == MSGPACK_OBJECT_NIL)
		puts("-");
	else
		json_line(o);
}

static void map_lines(const msgpack_object *map, int indent)
{
	const msgpack_object_kv *kv;
	uint32_t i;

	for (i = 0; map->type == MSGPACK_OBJECT_MAP && i < map->via.map.size; i++) {
		kv = &map->via.map.ptr[i];
		printf("%*s%-*.*s", indent, "", 18 - indent, (int)kv->key.via.str.size, kv->key.via.str.ptr);
		if (kv->val.type == MSGPACK_OBJECT_MAP) {
			putchar('\n');
			map_lines(&kv->val, indent + 2);
		} else {
			putchar(' ');
			plain_print(&kv->val);
		}
	}
}

int verb_info(struct client *c)
{
	struct sink_answer a = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	if (c->argc > 0)
		params_str(&p, "session", c->argv[0]);
	rc = link_call(c, c->argc > 0 ? "session.info" : "server.info", &p, &a);
	if (rc == 0 && c->json)
		json_line(&a.result);
	else if (rc == 0)
		map_lines(&a.result, 0);
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}

/* Those that can go down. */
static bool is_gauge(const char *key, size_t n)
{
	static const char *const gauges[] = { "sessions", "resident_sessions", "busy_sessions",
	                                      "connections", "queued", "swap_bytes", "uptime_ms" };
	size_t i;

	for (i = 0; i < sizeof gauges / sizeof gauges[0]; i++)
		if (strlen(gauges[i]) == n && memcmp(gauges[i], key, n) == 0)
			return true;
	return false;
}

static void prometheus_print(const msgpack_object *map)
{
	const msgpack_object_kv *kv;
	const char *total;
	uint32_t i;
	int n;

	for (i = 0; map->type == MSGPACK_OBJECT_MAP && i < map->via.map.size; i++) {
		kv = &map->via.map.ptr[i];
		if (kv->val.type != MSGPACK_OBJECT_POSITIVE_INTEGER)
			continue;
		n = (int)kv->key.via.str.size;
		total = is_gauge(kv->key.via.str.ptr, kv->key.via.str.size) ? "" : "_total";
		printf("# TYPE sinkd_%.*s%s %s\n", n, kv->key.via.str.ptr, total, *total ? "counter" : "gauge");
		printf("sinkd_%.*s%s %llu\n", n, kv->key.via.str.ptr, total, (unsigned long long)kv->val.via.u64);
	}
}

int verb_stats(struct client *c)
{
	struct sink_answer a = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	rc = link_call(c, "server.stats", &p, &a);
	if (rc == 0 && c->json)
		json_line(&a.result);
	else if (rc == 0 && option_given(c, "--prometheus"))
		prometheus_print(&a.result);
	else if (rc == 0)
		map_lines(&a.result, 0);
	sink_answer_free(&a);
	params_free(&p);
	return rc;
}
