/*
 * A disk in memory that can lose its power.  It serves SQLite (as a VFS named
 * "fakedisk") and checkpoints (as a struct disk), and remembers for each file what
 * was written and not yet synced, and for names what was not yet synced either.
 *
 * fakedisk_cut_after(n): the n-th operation from now on that changes something,
 * and everything after it, fails.  fakedisk_power_on: what was not synced is lost,
 * or partly lost, as the mode says; then the disk works again.
 */
#ifndef TESTS_UNIT_FAKEDISK_H
#define TESTS_UNIT_FAKEDISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/session/disk.h"

enum lost {
	LOST_ALL,              /* nothing that was not synced is there */
	LOST_SOME,             /* a random subset of the writes is there */
	LOST_TORN,             /* a random subset of their 512-byte sectors is there */
	N_LOST
};

void fakedisk_install(uint64_t seed);
extern const struct disk fakedisk;
void fakedisk_clear(void);                     /* a new, empty disk */
void fakedisk_cut_after(uint64_t n);           /* UINT64_MAX: never */
bool fakedisk_is_cut(void);
void fakedisk_power_on(enum lost mode);        /* all files are closed */
bool fakedisk_contains(const void *p, size_t n);       /* in any file that has a name */

#endif
