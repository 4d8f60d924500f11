/*
 * The log.  One line a call, written whole, so that threads never mix lines.
 * Under systemd standard error is a stream to the journal: a line that starts
 * with "<N>" gets that priority (sd-daemon(3)), and no time, since the journal
 * has its own.
 */
#include "daemon/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static struct {
	atomic_int most;       /* enum log_level */
	bool journal;
} the_log = { LOG_LEVEL_INFO, false };

static const char *const names[] = { "emergency", "alert", "critical", "error", "warning", "notice",
                                     "info", "debug" };

/* $JOURNAL_STREAM is "device:inode" of the stream that systemd gave us; it is ours
 * only when standard error still is that very file. */
static bool is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream != NULL && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_open(enum log_level most)
{
	the_log.most = most;
	the_log.journal = is_journal();
}

void log_level_set(enum log_level most)
{
	the_log.most = most;
}

static int head(char *line, size_t n, enum log_level level)
{
	struct timespec now;
	struct tm tm;

	if (the_log.journal)
		return snprintf(line, n, "<%d>", (int)level);
	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	return snprintf(line, n, "%04d-%02d-%02d %02d:%02d:%02d.%03ld %s: ", tm.tm_year + 1900, tm.tm_mon + 1,
	                tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000, names[level]);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	size_t n;
	int part;
	va_list ap;

	if ((int)level > the_log.most)
		return;
	n = (size_t)head(line, sizeof line, level);
	va_start(ap, fmt);
	part = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
	va_end(ap);
	if (part > 0)
		n += (size_t)part < sizeof line - n - 1 ? (size_t)part : sizeof line - n - 2;
	line[n++] = '\n';
	while (write(STDERR_FILENO, line, n) < 0 && errno == EINTR)
		;
}
