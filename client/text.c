/*
 * Text: what is UTF-8, and where a command's text comes from.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/client.h"

/* Length of the character at s, 0: not one; *open: it is cut by the end of s. */
static size_t utf8_length(const unsigned char *s, size_t n, bool *open)
{
	size_t want = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
	size_t i;

	*open = false;
	for (i = 1; i < want && i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		/* too long a spelling, a surrogate, past U+10FFFF */
		if (i == 1 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
		               (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)))
			return 0;
	}
	*open = i < want;
	return *open ? 0 : want;
}

bool utf8_valid(const char *s, size_t n)
{
	size_t at = 0, len;
	bool open;

	while (at < n) {
		len = utf8_length((const unsigned char *)s + at, n - at, &open);
		if (len == 0)
			return false;
		at += len;
	}
	return true;
}

size_t utf8_open(const char *s, size_t n)
{
	size_t back;
	bool open;

	for (back = 1; back <= 3 && back <= n; back++)
		if (utf8_length((const unsigned char *)s + n - back, back, &open) == 0 && open)
			return back;
	return 0;
}

/* ---- gathering ---- */

struct gathered { char *data; size_t n, room, most; bool after_input; };

int text_too_large(size_t most)
{
	fprintf(stderr, "sink: too_large: the text is longer than %zu bytes, which is what a message holds; "
	        "sink append takes any length\n", most);
	return EXIT_REFUSED;
}

static int gather(struct gathered *g, const char *s, size_t n)
{
	size_t room = g->room ? g->room : 4096;
	char *data;

	if (n > g->most - g->n)
		return text_too_large(g->most);
	while (room < g->n + n)
		room *= 2;
	if (room != g->room) {
		data = realloc(g->data, room);
		if (!data)
			abort();
		g->data = data;
		g->room = room;
	}
	memcpy(g->data + g->n, s, n);
	g->n += n;
	return 0;
}

static int gather_input(struct gathered *g)
{
	char buf[65536];
	ssize_t n;
	int rc;

	for (;;) {
		n = read(STDIN_FILENO, buf, sizeof buf);
		if (n == 0)
			return 0;
		if (n < 0 && errno == EAGAIN)  /* of who shares it with us */
			poll(&(struct pollfd){ .fd = STDIN_FILENO, .events = POLLIN }, 1, -1);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0) {
			perror("sink: standard input");
			return EXIT_REFUSED;
		}
		rc = gather(g, buf, (size_t)n);
		if (rc)
			return rc;
	}
}

/* Arguments are joined by a space; standard input stands on lines of its own. */
static int gather_argument(struct gathered *g, const char *arg)
{
	bool input = strcmp(arg, "-") == 0;
	int rc = 0;

	if (g->n > 0 && (input || g->after_input))
		rc = g->data[g->n - 1] == '\n' ? 0 : gather(g, "\n", 1);
	else if (g->n > 0)
		rc = gather(g, " ", 1);
	if (rc)
		return rc;
	g->after_input = input;
	return input ? gather_input(g) : gather(g, arg, strlen(arg));
}

int text_gather(const struct client *c, int first, size_t most, char **text, size_t *n)
{
	struct gathered g = { .most = most };
	int i, rc = 0;

	if (first >= c->argc)
		rc = gather_input(&g);
	for (i = first; rc == 0 && i < c->argc; i++)
		rc = gather_argument(&g, c->argv[i]);
	g.most++;                          /* it ends with a NUL, which does not count */
	if (rc == 0)
		rc = gather(&g, "", 1);
	if (rc) {
		free(g.data);
		return rc;
	}
	*text = g.data;
	*n = g.n - 1;
	return 0;
}
