/*
 * The slab: one sparse memfd of equal slots, mapped once.
 *
 * The hard idea: address space is taken once and never moves, memory is taken
 * slot by slot.  fallocate reserves a slot's bytes before anything is written, so
 * that a system without memory says so here, by name, and not in the middle of a
 * step.  A memfd has no size limit of its own: asked for more than there is, the
 * kernel does not fail but ends processes, ours or others'.  So what is available
 * is looked at first, and a reserve stays untouched.  Punching a hole gives memory
 * back, and what is read there afterwards is zero.  Slots need not be whole pages:
 * the kernel zeroes the edges of a hole.
 *
 * The second: a stamp is taken back before it changes and set last, so that a
 * process which dies at any instruction leaves a stamp that is true, or none.
 *
 * It must not know what is in a slot.
 */
#include "daemon/session/slab.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "daemon/base/log.h"

#define MAGIC "sinkslab"
#define SLAB_VERSION 1u

/* Behind the slots. */
struct header {
	char magic[8];
	uint32_t version, n_slot;
	char build[24];
	struct slab_id id;
	uint64_t slot_bytes;
	uint32_t starts;           /* takings over since the last finished step */
	struct slab_stamp stamps[];        /* [n_slot] */
};

struct slab {
	int fd;
	char *memory;
	size_t slot_bytes, total;
	uint32_t n_slot;
	bool kept;
	bool *taken;
	struct header *header;
};

/* Bytes of the whole memfd; 0: too many. */
static size_t total_bytes(size_t slot_bytes, uint32_t n_slot)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), slots, head, total;

	if (__builtin_mul_overflow(slot_bytes, (size_t)n_slot, &slots))
		return 0;
	head = sizeof(struct header) + n_slot * sizeof(struct slab_stamp) + 2 * page;
	if (__builtin_add_overflow(slots, head, &total) || total > PTRDIFF_MAX)
		return 0;
	return total / page * page;
}

/* The first page behind the slots. */
static size_t header_at(const struct slab *s)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), slots = s->slot_bytes * s->n_slot;

	return (slots + page - 1) / page * page;
}

static int map(struct slab *s, struct reason *why)
{
	s->memory = mmap(NULL, s->total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->fd, 0);
	if (s->memory == MAP_FAILED)
		return refuse(why, "memory", "%zu bytes of session memory: %s", s->total, strerror(errno));
	madvise(s->memory, s->total, MADV_DONTDUMP);   /* users' text, as numbers */
	s->header = (struct header *)(s->memory + header_at(s));
	return 0;
}

static void unmap(struct slab *s)
{
	if (s->memory != MAP_FAILED)
		munmap(s->memory, s->total);
	if (s->fd >= 0)
		close(s->fd);
	s->memory = MAP_FAILED;
	s->fd = -1;
}

static void header_make(struct header *h, const struct slab_id *id, size_t slot_bytes, uint32_t n_slot)
{
	memset(h, 0, sizeof *h);
	memcpy(h->magic, MAGIC, sizeof h->magic);
	h->version = SLAB_VERSION;
	h->n_slot = n_slot;
	snprintf(h->build, sizeof h->build, "%s", PACKAGE_VERSION);
	h->id.fingerprint = id->fingerprint;
	h->id.n_chunk = id->n_chunk;
	snprintf(h->id.layout, sizeof h->id.layout, "%s", id->layout);
	h->slot_bytes = slot_bytes;
}

/* Why a slab that was given cannot be taken over; NULL: it can, and is mapped. */
static const char *take_over(struct slab *s, const struct header *own)
{
	struct stat st;

	if (fstat(s->fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size != s->total)
		return "it has another size";
	if (map(s, NULL) != 0)
		return "it cannot be mapped";
	if (memcmp(s->header, own, offsetof(struct header, starts)) != 0)
		return "it is of another model, build or layout";
	if (s->header->starts >= SLAB_STARTS)
		return "the last starts with it finished no step";
	s->header->starts++;
	return NULL;
}

static int make_new(struct slab *s, const struct header *own, struct reason *why)
{
	int rc;

	s->fd = memfd_create("sinkd-slab", MFD_CLOEXEC);
	if (s->fd < 0)
		return ERROR(-errno);
	if (ftruncate(s->fd, (off_t)s->total) < 0)
		return refuse(why, "memory", "%zu bytes of session memory: %s", s->total, strerror(errno));
	rc = map(s, why);
	if (rc == 0)
		memcpy(s->header, own, sizeof *own);
	return rc;
}

int slab_open(struct slab **out, const struct slab_id *id, size_t slot_bytes, uint32_t n_slot, int fd,
              struct reason *why)
{
	const char *wrong = NULL;
	struct slab *s = NULL;
	struct header own;
	int rc = 0;

	if (slot_bytes == 0 || n_slot == 0)
		return ERROR(-EINVAL);
	if (total_bytes(slot_bytes, n_slot) == 0)
		return refuse(why, "memory", "%u slots of %zu bytes do not fit in the address space",
		              n_slot, slot_bytes);
	s = calloc(1, sizeof *s);
	if (s == NULL)
		return ERROR(-ENOMEM);
	s->fd = fd;
	s->memory = MAP_FAILED;
	s->slot_bytes = slot_bytes;
	s->n_slot = n_slot;
	s->total = total_bytes(slot_bytes, n_slot);
	s->taken = calloc(n_slot, sizeof *s->taken);
	if (s->taken == NULL) {
		rc = ERROR(-ENOMEM);
		goto out;
	}
	header_make(&own, id, slot_bytes, n_slot);
	if (fd >= 0)
		wrong = take_over(s, &own);
	s->kept = fd >= 0 && wrong == NULL;
	if (!s->kept) {
		if (wrong != NULL)
			log_warning("the kept session memory is not taken over: %s", wrong);
		unmap(s);
		rc = make_new(s, &own, why);
		if (rc != 0)
			goto out;
	}
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
	unmap(s);
	free(s->taken);
	free(s);
}

void *slab_memory(struct slab *s)
{
	return s->memory;
}

/* Bytes that can be had without harm: the system's word, less a sixteenth of all;
 * where it says nothing, all of the machine's memory. */
uint64_t memory_available(void)
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
	static const struct slab_stamp nothing = { .session = 0 };
	off_t at = (off_t)(slot * s->slot_bytes);

	assert(slot < s->n_slot && s->taken[slot]);
	slab_stamp(s, slot, &nothing);
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

bool slab_kept(const struct slab *s)
{
	return s->kept;
}

bool slab_left(struct slab *s, uint32_t slot, struct slab_stamp *out)
{
	assert(slot < s->n_slot && !s->taken[slot]);
	*out = s->header->stamps[slot];
	if (out->session == 0)
		return false;
	s->taken[slot] = true;
	return true;
}

void slab_stamp(struct slab *s, uint32_t slot, const struct slab_stamp *stamp)
{
	struct slab_stamp *in = &s->header->stamps[slot];

	__atomic_store_n(&in->session, 0, __ATOMIC_SEQ_CST);
	in->window = stamp->window;
	in->n_computed = stamp->n_computed;
	in->n_written = stamp->n_written;
	in->start = stamp->start;
	__atomic_store_n(&in->session, stamp->session, __ATOMIC_SEQ_CST);
}

void slab_harmless(struct slab *s)
{
	s->header->starts = 0;
}
