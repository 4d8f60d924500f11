/*
 * The mark of a crash: an open file that a signal handler writes one byte to.
 *
 * The hard idea is that a handler may do next to nothing: it writes to a file that
 * is open already, puts back the handler that was there before (a sanitizer's, or
 * the default) and lets the signal come again.  It must not allocate, lock or log.
 */
#include "daemon/base/crash.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/error.h"

static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
#define N_FAULT (sizeof faults / sizeof faults[0])

static int mark = -1;
static struct sigaction before[N_FAULT];

static void on_fault(int number)
{
	static const char said[] = "sinkd: ended by a fault of its own\n";
	ssize_t ignored;
	size_t i;

	ignored = write(mark, "x", 1);
	ignored = write(STDERR_FILENO, said, sizeof said - 1);
	(void)ignored;
	for (i = 0; i < N_FAULT; i++)
		if (faults[i] == number)
			sigaction(number, &before[i], NULL);
	raise(number);
}

int crash_watch(const char *dir, bool *crashed)
{
	struct sigaction action = { .sa_handler = on_fault };
	struct stat st;
	char path[4096];
	size_t i;

	*crashed = false;
	if ((size_t)snprintf(path, sizeof path, "%s/crashed", dir) >= sizeof path)
		return ERROR(-ENAMETOOLONG);
	mark = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (mark < 0 || fstat(mark, &st) < 0)
		return ERROR(-errno);
	*crashed = st.st_size > 0;
	if (*crashed && ftruncate(mark, 0) < 0)
		return ERROR(-errno);
	for (i = 0; i < N_FAULT; i++)
		if (sigaction(faults[i], &action, &before[i]) < 0)
			return ERROR(-errno);
	return 0;
}
