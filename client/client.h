/*
 * What the files of the client share.  A verb is a row (main.c) and a function;
 * its options are a table that feeds parsing, `sink help VERB` and the check of
 * the manual page.
 *
 * Functions that return int return an exit code: 0, or one of these, with the
 * reason already on standard error.
 */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/libsink.h"

enum { EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_NO_DAEMON = 3, EXIT_INTERRUPTED = 130 };

#define PATIENCE_MS 60000      /* how long a daemon that went away is waited for */
#define SOON_MS 5000           /* and one that has not been there yet */
#define CANCEL_MS 5000         /* how long a cancel, and a cancelled answer's end, are waited for */

/* ---- options ---- */

enum option_type { OPTION_FLAG, OPTION_UINT, OPTION_REAL, OPTION_TEXT };

struct option {
	const char *name;          /* "--sinks" or "-n"; NULL: end of the table */
	const char *arg;           /* "N"; NULL: takes none */
	const char *key;           /* parameter that it becomes; NULL: the client's own */
	enum option_type type;
	const char *help;
};
/* As rows, in verbs that take them. */
#define OPTIONS_SAMPLING \
	{ "--temperature", "X", "temperature", OPTION_REAL, "0: always the likeliest token" }, \
	{ "--top-k", "N", "top_k", OPTION_UINT, "of the N likeliest tokens; 0: off" }, \
	{ "--top-p", "X", "top_p", OPTION_REAL, "of the likeliest with probability X together; 1: off" }, \
	{ "--min-p", "X", "min_p", OPTION_REAL, "at least X times the likeliest one's probability; 0: off" }, \
	{ "--repeat-penalty", "X", "repeat_penalty", OPTION_REAL, "against recent tokens; 1: off" }, \
	{ "--seed", "N", "seed", OPTION_UINT, "of the sampler" }, \
	{ "--stop", "TEXT", "stop", OPTION_TEXT, "end an answer before TEXT; may be repeated" }

#define GIVEN_MAX 32
struct given { const struct option *row; const char *value; };

struct client;

struct verb {
	const char *name, *args, *help;
	const struct option *options;      /* NULL: none */
	int (*run)(struct client *c);      /* NULL: not in this version */
	int n_least, n_most;               /* arguments; -1: any number */
};

struct client {
	const char *socket;        /* NULL: found by libsink */
	bool json;
	const struct verb *verb;
	int argc;                  /* arguments of the verb, options left out */
	char **argv;
	struct given given[GIVEN_MAX];
	int n_given;
	struct sink *sink;         /* NULL: not connected */
	char path[128];            /* of the daemon that was connected last */
	unsigned n_link;           /* connections made */
	bool sent;                 /* the daemon may have taken what was called last */
	bool stop;                 /* Ctrl-C came before it was accepted */
	bool mute;                 /* or while standard output took nothing: no more goes there */
	int64_t end;               /* of patience, as of clock_ms(); 0: as long as it takes */
	char *renamed;             /* NULL, or what argv[0] is now */
};

const struct verb *verb_at(size_t i);      /* NULL past the end */
const struct verb *verb_find(const char *name);

/* Sorts argv into c's options and arguments; `--` ends options, `-` is an argument. */
int options_parse(struct client *c, int argc, char **argv, const struct option *global);
const char *option_value(const struct client *c, const char *name);    /* NULL: not given */
bool option_given(const struct client *c, const char *name);
int usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- parameters of a request: a map that can be sent more than once ---- */

struct params {
	msgpack_sbuffer buf;
	msgpack_packer pk;
	uint32_t n;
};
void params_init(struct params *p);
void params_free(struct params *p);
msgpack_packer *params_key(struct params *p, const char *key);     /* then pack its value */
void params_str(struct params *p, const char *key, const char *s);
void params_uint(struct params *p, const char *key, uint64_t u);
void params_bool(struct params *p, const char *key, bool b);
void params_text(struct params *p, const char *key, const char *s, size_t n);
/* Every given option that has a key, and `session` from the first argument. */
int params_options(struct params *p, const struct client *c);
/* Of one of the types; else a sentence is said, with the name that it was called by. */
int params_typed(struct params *p, const char *key, const char *called, enum option_type type, const char *value);
#define REQUEST_KEY 16
void request_key(unsigned char key[REQUEST_KEY]);                  /* random bytes */
void params_request_key(struct params *p, const unsigned char key[REQUEST_KEY]);

/* ---- the daemon (link.c) ---- */

int link_open(struct client *c);               /* connects, unless connected */
/* The same, waiting SOON_MS for a daemon that has left its socket and may be about
 * to start again.  One that accepts nobody is waited for PATIENCE_MS. */
int link_open_soon(struct client *c);
/* Connects to the same daemon again, trying for PATIENCE_MS.  EXIT_INTERRUPTED: Ctrl-C
 * came, and is there to be taken, or c->end did. */
int link_again(struct client *c);
void link_begin(struct client *c, const char *method, const struct params *p); /* then sink_send */
/* A call; refusals are said. */
int link_call(struct client *c, const char *method, const struct params *p, struct sink_answer *out);
/* The same, going on through restarts of the daemon; *e has the refusal, which is
 * not said (EXIT_REFUSED).  EXIT_INTERRUPTED as of link_again. */
int link_patient(struct client *c, const char *method, const struct params *p,
                 struct sink_answer *out, struct sink_error *e);
/* The same, for what the daemon does without us, too: the first Ctrl-C sets c->stop,
 * for who gets the answer; the second one is EXIT_INTERRUPTED. */
int link_order(struct client *c, const char *method, const struct params *p,
               struct sink_answer *out, struct sink_error *e);
int say_error(const struct sink_error *e, int rc);     /* says it; its exit code */
bool is_error(const struct sink_error *e, const char *name);
int64_t clock_ms(void);

/* Ctrl-C, from signals_take on, makes signal_fd readable instead of ending us. */
void signals_take(void);
int signal_fd(void);
bool signal_taken(void);                       /* since the last call */
/* To standard output, now.  Where that takes nothing, Ctrl-C and c->end end the wait and
 * all that is still to be printed (c->mute); the signal stays to be taken.  False: errno. */
bool output_put(struct client *c, const char *s, size_t n);

/* ---- values in answers (json.c) ---- */

/* MessagePack as JSON; bin as {"bin": "<base64>"}; NaN and infinities as null. */
void json_print(FILE *f, const msgpack_object *o);
void json_line(const msgpack_object *o);       /* to standard output */
uint64_t answer_uint(const msgpack_object *map, const char *key);      /* 0: absent */
double answer_real(const msgpack_object *map, const char *key);
bool answer_is(const msgpack_object *map, const char *key, const char *word);
/* A str, or NULL. */
const msgpack_object_str *answer_str(const msgpack_object *map, const char *key);

/* ---- text (text.c) ---- */

bool utf8_valid(const char *s, size_t n);
/* Bytes at the end that begin a character and may still become one: 0 .. 3. */
size_t utf8_open(const char *s, size_t n);

/* The text of argv[first ..], standard input where `-` stands or where there is none;
 * at most `most` bytes, else too_large is said.  *text is owned by the caller. */
int text_gather(const struct client *c, int first, size_t most, char **text, size_t *n);
int text_too_large(size_t most);               /* says so */
#define TEXT_MOST ((1u << 20) - 4096)          /* that fits into a message */

/* ---- an answer as it comes (stream.c) ---- */

/* The session of the first argument, followed from a cursor over lost connections. */
struct follow { struct client *c; uint64_t from; unsigned n_link; };
/* The next entry, each once and in order, or news (`seq` 0), where one has come:
 * *event is the caller's.  SINK_TIMEOUT: not yet.  That the session is over is said. */
int follow_next(struct follow *f, struct sink_answer *event);
/* Is there something that poll() on the connection would not tell of? */
bool follow_pending(const struct follow *f);
/* Waits for something of the daemon's, for Ctrl-C, or until end (0: for ever). */
void follow_wait(const struct follow *f, int64_t end);
/* A renamed session's events have its new name: the first argument, from here on. */
void session_name(struct client *c, const msgpack_object *event);

/* Prints the answer of `request` of the session, from `from` on, until its turn ends.
 * Ctrl-C cancels it. */
int stream_answer(struct client *c, uint64_t request, uint64_t from);
void say_left(const struct client *c);         /* that it goes on without us, where it does */
/* Stops the answer that is being made; a refusal is said. */
int answer_cancel(struct client *c);

/* The text of events, with the name of its role before each turn.  raw: just text.
 * exact: bytes that are not UTF-8 as they are, not as U+FFFD. */
struct transcript { bool raw, exact, mid_line; char role[16]; };
void transcript_print(struct transcript *t, const msgpack_object *event, FILE *f);
void transcript_end(struct transcript *t, FILE *f);

/* ---- verbs ---- */

int verb_new(struct client *c);
int verb_ls(struct client *c);
int verb_append(struct client *c);
int verb_say(struct client *c);
int verb_generate(struct client *c);
int verb_read(struct client *c);
int verb_attach(struct client *c);
int verb_show(struct client *c);
int verb_cancel(struct client *c);
int verb_set(struct client *c);
int verb_rename(struct client *c);
int verb_rm(struct client *c);
int verb_score(struct client *c);
int verb_info(struct client *c);
int verb_stats(struct client *c);
int verb_help(struct client *c);

extern const struct option options_new[], options_append[], options_say[], options_generate[],
	options_read[], options_score[], options_stats[];

#endif
