/*
 * The few file operations that checkpoints need, as a table, so that a test can
 * cut the power between any two of them.  Names are relative to one directory.
 * All return 0 (or what they are said to) or -errno.
 */
#ifndef DAEMON_SESSION_DISK_H
#define DAEMON_SESSION_DISK_H

#include <stddef.h>
#include <stdint.h>

struct disk {
	/* A file number.  O_DIRECT is a wish: multiples of 4096 bytes go past the system's cache. */
	int (*open)(void *ctx, int dir, const char *name, int flags);
	int (*write)(void *ctx, int file, const void *p, size_t n, uint64_t at);   /* all of it */
	int (*read)(void *ctx, int file, void *p, size_t n, uint64_t at);   /* all of it, or -ENODATA */
	int (*size)(void *ctx, int file, uint64_t *size);
	int (*sync)(void *ctx, int file);
	void (*close)(void *ctx, int file);
	int (*rename)(void *ctx, int dir, const char *from, const char *to);
	int (*unlink)(void *ctx, int dir, const char *name);
	int (*sync_dir)(void *ctx, int dir);
	int (*list)(void *ctx, int dir, void (*each)(void *arg, const char *name), void *arg);
	void *ctx;
};
extern const struct disk disk_real;

#endif
