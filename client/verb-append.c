/*
 * append: text of any length into a session, in constant memory, each byte once.
 *
 * Input is cut into pieces of whole lines, at most 64 KiB, sent after 50 ms of
 * silence at the latest.  Up to 32 pieces are in flight, each with a key of its
 * own; they are remembered until the daemon has them on disk, and sent again, in
 * order and with the same keys, over a new connection.
 *
 * A full queue refuses one piece and may take the next one a moment later; so
 * only as much is sent in flights as surely fits into the queue, and the rest one
 * piece at a time.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/client.h"
#include "proto/frame.h"

#define PIECE_MAX 65536
#define FLIGHT_MAX 32
#define SILENCE_MS 50
#define LATE_MS 500            /* input that trickles without a silence */
#define AGAIN_MS 100           /* after a refusal that passes */

const struct option options_append[] = {
	{ "--role", "ROLE", "role", OPTION_TEXT, "user, system, tool or raw" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};

enum flight { FREE, WAITING, SENT };   /* WAITING: to be sent (again) */

struct piece {
	enum flight flight;
	uint32_t id;
	unsigned char key[REQUEST_KEY];
	size_t n;
	char *text;
};

struct append {
	struct client *c;
	struct piece ring[FLIGHT_MAX];
	unsigned first, n;         /* the oldest, and how many */
	int64_t not_before;        /* sending waits after a refusal; 0: no */
	bool careful;              /* one at a time, from the first such refusal on */
	bool warned, sent;
	uint64_t fits;             /* bytes that may go in flights before it, too */
	size_t piece_max;          /* no more than the daemon's queue takes at all */

	char in[PIECE_MAX];
	size_t n_in;
	int64_t first_ms, last_ms; /* when the oldest and the latest byte came */
	bool empty;                /* standard input had nothing more when it was looked at */

	const char **sources;      /* NULL: standard input */
	int source, n_source;      /* the current one, and how many */
	char last;                 /* byte taken; 0: none */
};

static struct piece *piece_at(struct append *a, unsigned i)
{
	return &a->ring[(a->first + i) % FLIGHT_MAX];
}

/* ---- the daemon's side ---- */

static int piece_send(struct append *a, struct piece *p, struct sink_error *e)
{
	struct params params;
	int rc;

	params_init(&params);
	rc = params_options(&params, a->c);
	if (rc == 0) {
		params_text(&params, "text", p->text, p->n);
		params_request_key(&params, p->key);
		link_begin(a->c, "session.append", &params);
		rc = sink_send(a->c->sink, &p->id, e);
		p->flight = SENT;
	}
	params_free(&params);
	return rc;
}

/* The size of the daemon's queue; 0: not known yet, or (*loading is false) never. */
static int queue_ask(struct append *a, uint64_t *most, bool *loading)
{
	struct sink_answer answer = { 0 };
	struct sink_error e = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	rc = link_patient(a->c, "server.info", &p, &answer, &e);
	if (rc == 0) {
		*most = answer_uint(frame_get(&answer.result, "limits"), "queued_bytes");
		*loading = answer_is(&answer.result, "state", "loading");
	} else if (e.name[0]) {
		say_error(&e, SINK_REFUSED);
	}
	sink_answer_free(&answer);
	params_free(&p);
	return rc;
}

/* How much may wait in the daemon's queue; others may have filled half of it.  A piece
 * that is longer than all of it would be refused for ever. */
static int fits_ask(struct append *a)
{
	uint64_t most = 0;
	bool loading = false;
	unsigned i;
	int rc;

	while ((rc = queue_ask(a, &most, &loading)) == 0 && most == 0 && loading)
		poll(NULL, 0, AGAIN_MS);
	if (rc)
		return rc;
	if (!a->sent || a->fits > most / 2)
		a->fits = most / 2;
	a->piece_max = most > 0 && most < PIECE_MAX ? (size_t)most : PIECE_MAX;
	for (i = 0; i < a->n; i++)
		if (piece_at(a, i)->n > a->piece_max) {
			fprintf(stderr, "sink: cap_queued: the daemon came back with a queue of %zu bytes, "
			        "and a piece of %zu was on its way\n", a->piece_max, piece_at(a, i)->n);
			return EXIT_REFUSED;
		}
	return 0;
}

/* Everything that is not acknowledged goes again. */
static int daemon_again(struct append *a)
{
	unsigned i;
	int rc;

	for (i = 0; i < a->n; i++)
		if (piece_at(a, i)->flight == SENT)
			piece_at(a, i)->flight = WAITING;
	rc = link_again(a->c);
	return rc ? rc : fits_ask(a);
}

static unsigned pieces_in(struct append *a, enum flight flight)
{
	unsigned i, n = 0;

	for (i = 0; i < a->n; i++)
		n += piece_at(a, i)->flight == flight;
	return n;
}

/* Sends what waits, oldest first. */
static int pieces_send(struct append *a)
{
	struct sink_error e;
	unsigned i;
	int rc;

	if (a->not_before && clock_ms() < a->not_before)
		return 0;
	a->not_before = 0;
	for (i = 0; i < a->n; i++) {
		if (piece_at(a, i)->flight != WAITING)
			continue;
		if (a->careful && pieces_in(a, SENT))
			return 0;
		rc = piece_send(a, piece_at(a, i), &e);
		if (rc == SINK_GONE)
			return daemon_again(a);
		if (rc)
			return rc;
		a->sent = true;
		if (piece_at(a, i)->n > a->fits)
			a->careful = true;
		else
			a->fits -= piece_at(a, i)->n;
	}
	return 0;
}

static bool passes(const struct sink_error *e)
{
	return is_error(e, "cap_queued") || is_error(e, "loading") || is_error(e, "stopping");
}

static void piece_accepted(struct append *a, unsigned i)
{
	struct piece *p = piece_at(a, i);
	unsigned older;

	free(p->text);
	p->text = NULL;
	p->flight = FREE;
	for (older = 0; older < i && a->careful && !a->warned; older++)
		if (piece_at(a, older)->flight == WAITING) {
			fprintf(stderr, "sink: the daemon's queue was full for a moment: "
			        "a piece of the text may have come before the one ahead of it\n");
			a->warned = true;
		}
}

/* The answer to one piece, where it is there. */
static int answer_take(struct append *a, unsigned i)
{
	struct sink_answer answer;
	struct sink_error e;
	int rc = sink_wait_ms(a->c->sink, piece_at(a, i)->id, 0, &answer, &e);

	if (rc == SINK_TIMEOUT)
		return 0;
	if (rc == SINK_GONE)
		return daemon_again(a);
	if (rc == SINK_REFUSED && passes(&e)) {
		piece_at(a, i)->flight = WAITING;
		a->not_before = clock_ms() + AGAIN_MS;
		a->careful = true;
		return 0;
	}
	if (rc)
		return say_error(&e, rc);
	if (a->c->json)
		json_line(&answer.result);
	fflush(stdout);
	sink_answer_free(&answer);
	piece_accepted(a, i);
	return 0;
}

static int answers_take(struct append *a)
{
	unsigned i;
	int rc = 0;

	for (i = 0; rc == 0 && i < a->n; i++)
		if (piece_at(a, i)->flight == SENT)
			rc = answer_take(a, i);
	while (a->n && piece_at(a, 0)->flight == FREE) {
		a->first = (a->first + 1) % FLIGHT_MAX;
		a->n--;
	}
	return rc;
}

/* ---- the input's side ---- */

static void piece_make(struct append *a, size_t n)
{
	struct piece *p = piece_at(a, a->n++);

	p->text = malloc(n ? n : 1);
	if (!p->text)
		abort();
	memcpy(p->text, a->in, n);
	p->n = n;
	p->flight = WAITING;
	request_key(p->key);
	a->n_in -= n;
	memmove(a->in, a->in + n, a->n_in);
	a->first_ms = clock_ms();
}

/* How much of the input makes a piece now; 0: wait. */
static size_t piece_length(const struct append *a)
{
	int64_t now = clock_ms();
	/* What waits to be read is no silence: it was we who had no time, or no room, to look. */
	bool silent = a->empty && now - a->last_ms >= SILENCE_MS, late = now - a->first_ms >= LATE_MS;
	size_t most = a->n_in < a->piece_max ? a->n_in : a->piece_max, n = most;

	if (n == a->n_in && (n == 0 || a->source == a->n_source))
		return n;
	if (n < a->piece_max && !silent && !late)
		return 0;
	if (n == a->piece_max || !silent) {
		while (n > 0 && a->in[n - 1] != '\n')
			n--;
		if (n > 0)
			return n;
	}
	return most - utf8_open(a->in, most);
}

static void input_add(struct append *a, size_t n)
{
	if (n == 0)
		return;
	a->last_ms = clock_ms();
	if (a->n_in == 0)
		a->first_ms = a->last_ms;
	a->n_in += n;
	a->last = a->in[a->n_in - 1];
}

static int input_read(struct append *a)
{
	ssize_t n = read(STDIN_FILENO, a->in + a->n_in, a->piece_max - a->n_in);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0) {
		perror("sink: standard input");
		return EXIT_REFUSED;
	}
	if (n == 0)
		a->source++;
	else
		input_add(a, (size_t)n);
	return 0;
}

static const char line_end[] = "\n";

/* Arguments are joined by a space; standard input stands on lines of its own. */
static void sources_init(struct append *a, int argc, char **argv)
{
	bool input, was_input = false;
	int i;

	a->sources = calloc(2 * (size_t)argc + 2, sizeof *a->sources);
	if (!a->sources)
		abort();
	for (i = 0; i < argc; i++) {
		input = strcmp(argv[i], "-") == 0;
		if (i > 0)
			a->sources[a->n_source++] = input || was_input ? line_end : " ";
		a->sources[a->n_source++] = input ? NULL : argv[i];
		was_input = input;
	}
	if (argc == 0)
		a->sources[a->n_source++] = NULL;
}

static bool source_is_input(const struct append *a)
{
	return a->source < a->n_source && !a->sources[a->source];
}

/* Takes arguments, as far as there is room, until it is standard input's turn. */
static void arguments_take(struct append *a)
{
	const char **source;
	size_t n;

	while (a->source < a->n_source && a->n_in < a->piece_max && !source_is_input(a)) {
		source = &a->sources[a->source];
		n = strlen(*source);
		if (*source == line_end && (a->last == '\n' || !a->last))
			n = 0;
		if (n > a->piece_max - a->n_in)
			n = a->piece_max - a->n_in;
		memcpy(a->in + a->n_in, *source, n);
		input_add(a, n);
		*source += n;
		if (**source == 0 || *source == line_end)
			a->source++;
	}
}

/* ---- both ---- */

static int wait_ms(struct append *a)
{
	if (a->not_before)
		return AGAIN_MS;
	if (pieces_in(a, WAITING) && !(a->careful && pieces_in(a, SENT)))
		return 0;                  /* a new connection: they go again now */
	return a->n_in > 0 && a->n < FLIGHT_MAX ? SILENCE_MS : -1;
}

/* Waits for input where there is room for it, and for the daemon. */
static int append_wait(struct append *a)
{
	bool input = source_is_input(a) && a->n_in < a->piece_max;
	struct pollfd p[2] = { { .fd = sink_fd(a->c->sink), .events = POLLIN },
	                       { .fd = input ? STDIN_FILENO : -1, .events = POLLIN } };

	if (poll(p, 2, wait_ms(a)) < 0 && errno != EINTR) {
		perror("sink: poll");
		return EXIT_REFUSED;
	}
	a->empty = input && !p[1].revents;
	/* With nothing in flight nobody else would see that the daemon has left. */
	if (p[0].revents & (POLLHUP | POLLERR) && pieces_in(a, SENT) == 0) {
		int rc = daemon_again(a);

		a->empty = false;          /* that took time: it may have come since */
		if (rc)
			return rc;
	}
	/* The daemon may have come back with a smaller queue than what waits here already fills. */
	return p[1].revents && a->n_in < a->piece_max ? input_read(a) : 0;
}

static int append_run(struct append *a)
{
	size_t n;
	int rc = 0;

	while (rc == 0) {
		arguments_take(a);
		while (a->n < FLIGHT_MAX && (n = piece_length(a)) > 0)
			piece_make(a, n);
		rc = pieces_send(a);
		if (rc == 0)
			rc = answers_take(a);
		if (rc || (a->source == a->n_source && a->n_in == 0 && a->n == 0))
			break;
		rc = append_wait(a);
	}
	return rc;
}

/* Nothing was sent: is there such a session at all? */
static int session_check(struct client *c)
{
	struct sink_answer answer = { 0 };
	struct params p;
	int rc;

	params_init(&p);
	params_str(&p, "session", c->argv[0]);
	rc = link_call(c, "session.info", &p, &answer);
	sink_answer_free(&answer);
	params_free(&p);
	return rc;
}

int verb_append(struct client *c)
{
	struct append *a = calloc(1, sizeof *a);
	unsigned i;
	int rc;

	if (!a)
		abort();
	a->c = c;
	sources_init(a, c->argc - 1, c->argv + 1);
	rc = link_open_soon(c);
	if (rc == 0)
		rc = fits_ask(a);
	if (rc == 0)
		rc = append_run(a);
	if (rc == 0 && !a->sent)
		rc = session_check(c);
	for (i = 0; i < FLIGHT_MAX; i++)
		free(a->ring[i].text);
	free(a->sources);
	free(a);
	return rc;
}
