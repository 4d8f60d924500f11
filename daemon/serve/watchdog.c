/*
 * The service manager: READY only when everything listens and the engine is
 * ready, STATUS, more time while loading, and the watchdog.
 *
 * WATCHDOG=1 says that the whole daemon lives: a timer at half the interval
 * posts a ping to the engine, and only its answer, which comes between two
 * steps, is passed on.  There is no timer without a watchdog, and no other
 * wake-up when idle.
 */
#include "daemon/serve/watchdog.h"

#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "daemon/base/clock.h"
#include "daemon/base/log.h"

#define EXTEND_SECONDS 60
#define LOADING_MS 500
#define CHECK_RATE 100000              /* bytes a second of a database that is read: a slow card, page by page */

/* At most a few times a second: sending may wait for a manager that is busy. */
void watchdog_loading(struct serve *s)
{
	uint64_t now = (uint64_t)clock_steady_ms();

	if (now - s->told < LOADING_MS)
		return;
	s->told = now;
	sd_notifyf(0, "STATUS=loading: %.0f %% %s\nEXTEND_TIMEOUT_USEC=%u000000", 100 * s->progress, s->text,
	           EXTEND_SECONDS);
}

/* Before there is a loop: one message for all of it.  SQLite does not come back to us while it reads. */
void serve_checking(uint64_t n_byte)
{
	sd_notifyf(0, "STATUS=checking the database, %.1f MB: it was not closed, or is not as it was then\n"
	           "EXTEND_TIMEOUT_USEC=%llu000000", (double)n_byte / 1e6,
	           (unsigned long long)(EXTEND_SECONDS + n_byte / CHECK_RATE));
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct serve *s = ctx;
	struct request *r;

	(void)fd;
	(void)what;
	if (!s->engine || s->stopping) {
		sd_notify(0, "WATCHDOG=1");    /* how long a stop may take is another limit */
		return;
	}
	if (s->pinged)
		return;
	r = request_new(VERB_PING);
	if (!r)
		return;                /* the next one will ask */
	r->peer = SERVE_PEER;
	s->pinged = true;
	engine_post(s->engine, r);
}

void watchdog_pong(struct serve *s)
{
	s->pinged = false;
	sd_notify(0, "WATCHDOG=1");
}

static void start_timer(struct serve *s)
{
	struct timeval t;
	uint64_t usec;

	if (sd_watchdog_enabled(0, &usec) <= 0 || usec == 0)
		return;
	usec /= 2;
	t = (struct timeval){ .tv_sec = (time_t)(usec / 1000000), .tv_usec = (long)(usec % 1000000) };
	s->watchdog = event_new(s->base, -1, EV_PERSIST, on_timer, s);
	if (!s->watchdog || event_add(s->watchdog, &t) < 0)
		log_error("the watchdog has no timer: the service manager will end this daemon");
}

void watchdog_ready(struct serve *s)
{
	sd_notifyf(0, "READY=1\nSTATUS=%s", s->text);
	start_timer(s);
}

void watchdog_forget(struct serve *s)
{
	(void)s;
	sd_notify(0, "FDSTOREREMOVE=1\nFDNAME=" SLAB_NAME);
}

/* What it kept before is not of use to anybody any more. */
void watchdog_keep(struct serve *s, int fd)
{
	watchdog_forget(s);
	sd_pid_notify_with_fds(0, 0, "FDSTORE=1\nFDNAME=" SLAB_NAME, &fd, 1);
}

void watchdog_again(struct serve *s)
{
	sd_notifyf(0, "STATUS=%s", s->text);
}

void watchdog_unloaded(struct serve *s)
{
	sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=" SLAB_NAME "\nSTATUS=%s", s->text);
}

void watchdog_stopping(struct serve *s, const char *status)
{
	(void)s;
	sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status);
}

void watchdog_reload(struct serve *s, bool begin)
{
	if (begin)
		sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu000", (unsigned long long)clock_steady_ms());
	else if (s->state == SERVE_READY)
		sd_notifyf(0, "READY=1\nSTATUS=%s", s->text);
}
