/*
 * attach: converse in a terminal; or line by line, through a pipe.
 *
 * Everything shown comes from the session's log, by session.follow, whoever caused
 * it; a cursor takes care that nothing is shown twice after a lost connection.
 * Its one hard case is text that arrives while a line is being edited: with an
 * empty line the prompt steps aside and comes back at the end of the turn; else
 * whole lines are put above it.
 */
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "client/client.h"
#include "client/screen.h"
#include "proto/frame.h"

#define RECENT 200             /* entries of the transcript shown at first */
#define OWN_MAX 32             /* requests of ours that are remembered */
#define HELD_MAX 65536

struct attach {
	struct client *c;
	struct follow f;
	uint64_t until;            /* last entry when it began */
	struct transcript t;
	uint64_t own[OWN_MAX];     /* requests, a ring */
	unsigned n_own, n_open;    /* all, and those that have not ended */
	bool running, mine;        /* an answer is being made; it is one of ours */
	int rc;

	EditLine *el;              /* NULL: not a terminal */
	bool prompt;               /* the prompt is on the screen */
	bool mid_line;             /* the cursor stands behind text */
	char *held;                /* shown when the line being edited lets it */
	size_t n_held;
	bool disturbed;            /* Ctrl-C ended the look for what has come */
	char left[8];              /* bytes of a character that is being typed */
	size_t n_left;
};

/* ---- the screen ---- */

static bool typing(struct attach *a)
{
	const LineInfoW *line = a->el && a->prompt ? el_wline(a->el) : NULL;

	return line && line->lastchar > line->buffer;
}

#define PROMPT "> "

/* Takes the prompt and what is typed off the screen, all rows of it. */
static void prompt_clear(struct attach *a)
{
	const LineInfoW *line;
	unsigned rows;

	if (!a->prompt)
		return;
	line = el_wline(a->el);
	rows = screen_rows(sizeof PROMPT - 1, line->buffer, line->cursor);
	putchar('\r');
	if (rows)
		printf("\033[%uA", rows);
	fputs("\033[J", stdout);
	a->prompt = false;
}

static void screen_put(struct attach *a, const char *s, size_t n)
{
	if (n == 0)
		return;
	prompt_clear(a);
	output_put(a->c, s, n);            /* main says where it failed */
	a->mid_line = s[n - 1] != '\n';
}

/* The prompt, on a line of its own. */
static void screen_prompt(struct attach *a)
{
	if (!a->el)
		return;
	if (a->mid_line)
		screen_put(a, "\n", 1);
	if (!a->prompt)
		el_set(a->el, EL_REFRESH);
	a->prompt = true;
}

static void held_show(struct attach *a, size_t n)
{
	bool edited = typing(a);

	if (n == 0)
		return;
	screen_put(a, a->held, n);
	a->n_held -= n;
	memmove(a->held, a->held + n, a->n_held);
	if (edited)
		screen_prompt(a);
}

/* Shows text, or holds it while a line is edited. */
static void show(struct attach *a, const char *s, size_t n)
{
	size_t whole;

	if (!typing(a) && a->n_held == 0) {
		screen_put(a, s, n);
		return;
	}
	if (a->n_held + n > HELD_MAX)
		held_show(a, a->n_held);
	if (n > HELD_MAX) {
		screen_put(a, s, n);
		return;
	}
	memcpy(a->held + a->n_held, s, n);
	a->n_held += n;
	for (whole = typing(a) ? a->n_held : 0; whole > 0 && a->held[whole - 1] != '\n'; whole--)
		;
	held_show(a, typing(a) ? whole : a->n_held);
}

/* ---- events ---- */

static bool is_own(const struct attach *a, uint64_t request)
{
	unsigned i, n = a->n_own < OWN_MAX ? a->n_own : OWN_MAX;

	for (i = 0; i < n; i++)
		if (request && a->own[i] == request)
			return true;
	return false;
}

static void event_show(struct attach *a, const msgpack_object *event)
{
	bool own = is_own(a, answer_uint(event, "request"));
	char *text = NULL;
	size_t n = 0;
	FILE *f;

	if (answer_is(event, "kind", "turn")) {
		a->running = answer_is(event, "state", "begin");
		a->mine = a->running && own;
		if (own && !a->running && a->n_open > 0)
			a->n_open--;
	}
	/* In a terminal, what was typed here is on the screen already. */
	if (a->el && own && answer_is(event, "role", "user"))
		return;
	f = open_memstream(&text, &n);
	if (!f)
		abort();
	transcript_print(&a->t, event, f);
	fclose(f);
	show(a, text, n);
	free(text);
	if (answer_is(event, "kind", "turn") && !a->running && !typing(a))
		screen_prompt(a);
}

#define REBUILT "[the session's cache was made again from its log]\n"

static void event_take(struct attach *a, const msgpack_object *event)
{
	if (answer_uint(event, "seq") > 0)
		event_show(a, event);
	else if (a->el && answer_is(event, "kind", "state") && answer_is(event, "state", "rebuilt"))
		show(a, REBUILT, sizeof REBUILT - 1);
}

/* ---- the daemon ---- */

static int call(struct attach *a, const char *method, struct params *p, struct sink_answer *out)
{
	struct sink_error e = { 0 };
	int rc = link_patient(a->c, method, p, out, &e);

	if (rc && e.name[0])
		say_error(&e, SINK_REFUSED);
	return rc;
}

/* Shows what has arrived; does not wait. */
static int events_take(struct attach *a)
{
	struct sink_answer event;
	int rc;

	while ((rc = follow_next(&a->f, &event)) == 0) {
		event_take(a, &event.result);
		sink_answer_free(&event);
	}
	return rc == SINK_TIMEOUT ? 0 : rc;
}

static int line_send(struct attach *a, const char *line, size_t n)
{
	unsigned char key[REQUEST_KEY];
	struct sink_answer answer = { 0 };
	struct params p;
	int rc;

	while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
		n--;
	if (n == 0)
		return 0;
	if (n > TEXT_MOST)
		return text_too_large(TEXT_MOST);
	params_init(&p);
	params_str(&p, "session", a->c->argv[0]);
	params_text(&p, "text", line, n);
	request_key(key);
	params_request_key(&p, key);
	rc = call(a, "session.say", &p, &answer);
	if (rc == 0) {
		a->own[a->n_own++ % OWN_MAX] = answer_uint(&answer.result, "request");
		a->n_open++;
	} else if (rc == EXIT_INTERRUPTED && a->c->sent) {
		a->n_open++;               /* perhaps */
	}
	sink_answer_free(&answer);
	params_free(&p);
	return rc;
}

/* ---- what has been said until now ---- */

static int recent_begin(struct attach *a)
{
	struct sink_answer answer = { 0 };
	const msgpack_object *raw;
	struct params p;
	uint64_t seq;
	int rc;

	params_init(&p);
	params_str(&p, "session", a->c->argv[0]);
	rc = call(a, "session.info", &p, &answer);
	if (rc == 0) {
		a->until = seq = answer_uint(&answer.result, "seq");
		a->f.from = seq > RECENT ? seq - RECENT + 1 : 1;
		a->running = answer_is(&answer.result, "state", "generating");
		raw = frame_get(&answer.result, "raw");
		a->t.raw = raw && raw->type == MSGPACK_OBJECT_BOOLEAN && raw->via.boolean;
	}
	sink_answer_free(&answer);
	params_free(&p);
	return rc;
}

static int recent_read(struct attach *a, uint32_t *n)
{
	struct sink_answer answer = { 0 };
	const msgpack_object *events;
	struct params p;
	uint32_t i;
	int rc;

	*n = 0;
	params_init(&p);
	params_str(&p, "session", a->c->argv[0]);
	params_uint(&p, "from", a->f.from);
	rc = call(a, "session.read", &p, &answer);
	events = rc == 0 ? frame_get(&answer.result, "events") : NULL;
	if (events && events->type == MSGPACK_OBJECT_ARRAY)
		*n = events->via.array.size;
	for (i = 0; i < *n; i++) {
		a->f.from = answer_uint(&events->via.array.ptr[i], "seq") + 1;
		session_name(a->c, &events->via.array.ptr[i]);
		event_take(a, &events->via.array.ptr[i]);
	}
	sink_answer_free(&answer);
	params_free(&p);
	return rc;
}

/* No farther than what there was: while an answer is made there is always something newer. */
static int recent_show(struct attach *a)
{
	uint32_t n = 1;
	int rc = recent_begin(a);

	while (rc == 0 && n > 0 && a->f.from <= a->until)
		rc = recent_read(a, &n);
	return rc;
}

/* ---- a terminal ---- */

static char *prompt_text(EditLine *el)
{
	static char text[] = PROMPT;

	(void)el;
	return text;
}

/* One more byte of a character; 1: it is whole. */
static int character_add(struct attach *a, char b, wchar_t *out)
{
	mbstate_t state;
	size_t n;

	memset(&state, 0, sizeof state);
	a->left[a->n_left++] = b;
	n = mbrtowc(out, a->left, a->n_left, &state);
	if (n == (size_t)-2 && a->n_left < sizeof a->left)
		return 0;
	a->n_left = 0;
	if (n == (size_t)-1 || n == (size_t)-2)
		return 0;
	return 1;
}

/* Ctrl-C: stops the answer, or empties the line. */
static int interrupt_take(struct attach *a)
{
	const LineInfoW *line = el_wline(a->el);       /* in characters */
	int rc;

	a->c->mute = false;                /* a terminal that was stopped goes on with it */
	if (a->running) {
		rc = answer_cancel(a->c);
		rc = rc == EXIT_REFUSED ? 0 : rc;      /* which has been said */
		a->disturbed = a->disturbed && rc != 0;        /* there is somebody who answers */
		return rc;
	}
	prompt_clear(a);
	el_cursor(a->el, (int)(line->lastchar - line->cursor));
	el_deletestr(a->el, (int)(line->lastchar - line->buffer));
	screen_prompt(a);
	return 0;
}

/* The prompt again: behind what a shell wrote meanwhile, or in a screen of another size. */
static void screen_again(struct attach *a)
{
	enum screen_change change = screen_changed();
	bool prompt = a->prompt;

	if (change == SCREEN_SAME)
		return;
	el_resize(a->el);
	if (change == SCREEN_RESIZED) {
		prompt_clear(a);
	} else {
		el_set(a->el, EL_PREP_TERM, 0);        /* else it takes it for prepared */
		el_set(a->el, EL_PREP_TERM, 1);
		fputs("\r\033[K", stdout);
		a->prompt = false;
	}
	if (prompt)
		screen_prompt(a);
}

/* libedit's reader: a character of the keyboard, showing what arrives meanwhile. */
static int key_read(EditLine *el, wchar_t *out)
{
	struct pollfd p[] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = signal_fd(), .events = POLLIN },
	                      { .events = POLLIN }, { .fd = screen_fd(), .events = POLLIN } };
	struct attach *a;
	ssize_t n;
	char b;

	el_get(el, EL_CLIENTDATA, &a);
	for (;;) {
		screen_again(a);
		a->rc = signal_taken() ? interrupt_take(a) : 0;        /* first: a call would end with it */
		if (a->rc == 0) {
			a->rc = events_take(a);
			if (a->rc == EXIT_INTERRUPTED && a->c->sink && !a->disturbed) {
				a->disturbed = true;   /* it came meanwhile; another one leaves */
				continue;
			}
		}
		if (a->rc)
			return 0;
		a->disturbed = false;
		p[2].fd = sink_fd(a->c->sink);
		if (follow_pending(&a->f) || poll(p, 4, -1) <= 0 || p[1].revents || p[3].revents || !p[0].revents)
			continue;
		n = read(STDIN_FILENO, &b, 1);
		if (n == 0 || (n < 0 && errno != EINTR))
			return 0;
		if (n == 1 && character_add(a, b, out)) {
			screen_prompt(a);
			return 1;
		}
	}
}

static int terminal_run(struct attach *a)
{
	History *lines = history_init();
	HistEvent he;
	const char *line;
	int n;

	/* What is typed and shown is UTF-8; a locale that cannot say so would lose it. */
	if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
		setlocale(LC_CTYPE, "C.UTF-8");
	screen_open();
	a->el = el_init("sink", stdin, stdout, stderr);
	if (!a->el || !lines)
		abort();
	history(lines, &he, H_SETSIZE, 200);
	el_set(a->el, EL_CLIENTDATA, a);
	el_set(a->el, EL_PROMPT, prompt_text);
	el_set(a->el, EL_EDITOR, "emacs");
	el_set(a->el, EL_HIST, history, lines);
	el_set(a->el, EL_GETCFN, key_read);
	el_source(a->el, NULL);
	while (a->rc == 0) {
		if (a->mid_line)
			screen_put(a, "\n", 1);
		a->prompt = true;          /* el_gets draws it */
		line = el_gets(a->el, &n);
		a->prompt = false;
		a->mid_line = false;
		if (!line || n <= 0)
			break;
		if (line[0] != '\n')
			history(lines, &he, H_ENTER, line);
		held_show(a, a->n_held);
		a->rc = line_send(a, line, (size_t)n);
	}
	el_end(a->el);
	history_end(lines);
	putchar('\n');
	return a->rc;
}

/* ---- no terminal ---- */

#define LINE_ROOM (TEXT_MOST + 2)      /* one byte too many, and a line end */

struct lines { char *buf; size_t n; bool ended; };

/* Sends whole lines, as many as may be open, and at the end of the input what is left.
 * A line that fills the buffer is one that is refused. */
static int lines_send(struct attach *a, struct lines *l)
{
	char *end;
	size_t at = 0, len;
	int rc = 0;

	while (rc == 0 && at < l->n && a->n_open < OWN_MAX) {
		end = memchr(l->buf + at, '\n', l->n - at);
		if (!end && !l->ended && l->n - at < LINE_ROOM)
			break;
		len = end ? (size_t)(end + 1 - l->buf) - at : l->n - at;
		rc = line_send(a, l->buf + at, len);
		at += len;
	}
	l->n -= at;
	memmove(l->buf, l->buf + at, l->n);
	return rc;
}

static int lines_read(struct lines *l)
{
	ssize_t got = read(STDIN_FILENO, l->buf + l->n, LINE_ROOM - l->n);

	if (got < 0 && errno != EINTR && errno != EAGAIN) {
		perror("sink: standard input");
		return EXIT_REFUSED;
	}
	if (got > 0)
		l->n += (size_t)got;
	l->ended = got == 0;
	return 0;
}

/* Ctrl-C stops the answer that is being made where it is ours; others are not ours to stop. */
static int lines_leave(struct attach *a)
{
	a->c->end = clock_ms() + CANCEL_MS;
	if (a->mine && answer_cancel(a->c) == 0)
		a->n_open--;
	return EXIT_INTERRUPTED;
}

/* Ends with its input, once all that it said has been answered. */
static int lines_run(struct attach *a, struct lines *l)
{
	struct pollfd p[3] = { { .fd = STDIN_FILENO, .events = POLLIN },
	                       { .fd = signal_fd(), .events = POLLIN }, { .events = POLLIN } };
	int rc = 0;

	while (!signal_taken() && (rc = events_take(a)) == 0) {
		rc = lines_send(a, l);
		if (rc)
			break;             /* where it was interrupted there is no connection any more */
		if (l->ended && l->n == 0 && a->n_open == 0)
			return 0;
		p[0].fd = l->ended || l->n == LINE_ROOM ? -1 : STDIN_FILENO;
		p[2].fd = sink_fd(a->c->sink);
		if (!follow_pending(&a->f) && poll(p, 3, -1) > 0 && p[0].revents)
			rc = lines_read(l);
		if (rc)
			break;
	}
	if (rc && rc != EXIT_INTERRUPTED)
		return rc;
	signal_taken();                /* a call that it ended has left it there */
	return lines_leave(a);
}

static int pipe_run(struct attach *a)
{
	struct lines l = { .buf = malloc(LINE_ROOM) };
	int rc;

	if (!l.buf)
		abort();
	rc = lines_run(a, &l);
	free(l.buf);
	return rc;
}

int verb_attach(struct client *c)
{
	struct attach a = { .c = c, .f = { .c = c } };
	int rc;

	if (c->json)
		return usage_error("attach has no --json; sink --json read -f follows a session, sink --json say asks");
	rc = link_open(c);
	a.held = malloc(HELD_MAX);
	if (!a.held)
		abort();
	if (rc == 0) {
		signals_take();
		rc = recent_show(&a);
	}
	if (rc == 0 && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
		rc = terminal_run(&a);
	else if (rc == 0)
		rc = pipe_run(&a);
	if (!a.el && a.mid_line)
		output_put(c, "\n", 1);
	if (rc == EXIT_INTERRUPTED && a.n_open > 0)
		say_left(c);
	free(a.held);
	return rc;
}
