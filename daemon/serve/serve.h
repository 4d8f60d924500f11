/*
 * serve: sockets, peers, requests, systemd.  One thread with an event loop; it
 * never blocks, computes or touches the disk.  What clients ask is decoded,
 * checked and posted to the engine as a struct request; answers and events come
 * back as letters in serve's mailbox.
 *
 *   serve_open      listens (inherited sockets first), clients may connect
 *   serve_mailbox, serve_on_*    for struct engine_params
 *   serve_run       until SIGTERM or SIGINT, or the engine fails
 */
#ifndef DAEMON_SERVE_SERVE_H
#define DAEMON_SERVE_SERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/error.h"
#include "daemon/base/mailbox.h"
#include "daemon/session/engine.h"

struct serve;

struct serve_params {
	const char *socket;        /* path of our own socket; unused when one is inherited */
	bool system;               /* 0660 root:sinkd where the group exists, else 0600 */
	uint32_t n_connection;     /* of one uid */
	uint64_t n_output;         /* bytes that a connection may leave unread */
	struct engine_caps caps;   /* the engine's; to be told, also before there is one */
	void (*reload)(void *ctx); /* SIGHUP, in serve's thread; may be NULL */
	void *ctx;
};

/* REFUSED: state_in_use (another daemon listens there), bad_config (the path). */
int serve_open(struct serve **out, const struct serve_params *p, struct reason *why);
struct mailbox *serve_mailbox(struct serve *s);
/* The slab that a service manager kept for us (engine_params.slab_fd), given away; 0: none. */
int serve_slab(struct serve *s);
/* For struct engine_params; their first parameter is the struct serve. */
void serve_on_answer(void *serve, struct letter *request);
void serve_on_published(void *serve, struct letter *published);
void serve_on_status(void *serve, struct letter *status);

/* For struct store_params: the service manager is told, and given the time that it may take. */
void serve_checking(uint64_t n_byte);

/* Serves until told to stop, then: no new connections, every request answered,
 * the engine stopped and joined, output flushed.  0: stopped as told; REFUSED:
 * the engine failed, why says how.  engine NULL: could not be started, why is
 * told to the clients that wait. */
int serve_run(struct serve *s, struct engine *engine, struct reason *why);
void serve_close(struct serve *s);             /* NULL is fine */

#endif
