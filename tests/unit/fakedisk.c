/* See fakedisk.h.  One thread at a time.  Over 600 lines, since SQLite's files, those of checkpoints and the
 * power's cut are one disk: two files would share all that is static below. */
#include "tests/unit/fakedisk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
	unsigned char *data;
	size_t n;
};

struct change {                /* written, not synced; n 0 and data NULL: cut to at bytes */
	uint64_t at;
	struct bytes what;
	struct change *next;
};

struct inode {
	struct bytes now, safe;
	struct change *changes, **last;
	struct inode *next;    /* all of them, so that none is lost */
};

struct entry { char *name; struct inode *file; };
struct names { struct entry at[64]; size_t n; };

/* Names: those of SQLite are paths, those of checkpoints have no directory. */
static struct names now, safe;
static struct names *steps;            /* of checkpoint names, one an operation, since the last sync */
static size_t n_step;
static struct inode *all;
static uint64_t dice_state;
static _Atomic uint64_t left = UINT64_MAX;
static _Atomic bool cut;

static uint64_t dice(uint64_t n)
{
	uint64_t z = (dice_state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % n;
}

/* ---- names ---- */

static struct entry *find(struct names *m, const char *name)
{
	size_t i;

	for (i = 0; i < m->n; i++)
		if (strcmp(m->at[i].name, name) == 0)
			return &m->at[i];
	return NULL;
}

static void set(struct names *m, const char *name, struct inode *file)
{
	struct entry *e = find(m, name);

	if (e == NULL) {
		assert(m->n < 64);
		e = &m->at[m->n++];
		e->name = strdup(name);
	}
	e->file = file;
}

static void forget(struct names *m, const char *name)
{
	struct entry *e = find(m, name);

	if (e == NULL)
		return;
	free(e->name);
	*e = m->at[--m->n];
}

static void names_free(struct names *m)
{
	while (m->n > 0)
		free(m->at[--m->n].name);
}

static void names_copy(struct names *to, const struct names *from)
{
	size_t i;

	for (i = 0; i < from->n; i++)
		to->at[i] = (struct entry){ strdup(from->at[i].name), from->at[i].file };
	to->n = from->n;
}

static bool is_database(const char *name)
{
	return strchr(name, '/') != NULL;
}

/* A checkpoint's name changed: remembered as a step until the directory is synced. */
static void step(void)
{
	steps = realloc(steps, (n_step + 1) * sizeof *steps);
	memset(&steps[n_step], 0, sizeof *steps);
	names_copy(&steps[n_step++], &now);
}

static void steps_free(void)
{
	size_t i;

	for (i = 0; i < n_step; i++)
		names_free(&steps[i]);
	free(steps);
	steps = NULL;
	n_step = 0;
}

/* Takes the names of one directory from one map into the other. */
static void take_names(struct names *to, struct names *from, bool database)
{
	size_t i;

	for (i = to->n; i-- > 0; )
		if (is_database(to->at[i].name) == database)
			forget(to, to->at[i].name);
	for (i = 0; i < from->n; i++)
		if (is_database(from->at[i].name) == database)
			set(to, from->at[i].name, from->at[i].file);
}

/* ---- files ---- */

static struct inode *inode_new(void)
{
	struct inode *f = calloc(1, sizeof *f);

	f->last = &f->changes;
	f->next = all;
	all = f;
	return f;
}

static void put(struct bytes *b, uint64_t at, const unsigned char *p, size_t n)
{
	if (at + n > b->n) {
		b->data = realloc(b->data, at + n);
		memset(b->data + b->n, 0, at + n - b->n);
		b->n = at + n;
	}
	memcpy(b->data + at, p, n);
}

static void truncate_to(struct bytes *b, uint64_t n)
{
	if (n < b->n)
		b->n = n;
}

static void remember(struct inode *f, uint64_t at, const void *p, size_t n)
{
	struct change *c = calloc(1, sizeof *c);

	c->at = at;
	if (p != NULL) {
		c->what.data = malloc(n);
		memcpy(c->what.data, p, n);
		c->what.n = n;
	}
	*f->last = c;
	f->last = &c->next;
}

static void changes_free(struct inode *f)
{
	struct change *c;

	while ((c = f->changes) != NULL) {
		f->changes = c->next;
		free(c->what.data);
		free(c);
	}
	f->last = &f->changes;
}

/* An operation that changes something; true: the power goes now, or has gone. */
static bool gone(void)
{
	if (!cut && left != UINT64_MAX && left-- == 0)
		cut = true;
	return cut;
}

static void inode_write(struct inode *f, uint64_t at, const void *p, size_t n)
{
	remember(f, at, p, n);
	if (p != NULL)
		put(&f->now, at, p, n);
	else
		truncate_to(&f->now, at);
}

static void inode_sync(struct inode *f)
{
	free(f->safe.data);
	f->safe.n = f->now.n;
	f->safe.data = malloc(f->now.n + 1);
	memcpy(f->safe.data, f->now.data != NULL ? f->now.data : (unsigned char *)"", f->now.n);
	changes_free(f);
}

/* ---- power ---- */

static void apply(struct inode *f, const struct change *c, enum lost mode)
{
	size_t i;

	if (c->what.data == NULL) {
		if (dice(2))
			truncate_to(&f->safe, c->at);
	} else if (mode == LOST_SOME) {
		if (dice(2))
			put(&f->safe, c->at, c->what.data, c->what.n);
	} else {
		for (i = 0; i < c->what.n; ) {
			size_t sector = 512 - (c->at + i) % 512;
			size_t n = sector < c->what.n - i ? sector : c->what.n - i;

			if (dice(2))
				put(&f->safe, c->at + i, c->what.data + i, n);
			i += n;
		}
	}
}

void fakedisk_power_on(enum lost mode)
{
	struct inode *f;
	struct change *c;

	for (f = all; f != NULL; f = f->next) {
		for (c = f->changes; c != NULL && mode != LOST_ALL; c = c->next)
			apply(f, c, mode);
		changes_free(f);
		free(f->now.data);
		f->now = f->safe;
		f->now.data = malloc(f->safe.n + 1);
		memcpy(f->now.data, f->safe.data != NULL ? f->safe.data : (unsigned char *)"", f->safe.n);
	}
	/* Names that were not synced: as they were after some step, in order. */
	if (mode != LOST_ALL && n_step > 0) {
		size_t k = dice(n_step + 1);

		if (k > 0)
			take_names(&safe, &steps[k - 1], false);
	}
	steps_free();
	names_free(&now);
	names_copy(&now, &safe);
	cut = false;
	left = UINT64_MAX;
}

void fakedisk_cut_after(uint64_t n)
{
	left = n;
}

bool fakedisk_is_cut(void)
{
	return cut;
}

void fakedisk_clear(void)
{
	struct inode *f;

	while ((f = all) != NULL) {
		all = f->next;
		changes_free(f);
		free(f->now.data);
		free(f->safe.data);
		free(f);
	}
	names_free(&now);
	names_free(&safe);
	steps_free();
	cut = false;
	left = UINT64_MAX;
}

bool fakedisk_contains(const void *p, size_t n)
{
	size_t i;

	for (i = 0; i < now.n; i++)
		if (now.at[i].file->now.n >= n && memmem(now.at[i].file->now.data, now.at[i].file->now.n, p, n) != NULL)
			return true;
	return false;
}

/* ---- as a VFS ---- */

struct vfs_file {
	sqlite3_file base;
	struct inode *file;
	bool sync_dir;         /* with its next sync */
};

static int x_close(sqlite3_file *s)
{
	(void)s;
	return SQLITE_OK;
}

static int x_read(sqlite3_file *s, void *p, int n, sqlite3_int64 at)
{
	const struct bytes *b = &((struct vfs_file *)s)->file->now;
	size_t have = (uint64_t)at < b->n ? b->n - (size_t)at : 0;

	if (cut)
		return SQLITE_IOERR_READ;
	if (have > (size_t)n)
		have = (size_t)n;
	if (have > 0)
		memcpy(p, b->data + at, have);
	memset((char *)p + have, 0, (size_t)n - have);
	return have == (size_t)n ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int x_write(sqlite3_file *s, const void *p, int n, sqlite3_int64 at)
{
	struct inode *f = ((struct vfs_file *)s)->file;

	if (cut)
		return SQLITE_IOERR_WRITE;
	inode_write(f, (uint64_t)at, p, (size_t)n);    /* the one that the power goes in may be there */
	return gone() ? SQLITE_IOERR_WRITE : SQLITE_OK;
}

static int x_truncate(sqlite3_file *s, sqlite3_int64 n)
{
	if (gone())
		return SQLITE_IOERR_TRUNCATE;
	inode_write(((struct vfs_file *)s)->file, (uint64_t)n, NULL, 0);
	return SQLITE_OK;
}

/* The first sync of a new journal or WAL syncs their directory, as the real one does. */
static int x_sync(sqlite3_file *s, int flags)
{
	struct vfs_file *v = (struct vfs_file *)s;

	(void)flags;
	if (gone())
		return SQLITE_IOERR_FSYNC;
	inode_sync(v->file);
	if (v->sync_dir)
		take_names(&safe, &now, true);
	v->sync_dir = false;
	return SQLITE_OK;
}

static int x_size(sqlite3_file *s, sqlite3_int64 *n)
{
	*n = (sqlite3_int64)((struct vfs_file *)s)->file->now.n;
	return cut ? SQLITE_IOERR_FSTAT : SQLITE_OK;
}

static int x_lock(sqlite3_file *s, int level)
{
	(void)s, (void)level;
	return SQLITE_OK;
}

static int x_reserved(sqlite3_file *s, int *out)
{
	(void)s;
	*out = 0;
	return SQLITE_OK;
}

static int x_control(sqlite3_file *s, int op, void *arg)
{
	(void)s, (void)op, (void)arg;
	return SQLITE_NOTFOUND;
}

static int x_sector(sqlite3_file *s)
{
	(void)s;
	return 512;
}

/* As the real one says: a write harms nothing beside it. */
static int x_device(sqlite3_file *s)
{
	(void)s;
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods methods = {
	.iVersion = 1, .xClose = x_close, .xRead = x_read, .xWrite = x_write, .xTruncate = x_truncate,
	.xSync = x_sync, .xFileSize = x_size, .xLock = x_lock, .xUnlock = x_lock,
	.xCheckReservedLock = x_reserved, .xFileControl = x_control, .xSectorSize = x_sector,
	.xDeviceCharacteristics = x_device,
};

static int v_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *s, int flags, int *out)
{
	struct vfs_file *v = (struct vfs_file *)s;
	struct entry *e = name != NULL ? find(&now, name) : NULL;

	(void)vfs;
	memset(v, 0, sizeof *v);
	if (cut || (e == NULL && !(flags & SQLITE_OPEN_CREATE)))
		return SQLITE_CANTOPEN;
	v->file = e != NULL ? e->file : inode_new();
	if (name != NULL && e == NULL) {
		set(&now, name, v->file);
		v->sync_dir = flags & (SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_WAL);
		if (flags & SQLITE_OPEN_MAIN_DB)       /* dir_database makes it, and syncs its name */
			set(&safe, name, v->file);
	}
	v->base.pMethods = &methods;
	if (out != NULL)
		*out = flags;
	return SQLITE_OK;
}

static int v_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
	(void)vfs;
	if (gone())
		return SQLITE_IOERR_DELETE;
	if (find(&now, name) == NULL)
		return SQLITE_IOERR_DELETE_NOENT;
	forget(&now, name);
	if (sync || dice(2))
		forget(&safe, name);
	return SQLITE_OK;
}

static int v_access(sqlite3_vfs *vfs, const char *name, int flags, int *out)
{
	(void)vfs, (void)flags;
	*out = find(&now, name) != NULL;
	return cut ? SQLITE_IOERR_ACCESS : SQLITE_OK;
}

static int v_path(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
	(void)vfs;
	snprintf(out, (size_t)n, "%s", name);
	return SQLITE_OK;
}

void fakedisk_install(uint64_t seed)
{
	static sqlite3_vfs vfs;
	sqlite3_vfs *real = sqlite3_vfs_find(NULL);

	dice_state = seed;
	if (vfs.zName != NULL)
		return;
	vfs = *real;                   /* randomness, sleep and time are the real one's */
	vfs.zName = "fakedisk";
	vfs.szOsFile = sizeof(struct vfs_file);
	vfs.pNext = NULL;
	vfs.xOpen = v_open;
	vfs.xDelete = v_delete;
	vfs.xAccess = v_access;
	vfs.xFullPathname = v_path;
	sqlite3_vfs_register(&vfs, 0);
}

/* ---- as a struct disk ---- */

static struct inode *opened[16];

static int d_open(void *ctx, int dir, const char *name, int flags)
{
	struct entry *e = find(&now, name);
	struct inode *f = e != NULL ? e->file : NULL;
	int i;

	(void)ctx, (void)dir;
	if (cut)
		return -EIO;
	if (f == NULL && !(flags & O_CREAT))
		return -ENOENT;
	if (f == NULL) {
		if (gone())
			return -EIO;
		f = inode_new();
		set(&now, name, f);
		step();
	} else if (flags & O_TRUNC) {
		if (gone())
			return -EIO;
		inode_write(f, 0, NULL, 0);
	}
	for (i = 0; opened[i] != NULL; i++)
		assert(i < 15);
	opened[i] = f;
	return i;
}

static int d_write(void *ctx, int file, const void *p, size_t n, uint64_t at)
{
	(void)ctx;
	if (cut)
		return -EIO;
	inode_write(opened[file], at, p, n);
	return gone() ? -EIO : 0;
}

static int d_read(void *ctx, int file, void *p, size_t n, uint64_t at)
{
	const struct bytes *b = &opened[file]->now;

	(void)ctx;
	if (cut)
		return -EIO;
	if (at > b->n || n > b->n - at)
		return -ENODATA;
	memcpy(p, b->data + at, n);
	return 0;
}

static int d_size(void *ctx, int file, uint64_t *size)
{
	(void)ctx;
	*size = opened[file]->now.n;
	return cut ? -EIO : 0;
}

static int d_sync(void *ctx, int file)
{
	(void)ctx;
	if (gone())
		return -EIO;
	inode_sync(opened[file]);
	return 0;
}

static void d_close(void *ctx, int file)
{
	(void)ctx;
	opened[file] = NULL;
}

static int d_rename(void *ctx, int dir, const char *from, const char *to)
{
	struct entry *e = find(&now, from);

	(void)ctx, (void)dir;
	if (gone())
		return -EIO;
	if (e == NULL)
		return -ENOENT;
	set(&now, to, e->file);
	forget(&now, from);
	step();
	return 0;
}

static int d_unlink(void *ctx, int dir, const char *name)
{
	(void)ctx, (void)dir;
	if (gone())
		return -EIO;
	if (find(&now, name) == NULL)
		return -ENOENT;
	forget(&now, name);
	step();
	return 0;
}

static int d_sync_dir(void *ctx, int dir)
{
	(void)ctx, (void)dir;
	if (gone())
		return -EIO;
	take_names(&safe, &now, false);
	steps_free();
	return 0;
}

static int d_list(void *ctx, int dir, void (*each)(void *arg, const char *name), void *arg)
{
	size_t i;

	(void)ctx, (void)dir;
	for (i = 0; i < now.n; i++)
		if (!is_database(now.at[i].name))
			each(arg, now.at[i].name);
	return cut ? -EIO : 0;
}

const struct disk fakedisk = {
	d_open, d_write, d_read, d_size, d_sync, d_close, d_rename, d_unlink, d_sync_dir, d_list, NULL,
};
