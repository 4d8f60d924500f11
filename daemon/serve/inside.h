/*
 * What the files of this room share: the objects, and who owns them.
 *
 *   serve   one; owns everything
 *   user    a uid with connections: what it uses in all
 *   peer    a connection
 *   call    a request of a peer on its way through the engine; outlives the peer
 *   watch   a peer's interest in a session: a follow, or a read that waits
 *
 * Nothing is freed under a caller's feet: peer_end only marks a peer and takes it
 * off the loop; peer_sweep frees it when the loop is between two events.
 */
#ifndef DAEMON_SERVE_INSIDE_H
#define DAEMON_SERVE_INSIDE_H

#include <event2/buffer.h>
#include <event2/event.h>
#include <msgpack.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "daemon/base/value.h"
#include "daemon/serve/serve.h"
#include "daemon/session/engine.h"
#include "proto/frame.h"
#include "proto/methods.h"
#include "proto/scan.h"

/* A peer is not read from while it has this many requests (those that wait among
 * them), or bytes of requests, under way, or this many bytes of answers unread. */
#define PEER_CALLS 256
#define PEER_CALL_BYTES (4u << 20)
#define PEER_FOLLOWS 256           /* sessions that one connection may follow */
#define PEER_HIGH_WATER (256u << 10)
/* What one uid may make us hold, over all of its connections. */
#define USER_BYTES (256ull << 20)
#define STOP_FLUSH_SECONDS 3       /* for clients to take their answers at the end */
#define N_LISTENER 8
#define N_BUCKET 64
#define SERVE_PEER 1               /* number of the peer that serve itself is */

struct user {
	LIST_ENTRY(user) link;
	uid_t uid;
	uint32_t n_peer;
	uint64_t n_byte;           /* requests under way, input and output held */
};

struct call {
	LIST_ENTRY(call) link;     /* of its peer, while that lives */
	struct peer *peer;         /* NULL: has left; or a call of serve's own */
	uint32_t id;               /* of the message */
	const struct method *method;
	size_t n_byte;             /* charged to the peer */
	char prefix[64];           /* READ: "USER:" as the client spelled it, or empty */
	struct watch *watch;       /* READ for a watch; NULL: a plain call */
	bool dropped;              /* nobody wants the answer any more */
};

enum watch_state {
	WATCH_ASKING,              /* the engine is asked for a page, or for the end of the log */
	WATCH_FULL,                /* follow: more to ask when the peer has read */
	WATCH_PAUSED,              /* an entry that is known of is not on disk: asked again in a while */
	WATCH_LIVE,                /* caught up: a published event goes straight out, or ends the wait */
};

struct watch {
	LIST_ENTRY(watch) by_session, by_peer;
	struct peer *peer;
	enum watch_state state;
	bool follow;               /* else a read that waits */
	bool answered;             /* follow: its request */
	bool timeout;              /* read: the next page is the answer, whatever it holds */
	uint32_t id;               /* of its request */
	bool again;                /* follow: of a session that this peer follows already; not counted */
	uint64_t session;          /* id; 0: not known yet, and not linked by_session */
	uint64_t cursor;           /* next seq wanted */
	uint64_t newest;           /* highest seq known of */
	bool news;                 /* one was since a page was asked last */
	uint64_t limit;
	uint64_t wait_ms;          /* read */
	uid_t owner;
	char name[SESSION_NAME_MAX + 1];
	char prefix[64];           /* "USER:" as the client spelled it, or empty */
	struct event *timer;       /* read: its time is up; NULL until it waits */
	struct event *pause;       /* PAUSED: it is over; NULL until there was one */
	long pause_ms;             /* the last one */
	struct call *call;         /* while ASKING */
};

struct peer {
	LIST_ENTRY(peer) link;
	struct serve *serve;
	uint64_t number;           /* never 0, never used again */
	int fd;
	pid_t pid;
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	size_t n_group;
	struct user *user;
	struct event *readable, *writable;
	struct evbuffer *in, *out;
	struct scan scan;          /* stands n_scanned bytes into in */
	size_t n_scanned;
	LIST_HEAD(, call) calls;
	size_t n_call, n_call_byte;
	LIST_HEAD(, watch) watches;
	size_t n_wait, n_follow;   /* of them */
	uint64_t charged;          /* part of user->n_byte */
	bool error_map;            /* hello {errors: "map"} */
	bool posted;               /* the engine knows it */
	struct request *leaving;   /* PEER_GONE, made beforehand: it must be told */
	bool surplus;              /* over the user's cap: its first request is refused */
	bool eof;                  /* has sent its last byte */
	bool closing;              /* ends when out is empty */
	bool broken;               /* ends at the next turn of the loop */
	bool ended;
};

/* What the service manager calls the memory that it keeps. */
#define SLAB_NAME "sinkd-slab"

struct serve {
	struct serve_params params;
	char *socket;
	struct event_base *base;
	struct mailbox *mail;
	struct engine *engine;
	struct event *mail_event, *sweep, *signals[3], *accept_pause, *watchdog, *stop_timer, *gone;
	int half_closed;           /* an epoll of peers that send no more: asked for nothing, it tells of their
	                              end.  libevent has no event for that */
	struct { int fd; struct event *event; } listeners[N_LISTENER];
	size_t n_listener;
	bool own_socket;
	int slab_fd;               /* kept for us, not given away yet; 0: none */
	dev_t socket_dev;
	ino_t socket_ino;
	LIST_HEAD(, peer) peers, ended;
	LIST_HEAD(, user) users;
	LIST_HEAD(, watch) watches[N_BUCKET];
	uint64_t n_number;
	size_t n_peer, n_call;     /* calls under way, of peers that have left too */
	enum { SERVE_LOADING, SERVE_READY, SERVE_FAILED } state;
	double progress;
	char text[200];            /* of the engine's status */
	struct reason failed;
	struct value *info;        /* the engine's answer to server.info, once ready */
	int phase;                 /* what it last told of itself, enum in struct engine_status */
	bool stopping, engine_stopped;
	uint64_t told;             /* ms: when the manager last heard of loading */
	bool pinged;
	msgpack_sbuffer scratch;   /* messages are packed here */
	bool unpacked;             /* no memory for the one that is */
};

#endif
