/*
 * The state directory: made, made private, and held by one daemon.  The lock is a
 * flock on STATE/lock, so it goes with the process, however that ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/session/store-inside.h"

static int bad_state(struct reason *why, const char *path, const char *what)
{
	return refuse(why, "bad_state", "%s: %s", path, what);
}

/* Makes every missing part of path, private. */
static int make_path(const char *path)
{
	char part[4096];
	char *p;

	if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part)
		return -ENAMETOOLONG;
	for (p = part + 1; (p = strchr(p, '/')) != NULL; p++) {
		*p = '\0';
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(part, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* Takes away what others may do. */
static int make_private(int fd, const char *name, mode_t most, struct reason *why)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return bad_state(why, name, strerror(errno));
	if ((st.st_mode & 07777 & ~most) == 0)
		return 0;
	log_warning("%s was open to others (%04o), made %04o", name, st.st_mode & 07777, most);
	if (fchmod(fd, most) < 0)
		return bad_state(why, name, "open to others, and its mode could not be changed");
	return 0;
}

static int take_lock(struct store *s, struct reason *why)
{
	s->fd_lock = openat(s->fd_dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->fd_lock < 0)
		return refuse(why, "bad_state", "%s/lock: %s", s->dir, strerror(errno));
	if (flock(s->fd_lock, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return refuse(why, "state_in_use", "another sinkd holds %s", s->dir);
	return refuse(why, "bad_state", "%s/lock: %s", s->dir, strerror(errno));
}

static int open_checkpoints(struct store *s, struct reason *why)
{
	if (mkdirat(s->fd_dir, "checkpoint", 0700) < 0 && errno != EEXIST)
		return refuse(why, "bad_state", "%s/checkpoint: %s", s->dir, strerror(errno));
	s->fd_checkpoint = openat(s->fd_dir, "checkpoint", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (s->fd_checkpoint < 0)
		return refuse(why, "bad_state", "%s/checkpoint: %s", s->dir, strerror(errno));
	return make_private(s->fd_checkpoint, "checkpoint", 0700, why);
}

int dir_open(struct store *s, const char *path, struct reason *why)
{
	int rc;

	s->fd_dir = s->fd_lock = s->fd_checkpoint = -1;
	rc = make_path(path);
	if (rc < 0)
		return bad_state(why, path, strerror(-rc));
	s->dir = realpath(path, NULL);
	if (s->dir == NULL)
		return bad_state(why, path, strerror(errno));
	s->fd_dir = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->fd_dir < 0)
		return bad_state(why, s->dir, strerror(errno));
	if ((rc = make_private(s->fd_dir, s->dir, 0700, why)) != 0 ||
	    (rc = take_lock(s, why)) != 0)
		return rc;
	return open_checkpoints(s, why);
}

/* A salvage that was cut off between its renames: the new database is whole. */
static void finish_salvage(struct store *s)
{
	if (faccessat(s->fd_dir, "sinkd.db", F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
	    faccessat(s->fd_dir, "sinkd.db.salvaged", F_OK, AT_SYMLINK_NOFOLLOW) != 0)
		return;
	log_notice("%s: a salvage was cut off; its new database is put in place", s->dir);
	renameat(s->fd_dir, "sinkd.db-wal", s->fd_dir, "sinkd.db.damaged-wal");
	renameat(s->fd_dir, "sinkd.db.salvaged", s->fd_dir, "sinkd.db");
}

/* SQLite gives its other files the mode of this one. */
int dir_database(struct store *s, struct reason *why)
{
	static const char *const names[] = { "sinkd.db", "sinkd.db-wal", "sinkd.db-shm", "lock" };
	size_t i;
	int fd, rc = 0;

	finish_salvage(s);
	for (i = 0; rc == 0 && i < sizeof names / sizeof *names; i++) {
		fd = openat(s->fd_dir, names[i], O_RDWR | O_CLOEXEC | O_NOFOLLOW | (i == 0 ? O_CREAT : 0), 0600);
		if (fd < 0 && i > 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return refuse(why, "bad_state", "%s/%s: %s", s->dir, names[i], strerror(errno));
		rc = make_private(fd, names[i], 0600, why);
		close(fd);
	}
	if (rc == 0 && fsync(s->fd_dir) < 0)
		rc = bad_state(why, s->dir, strerror(errno));
	return rc;
}

int dir_new(struct store *s, const char *name, struct reason *why)
{
	int fd = openat(s->fd_dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return refuse(why, "disk", "%s/%s: %s", s->dir, name, strerror(errno));
	close(fd);
	return 0;
}

/* An empty file is a new database to SQLite.  Where there has been one, it is a
 * database that lost everything; the lock file remembers. */
bool dir_emptied(struct store *s)
{
	struct stat database, lock;

	return fstatat(s->fd_dir, "sinkd.db", &database, AT_SYMLINK_NOFOLLOW) == 0 && database.st_size <= 1 &&
	       fstat(s->fd_lock, &lock) == 0 && lock.st_size > 0;
}

static const char text[] = "held while sinkd runs; not empty: sinkd.db has been made\n";

void dir_remember(struct store *s)
{
	struct stat st;

	if (fstat(s->fd_lock, &st) == 0 && st.st_size > 0)
		return;
	if (pwrite(s->fd_lock, text, sizeof text - 1, 0) < 0 || fsync(s->fd_lock) < 0 || fsync(s->fd_dir) < 0)
		log_warning("%s/lock: %s", s->dir, strerror(errno));
}

/* ---- as it was closed ----
 *
 * A database that nobody has touched since it was closed need not be read from end to end.  Who writes
 * to it later than that moves its time to one of the kernel's ticks, which that of the closing is not. */

/* The line about it, of the file as it is now; false: there is none, or a log beside it. */
static bool closed_line(const struct store *s, char *line, size_t n)
{
	struct stat st;

	if (fstatat(s->fd_dir, "sinkd.db-wal", &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0)
		return false;
	if (fstatat(s->fd_dir, "sinkd.db", &st, AT_SYMLINK_NOFOLLOW) != 0)
		return false;
	snprintf(line, n, "closed: %lld bytes at %lld.%09ld\n", (long long)st.st_size, (long long)st.st_mtim.tv_sec,
	         st.st_mtim.tv_nsec);
	return true;
}

bool dir_untouched(struct store *s)
{
	char now[100], then[100];
	ssize_t n = pread(s->fd_lock, then, sizeof then - 1, sizeof text - 1);
	bool same;

	if (n < 0 || (n == 0 && pread(s->fd_lock, now, 1, 0) <= 0))
		return false;          /* there has been none */
	then[n] = '\0';
	same = closed_line(s, now, sizeof now) && strcmp(now, then) == 0;
	if (!same)
		log_info("%s: the database was not closed, or is not as it was then: all of it is checked", s->dir);
	if (n == 0)
		return false;
	/* on disk before anything is written: after the power went, too, the line is not to be believed */
	if (ftruncate(s->fd_lock, sizeof text - 1) < 0 || fsync(s->fd_lock) < 0) {
		log_warning("%s/lock: %s", s->dir, strerror(errno));
		return false;
	}
	return same;
}

uint64_t dir_size(const struct store *s)
{
	static const char *const names[] = { "sinkd.db", "sinkd.db-wal" };
	uint64_t n = 0;
	struct stat st;
	size_t i;

	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (fstatat(s->fd_dir, names[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
			n += (uint64_t)st.st_size;
	return n;
}

void dir_closed(struct store *s)
{
	int fd = openat(s->fd_dir, "sinkd.db", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT } };
	char line[100];

	if (fd < 0)
		return;                /* another disk's, in a test */
	clock_gettime(CLOCK_REALTIME, &times[1]);
	if (futimens(fd, times) == 0 && fsync(fd) == 0 && closed_line(s, line, sizeof line) &&
	    pwrite(s->fd_lock, line, strlen(line), sizeof text - 1) < 0)
		log_warning("%s/lock: %s", s->dir, strerror(errno));
	close(fd);
}

void dir_close(struct store *s)
{
	if (s->fd_checkpoint >= 0)
		close(s->fd_checkpoint);
	if (s->fd_lock >= 0)
		close(s->fd_lock);
	if (s->fd_dir >= 0)
		close(s->fd_dir);
	free(s->dir);
}
