/* File operations of checkpoints on a real file system: loops around EINTR and
 * short transfers and what O_DIRECT cannot do, and nothing else. */
#include "daemon/session/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int real_open(void *ctx, int dir, const char *name, int flags)
{
	int fd = openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);

	(void)ctx;
	if (fd < 0 && errno == EINVAL && flags & O_DIRECT)     /* a file system without it */
		fd = openat(dir, name, (flags & ~O_DIRECT) | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

/* The end of a file, or a device with larger sectors: through the cache from here. */
static bool not_direct(int file)
{
	int flags = fcntl(file, F_GETFL);

	return flags >= 0 && flags & O_DIRECT && fcntl(file, F_SETFL, flags & ~O_DIRECT) == 0;
}

static int real_write(void *ctx, int file, const void *p, size_t n, uint64_t at)
{
	const char *c = p;

	(void)ctx;
	while (n > 0) {
		ssize_t k = pwrite(file, c, n, (off_t)at);

		if (k < 0 && (errno == EINTR || (errno == EINVAL && not_direct(file))))
			continue;
		if (k <= 0)
			return k < 0 ? -errno : -EIO;
		c += k, n -= (size_t)k, at += (uint64_t)k;
	}
	return 0;
}

static int real_read(void *ctx, int file, void *p, size_t n, uint64_t at)
{
	char *c = p;

	(void)ctx;
	while (n > 0) {
		ssize_t k = pread(file, c, n, (off_t)at);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return k < 0 ? -errno : -ENODATA;
		c += k, n -= (size_t)k, at += (uint64_t)k;
	}
	return 0;
}

static int real_size(void *ctx, int file, uint64_t *size)
{
	struct stat st;

	(void)ctx;
	if (fstat(file, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	*size = (uint64_t)st.st_size;
	return 0;
}

static int real_sync(void *ctx, int file)
{
	(void)ctx;
	return fsync(file) < 0 ? -errno : 0;
}

static void real_close(void *ctx, int file)
{
	(void)ctx;
	close(file);
}

static int real_rename(void *ctx, int dir, const char *from, const char *to)
{
	(void)ctx;
	return renameat(dir, from, dir, to) < 0 ? -errno : 0;
}

static int real_unlink(void *ctx, int dir, const char *name)
{
	(void)ctx;
	return unlinkat(dir, name, 0) < 0 ? -errno : 0;
}

static int real_sync_dir(void *ctx, int dir)
{
	(void)ctx;
	return fsync(dir) < 0 ? -errno : 0;
}

static int real_list(void *ctx, int dir, void (*each)(void *arg, const char *name), void *arg)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *d;
	DIR *list;

	(void)ctx;
	if (fd < 0)
		return -errno;
	list = fdopendir(fd);
	if (list == NULL) {
		close(fd);
		return -ENOMEM;
	}
	while ((d = readdir(list)) != NULL)
		if (d->d_name[0] != '.')
			each(arg, d->d_name);
	closedir(list);
	return 0;
}

const struct disk disk_real = {
	real_open, real_write, real_read, real_size, real_sync, real_close,
	real_rename, real_unlink, real_sync_dir, real_list, NULL,
};
