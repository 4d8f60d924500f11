/*
 * The terminal that a conversation is in: where its prompt is, and that it is stopped,
 * continued and resized.
 *
 * libedit would take these signals, too, but Ctrl-C with them.  The one hard thing is
 * Ctrl-Z: who stops leaves the terminal to a shell that may not expect what an editor
 * of lines makes of it.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "client/screen.h"

static struct termios plain;   /* as it was found */
static int changes = -1;

/* Stops as if we took no signal: also where nobody could continue us, which is not at all. */
static void screen_stop(int sig)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL }, ours;
	struct termios edited;
	bool terminal = tcgetattr(STDIN_FILENO, &edited) == 0;
	sigset_t set;
	int keep = errno;

	if (terminal)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &plain);
	sigaction(sig, &dfl, &ours);
	sigemptyset(&set);
	sigaddset(&set, sig);
	raise(sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);          /* here */
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigaction(sig, &ours, NULL);
	if (terminal)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &edited);
	errno = keep;
}

void screen_open(void)
{
	struct sigaction stop = { .sa_handler = screen_stop, .sa_flags = SA_RESTART }, old;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigaddset(&set, SIGCONT);
	changes = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (changes >= 0)
		sigprocmask(SIG_BLOCK, &set, NULL);
	sigemptyset(&stop.sa_mask);
	if (tcgetattr(STDIN_FILENO, &plain) == 0 && sigaction(SIGTSTP, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
		sigaction(SIGTSTP, &stop, NULL);
}

int screen_fd(void)
{
	return changes;
}

enum screen_change screen_changed(void)
{
	enum screen_change change = SCREEN_SAME;
	struct signalfd_siginfo s;

	while (changes >= 0 && read(changes, &s, sizeof s) == (ssize_t)sizeof s)
		if (s.ssi_signo == SIGCONT)
			change = SCREEN_CONTINUED;
		else if (change == SCREEN_SAME)
			change = SCREEN_RESIZED;
	return change;
}

/* As libedit shows it; what cannot be printed is rare, and a row is all that it may cost. */
static unsigned character_width(wchar_t c, unsigned column)
{
	int width = wcwidth(c);

	if (c == L'\t')
		return 8 - column % 8;
	return width >= 0 ? (unsigned)width : 2;
}

unsigned screen_rows(unsigned column, const wchar_t *s, const wchar_t *end)
{
	struct winsize size = { 0 };
	unsigned columns, rows = 0, width;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 2)
		size.ws_col = 80;
	columns = size.ws_col;
	for (; s < end; s++) {
		width = character_width(*s, column);
		if (column + width > columns) {
			rows++;
			column = 0;
		}
		column += width;
		if (column >= columns) {       /* the cursor goes to the next one at once */
			rows++;
			column -= columns;
		}
	}
	return rows;
}
