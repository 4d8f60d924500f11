/*
 * The loop, and the life of the daemon as serve sees it: loading, ready,
 * stopping.  A stop goes in steps, each begun when the one before has ended:
 * no new connections and no new requests; the engine stops, which answers
 * everything it has; peers take what is left for them, for a few seconds at
 * most; the loop ends.
 *
 * Everything that runs here runs between two turns of the loop and returns at
 * once.
 */
#include "daemon/serve/serve.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/serve/follow.h"
#include "daemon/serve/inside.h"
#include "daemon/serve/listen.h"
#include "daemon/serve/method.h"
#include "daemon/serve/peer.h"
#include "daemon/serve/watchdog.h"

/* ---- stopping ---- */

#define LINGER_SECONDS 1

static void end_loop_when_done(struct serve *s)
{
	if (s->engine_stopped && s->n_peer == 0)
		event_base_loopbreak(s->base);
}

static void on_sweep(evutil_socket_t fd, short what, void *ctx)
{
	struct serve *s = ctx;

	(void)fd;
	(void)what;
	peer_sweep(s);
	end_loop_when_done(s);
}

static void on_stop_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct serve *s = ctx;

	(void)fd;
	(void)what;
	log_notice("%zu clients did not take their answers in time", s->n_peer);
	event_base_loopbreak(s->base);
}

/* The engine is gone; what peers have not taken yet is all there is to do. */
static void flush(struct serve *s)
{
	struct timeval t = { .tv_sec = STOP_FLUSH_SECONDS };
	struct peer *p, *next;

	for (p = LIST_FIRST(&s->peers); p; p = next) {
		next = LIST_NEXT(p, link);
		peer_finish(p);
	}
	event_add(s->stop_timer, &t);
	event_active(s->sweep, EV_TIMEOUT, 0);
}

static void stop(struct serve *s, const char *status)
{
	if (s->stopping)
		return;
	follow_stop(s);
	s->stopping = true;
	watchdog_stopping(s, status);
	listen_close(s);
	if (s->engine)
		engine_stop(s->engine);
	else {
		s->engine_stopped = true;
		flush(s);
	}
}

static void on_stop_signal(evutil_socket_t number, short what, void *ctx)
{
	struct serve *s = ctx;

	(void)what;
	if (s->stopping)
		return;
	log_info("stopping: %s", strsignal(number));
	stop(s, "stopping");
}

static void on_reload(evutil_socket_t number, short what, void *ctx)
{
	struct serve *s = ctx;

	(void)number;
	(void)what;
	if (s->stopping || !s->params.reload)
		return;
	watchdog_reload(s, true);
	s->params.reload(s->params.ctx);
	watchdog_reload(s, false);
}

/* ---- letters of the engine ---- */

/* The engine is there, and what hello says of it is known. */
static void ready(struct serve *s, struct request *info)
{
	if (s->state != SERVE_LOADING || s->stopping)
		return;
	s->info = info->result;
	info->result = NULL;
	s->state = SERVE_READY;
	log_info("ready: %s; listening on %s", s->text, listen_where(s));
	watchdog_ready(s);
}

static void ask_info(struct serve *s)
{
	struct request *r = request_new(VERB_SERVER_INFO);

	if (!r)
		abort();
	r->peer = SERVE_PEER;
	engine_post(s->engine, r);
}

static void own_answer(struct serve *s, struct request *r)
{
	if (r->verb == VERB_PING)
		watchdog_pong(s);
	else if (r->rc == 0 && r->result->kind != VALUE_LOST)
		ready(s, r);
	else if (r->rc == 0 && engine_takes(s))
		ask_info(s);           /* there was no memory for it */
}

void serve_on_answer(void *serve, struct letter *l)
{
	struct request *r = (struct request *)l;
	struct call *c = (struct call *)(uintptr_t)r->tag;
	struct serve *s = serve;
	struct peer *p;

	if (!c) {
		own_answer(s, r);
		request_free(r);
		return;
	}
	if (r->verb == VERB_RENAME && r->rc == 0)
		follow_renamed(s, r->session, r->new_name);
	p = c->peer;
	if (p && !c->dropped && c->watch)
		follow_answer(c, r);
	else if (p && !c->dropped)
		method_answer(c, r);
	peer_call_end(s, c);
	request_free(r);
	if (p)
		peer_update(p);
}

void serve_on_published(void *serve, struct letter *l)
{
	struct published *p = (struct published *)l;

	follow_published(serve, p);
	published_free(p);
}

static void on_linger_end(evutil_socket_t fd, short what, void *ctx)
{
	struct serve *s = ctx;

	(void)fd;
	(void)what;
	stop(s, s->failed.text);
}

/* Clients that are there, or that a service manager started us for, hear why
 * before the daemon ends. */
static void failed(struct serve *s, const struct reason *why)
{
	struct timeval t = { .tv_sec = LINGER_SECONDS };

	if (s->stopping)
		return;
	s->state = SERVE_FAILED;
	s->failed = *why;
	if (s->n_peer == 0 && s->own_socket)
		t.tv_sec = 0;
	if (event_base_once(s->base, -1, EV_TIMEOUT, on_linger_end, s, &t) < 0)
		stop(s, why->text);
}

int serve_slab(struct serve *s)
{
	int fd = s->slab_fd;

	s->slab_fd = 0;
	return fd;
}

void serve_on_status(void *serve, struct letter *l)
{
	struct engine_status *e = (struct engine_status *)l;
	struct serve *s = serve;

	s->phase = e->state;
	s->progress = e->progress;
	memcpy(s->text, e->text, sizeof s->text);
	switch (e->state) {
	case ENGINE_LOADING:
		watchdog_loading(s);
		break;
	case ENGINE_READY:
		if (e->slab_fd >= 0)
			watchdog_keep(s, e->slab_fd);
		if (e->slab_gone)
			watchdog_forget(s);
		if (s->state == SERVE_READY)
			watchdog_again(s);
		else if (engine_takes(s))
			ask_info(s);
		break;
	case ENGINE_UNLOADING:
		break;
	case ENGINE_UNLOADED:
		watchdog_unloaded(s);
		break;
	case ENGINE_FAILED:
		failed(s, &e->why);
		break;
	case ENGINE_STOPPED:
		engine_join(s->engine);
		s->engine = NULL;
		s->engine_stopped = true;
		flush(s);
		break;
	}
	free(e);
}

static void on_mail(evutil_socket_t fd, short what, void *ctx)
{
	struct serve *s = ctx;
	struct letter *l = mailbox_take(s->mail), *next;

	(void)fd;
	(void)what;
	for (; l; l = next) {
		next = l->next;
		l->open(s, l);
	}
}

/* ---- open, run, close ---- */

static int add_signal(struct serve *s, size_t i, int number, event_callback_fn call)
{
	s->signals[i] = evsignal_new(s->base, number, call, s);
	return s->signals[i] && event_add(s->signals[i], NULL) == 0 ? 0 : ERROR(-ENOMEM);
}

static int open_events(struct serve *s)
{
	int rc;

	s->base = event_base_new();
	if (!s->base)
		return ERROR(-ENOMEM);
	rc = mailbox_open(&s->mail);
	if (rc)
		return ERROR(rc);
	s->half_closed = epoll_create1(EPOLL_CLOEXEC);
	if (s->half_closed < 0)
		return ERROR(-errno);
	s->gone = event_new(s->base, s->half_closed, EV_READ | EV_PERSIST, peer_on_gone, NULL);
	s->mail_event = event_new(s->base, mailbox_fd(s->mail), EV_READ | EV_PERSIST, on_mail, s);
	s->sweep = evtimer_new(s->base, on_sweep, s);
	s->stop_timer = evtimer_new(s->base, on_stop_timer, s);
	if (!s->gone || !s->mail_event || !s->sweep || !s->stop_timer || event_add(s->gone, NULL) < 0 ||
	    event_add(s->mail_event, NULL) < 0)
		return ERROR(-ENOMEM);
	if ((rc = add_signal(s, 0, SIGTERM, on_stop_signal)) || (rc = add_signal(s, 1, SIGINT, on_stop_signal)) ||
	    (rc = add_signal(s, 2, SIGHUP, on_reload)))
		return rc;
	return 0;
}

int serve_open(struct serve **out, const struct serve_params *params, struct reason *why)
{
	struct serve *s = calloc(1, sizeof *s);
	int rc;

	if (!s)
		return ERROR(-ENOMEM);
	s->params = *params;
	s->n_number = SERVE_PEER;
	s->half_closed = -1;
	msgpack_sbuffer_init(&s->scratch);
	if (params->socket && !(s->socket = strdup(params->socket))) {
		rc = ERROR(-ENOMEM);
		goto out;
	}
	rc = open_events(s);
	if (rc)
		goto out;
	rc = listen_open(s, why);
out:
	if (rc)
		serve_close(s);
	else
		*out = s;
	return rc;
}

struct mailbox *serve_mailbox(struct serve *s)
{
	return s->mail;
}

int serve_run(struct serve *s, struct engine *engine, struct reason *why)
{
	s->engine = engine;
	if (!engine)
		failed(s, why);
	else if (!s->stopping)
		watchdog_loading(s);
	event_base_dispatch(s->base);
	if (s->state != SERVE_FAILED)
		return 0;
	*why = s->failed;
	return REFUSED;
}

static void close_events(struct serve *s)
{
	struct event *events[] = { s->mail_event, s->sweep, s->stop_timer, s->watchdog, s->gone,
	                           s->signals[0], s->signals[1], s->signals[2] };
	size_t i;

	for (i = 0; i < sizeof events / sizeof events[0]; i++)
		if (events[i])
			event_free(events[i]);
	if (s->base)
		event_base_free(s->base);
	if (s->half_closed >= 0)
		close(s->half_closed);
}

void serve_close(struct serve *s)
{
	struct peer *p;

	if (!s)
		return;
	listen_close(s);
	while ((p = LIST_FIRST(&s->peers)))
		peer_end(p);
	peer_sweep(s);
	close_events(s);
	mailbox_close(s->mail);        /* after the event that watches it */
	value_free(s->info);
	msgpack_sbuffer_destroy(&s->scratch);
	free(s->socket);
	free(s);
}
