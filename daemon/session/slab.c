/*
 * The slab: one sparse memfd of equal slots, mapped once.
 *
 * The hard idea: address space is taken once and never moves, memory is taken
 * slot by slot.  fallocate reserves a slot's bytes before anything is written, so
 * that a system without memory says so here, by name, and not in the middle of a
 * step.  A memfd has no size limit of its own: asked for more than there is, the
 * kernel does not fail but ends processes, ours or others'.  So what is available
 * is looked at first, and a reserve stays untouched.  Punching a hole gives them back, and what is read there
 * afterwards is zero.  Slots need not be whole pages: the kernel zeroes the
 * edges of a hole.
 *
 * It must not know what is in a slot.  Where a service manager is to keep the
 * memfd across restarts, a header page (layout version, build, fingerprint, boot
 * counter, and per slot the owner and a stamp of the rows that are whole) goes
 * BEHIND the slots, at n_slot * slot_bytes: slab_memory and every offset stay as
 * they are, and slab_open gets the received fd.
 */
#include "daemon/session/slab.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/base/log.h"

struct slab {
	int fd;
	char *memory;
	size_t slot_bytes;
	uint32_t n_slot;
	bool *taken;
};

int slab_open(struct slab **out, size_t slot_bytes, uint32_t n_slot, struct reason *why)
{
	struct slab *s = NULL;
	size_t total;
	int rc = 0;

	if (slot_bytes == 0 || n_slot == 0)
		return ERROR(-EINVAL);
	if (__builtin_mul_overflow(slot_bytes, (size_t)n_slot, &total) || total > PTRDIFF_MAX)
		return refuse(why, "memory", "%u slots of %zu bytes do not fit in the address space",
		              n_slot, slot_bytes);
	s = calloc(1, sizeof *s);
	if (s == NULL)
		return ERROR(-ENOMEM);
	s->fd = -1;
	s->memory = MAP_FAILED;
	s->slot_bytes = slot_bytes;
	s->n_slot = n_slot;
	s->taken = calloc(n_slot, sizeof *s->taken);
	if (s->taken == NULL) {
		rc = ERROR(-ENOMEM);
		goto out;
	}
	s->fd = memfd_create("sinkd-slab", MFD_CLOEXEC);
	if (s->fd < 0) {
		rc = ERROR(-errno);
		goto out;
	}
	if (ftruncate(s->fd, (off_t)total) < 0) {
		rc = refuse(why, "memory", "%zu bytes of session memory: %s", total, strerror(errno));
		goto out;
	}
	s->memory = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->fd, 0);
	if (s->memory == MAP_FAILED) {
		rc = refuse(why, "memory", "%zu bytes of session memory: %s", total, strerror(errno));
		goto out;
	}
	madvise(s->memory, total, MADV_DONTDUMP);      /* users' text, as numbers */
	*out = s;
	s = NULL;
out:
	slab_close(s);
	return rc;
}

void slab_close(struct slab *s)
{
	if (s == NULL)
		return;
	if (s->memory != MAP_FAILED)
		munmap(s->memory, s->slot_bytes * s->n_slot);
	if (s->fd >= 0)
		close(s->fd);
	free(s->taken);
	free(s);
}

void *slab_memory(struct slab *s)
{
	return s->memory;
}

/* Bytes that can be had without harm: the system's word, less a sixteenth of all;
 * where it says nothing, all of the machine's memory. */
static uint64_t memory_available(void)
{
	uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t reserve = total / 16, kib, available = total;
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];

	if (f == NULL)
		return total - reserve;
	while (fgets(line, sizeof line, f) != NULL)
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			available = kib * 1024;
	fclose(f);
	return available > reserve ? available - reserve : 0;
}

int slab_take(struct slab *s, size_t n, uint32_t *slot, struct reason *why)
{
	uint32_t i;
	int rc;

	assert(n <= s->slot_bytes);
	for (i = 0; i < s->n_slot && s->taken[i]; i++)
		;
	if (i == s->n_slot)
		return -1;
	if (n > memory_available())
		return refuse(why, "memory", "%zu bytes for a session: the system has not got them", n);
	while (n > 0 && fallocate(s->fd, 0, (off_t)(i * s->slot_bytes), (off_t)n) < 0) {
		if (errno == EINTR)
			continue;
		rc = errno;
		if (rc != ENOMEM && rc != ENOSPC && rc != EFBIG && rc != EDQUOT)
			return ERROR(-rc);
		/* What was reserved before it failed goes back. */
		fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		          (off_t)(i * s->slot_bytes), (off_t)s->slot_bytes);
		return refuse(why, "memory", "%zu bytes for a session: %s", n, strerror(rc));
	}
	s->taken[i] = true;
	*slot = i;
	return 0;
}

void slab_drop(struct slab *s, uint32_t slot)
{
	off_t at = (off_t)(slot * s->slot_bytes);

	assert(slot < s->n_slot && s->taken[slot]);
	while (fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)s->slot_bytes) < 0) {
		if (errno == EINTR)
			continue;
		log_warning("session memory could not be given back: %s", strerror(errno));
		memset(s->memory + at, 0, s->slot_bytes);
		break;
	}
	s->taken[slot] = false;
}

int slab_fd(const struct slab *s)
{
	return s->fd;
}
