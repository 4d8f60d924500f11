/*
 * Methods.  A request of the wire is looked up, its parameters checked and put
 * into a struct request by the tables of proto and params.c; what is left of a
 * method is a row here: the engine's verb, and a function where serve itself
 * has something to do.
 *
 * Handlers see checked values only, and never block.
 */
#include "daemon/serve/method.h"

#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "daemon/base/log.h"
#include "daemon/serve/answer.h"
#include "daemon/serve/follow.h"
#include "daemon/serve/params.h"
#include "daemon/serve/peer.h"

struct method {
	const char *name;
	enum verb verb;
	/* Takes r over.  n: bytes of the message. */
	void (*call)(struct peer *p, uint32_t id, const struct method *m, struct args *a, struct request *r, size_t n);
	/* Completes the engine's answer; NULL: as it is. */
	void (*complete)(struct serve *s, struct value *result);
	bool early;                /* answered by serve itself unless the engine is ready */
	bool changes;              /* what it answers has been done */
};

/* ---- to the engine ---- */

static void post(struct peer *p, uint32_t id, const struct method *m, struct args *a, struct request *r, size_t n)
{
	struct call *c = peer_call(p->serve, p, id, n);

	if (!c) {
		answer_error(p, id, "memory", "no memory for the request");
		request_free(r);
		return;
	}
	c->method = m;
	memcpy(c->prefix, a->prefix, sizeof c->prefix);
	peer_post(p->serve, c, r);
}

static void append(struct peer *p, uint32_t id, const struct method *m, struct args *a, struct request *r, size_t n)
{
	if (!(r->given & GIVEN_TEXT) == !(r->given & GIVEN_TOKENS)) {
		answer_error(p, id, "bad_param", "session.append needs either text or tokens");
		request_free(r);
		return;
	}
	post(p, id, m, a, r, n);
}

static void read_log(struct peer *p, uint32_t id, const struct method *m, struct args *a, struct request *r, size_t n)
{
	if (!r->limit)
		r->limit = LIMIT_MAX;
	if (r->from == 0)
		r->from = 1;
	if (a->wait_ms > 0)
		follow_wait(p, id, a, r);
	else
		post(p, id, m, a, r, n);
}

static void follow(struct peer *p, uint32_t id, const struct method *m, struct args *a, struct request *r, size_t n)
{
	(void)m;
	(void)n;
	r->limit = LIMIT_MAX;
	follow_begin(p, id, a, r);
}

static void unfollow(struct peer *p, uint32_t id, const struct method *m, struct args *a, struct request *r, size_t n)
{
	(void)m;
	(void)a;
	(void)n;
	follow_end(p, id, r);
	request_free(r);
}

/* ---- serve's own ---- */

static const char *state(const struct serve *s)
{
	static const char *const states[] = { "loading", "ready", "failed" };
	/* Of one that has been ready once. */
	static const char *const phases[] = { [ENGINE_LOADING] = "loading", [ENGINE_READY] = "ready",
	                                      [ENGINE_UNLOADING] = "unloading", [ENGINE_UNLOADED] = "unloaded" };

	if (s->stopping)
		return "stopping";
	return s->state == SERVE_READY ? phases[s->phase] : states[s->state];
}

static struct value *copy(const struct value *v)
{
	struct value *to;
	size_t i;

	switch (v->kind) {
	case VALUE_STR:
		return value_strn(v->s.data, v->s.n);
	case VALUE_LIST:
		to = value_list();
		for (i = 0; i < v->l.n; i++)
			value_push(to, copy(v->l.items[i]));
		return to;
	default:
		return value_nil();
	}
}

/* A str or list of strs of the engine's info, which holds while the model is there; a map is named by its "name". */
static struct value *from_info(const struct serve *s, const char *key, struct value *otherwise)
{
	bool there = s->info && (s->phase == ENGINE_READY || s->phase == ENGINE_UNLOADING);
	const struct value *v = there ? value_get(s->info, key) : NULL;

	if (v && v->kind == VALUE_MAP)
		v = value_get(v, "name");
	if (!v)
		return otherwise;
	value_free(otherwise);
	return copy(v);
}

static void hello(struct peer *p, uint32_t id, const struct method *m, struct args *a, struct request *r, size_t n)
{
	struct serve *s = p->serve;
	struct value *v = value_map();

	(void)m;
	(void)n;
	if (a->given & PARAM(ERRORS))
		p->error_map = a->error_map;
	log_debug("peer %llu is %s, protocol %llu", (unsigned long long)p->number,
	          a->client[0] ? a->client : "unnamed", (unsigned long long)a->protocol);
	value_put(v, "protocol", value_uint(PROTO_VERSION));
	value_put(v, "server", value_str("sinkd " PACKAGE_VERSION));
	value_put(v, "model", from_info(s, "model", value_nil()));
	value_put(v, "backend", from_info(s, "backend", value_nil()));
	value_put(v, "features", from_info(s, "features", value_list()));
	value_put(v, "state", value_str(state(s)));
	answer_result(p, id, v);
	value_free(v);
	request_free(r);
}

static void put_missing(struct value *map, const char *key, struct value *v)
{
	if (value_get(map, key))
		value_free(v);
	else
		value_put(map, key, v);
}

static void complete_limits(struct serve *s, struct value *result)
{
	struct value *limits = (struct value *)value_get(result, "limits");

	if (!limits || limits->kind != VALUE_MAP)
		limits = value_put(result, "limits", value_map());
	put_missing(limits, "message_max", value_uint(PROTO_MESSAGE_MAX));
	put_missing(limits, "name_max", value_uint(SESSION_NAME_MAX));
	put_missing(limits, "key_max", value_uint(KEY_MAX));
	put_missing(limits, "connections", value_uint(s->params.n_connection));
	put_missing(limits, "sessions", value_uint(s->params.caps.sessions));
	put_missing(limits, "queued_bytes", value_uint(s->params.caps.queued_bytes));
	put_missing(limits, "stored_bytes", value_uint(s->params.caps.stored_bytes));
}

static void complete_info(struct serve *s, struct value *result)
{
	put_missing(result, "server", value_str("sinkd " PACKAGE_VERSION));
	put_missing(result, "protocol", value_uint(PROTO_VERSION));
	put_missing(result, "state", value_str(state(s)));
	put_missing(result, "progress", value_real(s->progress));
	if (s->state == SERVE_FAILED)
		put_missing(result, "why", value_str(s->failed.text));
	put_missing(result, "model", value_nil());
	put_missing(result, "backend", value_nil());
	put_missing(result, "features", value_list());
	complete_limits(s, result);
}

static void complete_stats(struct serve *s, struct value *result)
{
	put_missing(result, "connections", value_uint(s->n_peer));
}

/* ---- the table ---- */

static const struct method methods[] = {
	{ .name = "hello", .call = hello, .early = true },
	{ .name = "session.create", .verb = VERB_CREATE, .call = post, .changes = true },
	{ .name = "session.list", .verb = VERB_LIST, .call = post },
	{ .name = "session.info", .verb = VERB_INFO, .call = post },
	{ .name = "session.set", .verb = VERB_SET, .call = post, .changes = true },
	{ .name = "session.rename", .verb = VERB_RENAME, .call = post, .changes = true },
	{ .name = "session.delete", .verb = VERB_DELETE, .call = post, .changes = true },
	{ .name = "session.append", .verb = VERB_APPEND, .call = append, .changes = true },
	{ .name = "session.generate", .verb = VERB_GENERATE, .call = post, .changes = true },
	{ .name = "session.say", .verb = VERB_SAY, .call = post, .changes = true },
	{ .name = "session.cancel", .verb = VERB_CANCEL, .call = post, .changes = true },
	{ .name = "session.read", .verb = VERB_READ, .call = read_log },
	{ .name = "session.follow", .verb = VERB_READ, .call = follow },
	{ .name = "session.unfollow", .verb = VERB_READ, .call = unfollow },
	{ .name = "session.show", .verb = VERB_SHOW, .call = post },
	{ .name = "score", .verb = VERB_SCORE, .call = post },
	{ .name = "model.tokenize", .verb = VERB_TOKENIZE, .call = post },
	{ .name = "model.detokenize", .verb = VERB_DETOKENIZE, .call = post },
	{ .name = "server.info", .verb = VERB_SERVER_INFO, .call = post, .complete = complete_info, .early = true },
	{ .name = "server.stats", .verb = VERB_SERVER_STATS, .call = post, .complete = complete_stats },
};

static const struct method *find_method(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof methods / sizeof methods[0]; i++)
		if (strcmp(methods[i].name, name) == 0)
			return &methods[i];
	return NULL;
}

/* Without an engine that is ready: what serve knows. */
static void answer_early(struct peer *p, uint32_t id, const struct method *m)
{
	struct value *v = value_map();

	m->complete(p->serve, v);
	answer_result(p, id, v);
	value_free(v);
}

static void call_known(struct peer *p, const struct frame *f, const struct proto_method *pm,
                       const struct method *m, size_t n_byte)
{
	struct serve *s = p->serve;
	struct args a = { .request = peer_request(p, m->verb) };
	struct reason why = { 0 };
	int rc = a.request ? params_read(&a, pm, &f->params, &why) :
	                     refuse(&why, "memory", "no memory for the request");

	if (rc) {
		answer_reason(p, f->id, rc, &why);
	} else if (m->early && m->complete && (s->state != SERVE_READY || s->stopping)) {
		answer_early(p, f->id, m);
	} else if (!m->early && s->stopping) {
		answer_error(p, f->id, "stopping", "the daemon is stopping");
	} else if (!m->early && (s->state == SERVE_FAILED || !s->engine)) {
		answer_reason(p, f->id, REFUSED, &s->failed);
	} else {
		m->call(p, f->id, m, &a, a.request, n_byte);
		return;
	}
	request_free(a.request);
}

void method_call(struct peer *p, const struct frame *f, size_t n_byte)
{
	const struct proto_method *pm = proto_method_find(f->method, f->n_method);
	const struct method *m = pm ? find_method(pm->name) : NULL;
	struct reason why = { 0 };
	char name[40];

	printable(name, sizeof name, f->method, f->n_method);
	if (!pm)
		answer_reason(p, f->id, refuse(&why, "no_method", "no method %s", name), &why);
	else if (!pm->finished || !m)
		answer_reason(p, f->id, refuse(&why, "not_finished", "this version does not have %s yet", name), &why);
	else
		call_known(p, f, pm, m, n_byte);
}

void method_answer(struct call *c, struct request *r)
{
	struct peer *p = c->peer;

	if (r->rc != 0) {
		answer_reason(p, c->id, r->rc, &r->why);
		return;
	}
	if (r->verb == VERB_READ && r->result)
		answer_rename((struct value *)value_get(r->result, "events"), c->prefix);
	if (c->method->complete && r->result)
		c->method->complete(p->serve, r->result);
	if (c->method->changes)
		answer_done(p, c->id, r->result);
	else
		answer_result(p, c->id, r->result);
}
