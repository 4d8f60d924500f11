/*
 * Checkpoint files: DIR/ID.kv.  A cache of the log, so everything here may be
 * lost and nothing here is believed unread: whatever does not verify is REFUSED
 * bad_checkpoint, with what is wrong, and the session is rebuilt.
 *
 * Layout, little endian: struct head (fixed size, in checkpoint.c), kv, logits,
 * XXH3-64 over all of it.
 */
#ifndef DAEMON_SESSION_CHECKPOINT_H
#define DAEMON_SESSION_CHECKPOINT_H

#include "daemon/session/disk.h"
#include "daemon/session/store.h"

/* Temporary name, fsync, rename, fsync of the directory.  REFUSED disk. */
int checkpoint_put(const struct disk *d, int dir, uint64_t session, const struct checkpoint *c,
                   struct reason *why);
/* STORE_NONE: there is no file. */
int checkpoint_get(const struct disk *d, int dir, uint64_t session, struct checkpoint **out,
                   struct reason *why);
/* Overwritten, fsynced, removed.  None is fine. */
int checkpoint_drop(const struct disk *d, int dir, uint64_t session, struct reason *why);
/* At start: temporary files, and files of sessions that are not (known returns
 * false), are overwritten and removed. */
void checkpoint_sweep(const struct disk *d, int dir, bool (*known)(void *ctx, uint64_t session), void *ctx);

#endif
