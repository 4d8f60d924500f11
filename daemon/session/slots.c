/*
 * The two kinds of slots, as two tables of the same few functions: nobody else
 * asks where a slot lies.
 *
 * On a device nothing is left for a later process: no stamps, nothing kept, and a
 * session comes back from its checkpoint.
 */
#include "daemon/session/slots.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/base/log.h"

struct slots_kind {
	int (*open)(struct slots *s, const struct slots_params *p, struct reason *why);
	void *(*memory)(struct slots *s);
	int (*take)(struct slots *s, size_t n, uint32_t *slot, struct reason *why);
	void (*drop)(struct slots *s, uint32_t slot);
	void (*stamp)(struct slots *s, uint32_t slot, const struct slab_stamp *stamp);
	void (*harmless)(struct slots *s);
	bool (*kept)(const struct slots *s);
	bool (*left)(struct slots *s, uint32_t slot, struct slab_stamp *out);
	int (*fd)(const struct slots *s);
};

struct slots {
	const struct slots_kind *kind;
	const struct backend_ops *ops;
	struct backend *backend;
	struct kv *kv;
	size_t slot_bytes;
	uint32_t n_slot;
	struct slab *slab;         /* host */
	bool *taken;               /* device */
};

/* ---- in the machine's memory ---- */

static int host_open(struct slots *s, const struct slots_params *p, struct reason *why)
{
	struct slab_id id = { .fingerprint = p->fingerprint, .n_chunk = p->shape->n_chunk };

	snprintf(id.layout, sizeof id.layout, "%s", p->ops->kv_layout(p->backend, p->shape->type));
	return slab_open(&s->slab, &id, s->slot_bytes, s->n_slot, p->fd, why);
}

static void *host_memory(struct slots *s)
{
	return slab_memory(s->slab);
}

static int host_take(struct slots *s, size_t n, uint32_t *slot, struct reason *why)
{
	return slab_take(s->slab, n, slot, why);
}

static void host_drop(struct slots *s, uint32_t slot)
{
	slab_drop(s->slab, slot);
}

static void host_stamp(struct slots *s, uint32_t slot, const struct slab_stamp *stamp)
{
	slab_stamp(s->slab, slot, stamp);
}

static void host_harmless(struct slots *s)
{
	slab_harmless(s->slab);
}

static bool host_kept(const struct slots *s)
{
	return slab_kept(s->slab);
}

static bool host_left(struct slots *s, uint32_t slot, struct slab_stamp *out)
{
	return slab_left(s->slab, slot, out);
}

static int host_fd(const struct slots *s)
{
	return slab_fd(s->slab);
}

static const struct slots_kind host = {
	.open = host_open, .memory = host_memory, .take = host_take, .drop = host_drop, .stamp = host_stamp,
	.harmless = host_harmless, .kept = host_kept, .left = host_left, .fd = host_fd,
};

/* ---- on a device ---- */

static int device_open_slots(struct slots *s, const struct slots_params *p, struct reason *why)
{
	(void)p;
	s->taken = calloc(s->n_slot, sizeof *s->taken);
	return s->taken != NULL ? 0 : refuse(why, "memory", "no memory for %u slots", s->n_slot);
}

static void *device_memory(struct slots *s)
{
	(void)s;
	return NULL;
}

static int device_take(struct slots *s, size_t n, uint32_t *slot, struct reason *why)
{
	uint32_t i;

	(void)why;
	assert(n <= s->slot_bytes);
	for (i = 0; i < s->n_slot && s->taken[i]; i++)
		;
	if (i == s->n_slot)
		return -1;
	s->taken[i] = true;
	*slot = i;
	return 0;
}

/* A device that fails at this is found out, and closed, by the next step. */
static void device_drop(struct slots *s, uint32_t slot)
{
	assert(slot < s->n_slot && s->taken[slot]);
	if (s->ops->kv_clear(s->kv, slot) != 0)
		log_debug("slot %u was not overwritten: the device has failed", slot);
	s->taken[slot] = false;
}

static void device_stamp(struct slots *s, uint32_t slot, const struct slab_stamp *stamp)
{
	(void)s;
	(void)slot;
	(void)stamp;
}

static void device_harmless(struct slots *s)
{
	(void)s;
}

static bool device_kept(const struct slots *s)
{
	(void)s;
	return false;
}

static bool device_left(struct slots *s, uint32_t slot, struct slab_stamp *out)
{
	(void)s;
	(void)slot;
	(void)out;
	return false;
}

static int device_fd(const struct slots *s)
{
	(void)s;
	return -1;
}

static const struct slots_kind device = {
	.open = device_open_slots, .memory = device_memory, .take = device_take, .drop = device_drop,
	.stamp = device_stamp, .harmless = device_harmless, .kept = device_kept, .left = device_left,
	.fd = device_fd,
};

/* ---- both ---- */

int slots_open(struct slots **out, const struct slots_params *p, struct reason *why)
{
	struct slots *s = calloc(1, sizeof *s);
	struct backend_why bad = { .text = "" };
	int rc;

	if (s == NULL)
		return ERROR(-ENOMEM);
	s->kind = p->ops->own_slots ? &device : &host;
	s->ops = p->ops;
	s->backend = p->backend;
	s->n_slot = p->shape->n_slot;
	s->slot_bytes = p->ops->slot_bytes(p->shape);
	rc = s->kind->open(s, p, why);
	if (rc == 0 && p->ops->kv_open(p->backend, p->shape, s->kind->memory(s), &s->kv, &bad) != 0)
		rc = refuse(why, "memory", "%s", bad.text);
	if (rc != 0) {
		slots_close(s);
		return rc;
	}
	if (p->ops->own_slots && p->fd >= 0) {
		log_info("the session memory of the daemon before is given up: caches are on the device now");
		close(p->fd);
	}
	*out = s;
	return 0;
}

void slots_close(struct slots *s)
{
	if (s == NULL)
		return;
	if (s->kv != NULL)
		s->ops->kv_close(s->backend, s->kv);
	slab_close(s->slab);
	free(s->taken);
	free(s);
}

struct kv *slots_kv(const struct slots *s)
{
	return s->kv;
}

int slots_take(struct slots *s, size_t n, uint32_t *slot, struct reason *why)
{
	return s->kind->take(s, n, slot, why);
}

void slots_drop(struct slots *s, uint32_t slot)
{
	s->kind->drop(s, slot);
}

void slots_stamp(struct slots *s, uint32_t slot, const struct slab_stamp *stamp)
{
	s->kind->stamp(s, slot, stamp);
}

void slots_harmless(struct slots *s)
{
	s->kind->harmless(s);
}

bool slots_kept(const struct slots *s)
{
	return s->kind->kept(s);
}

bool slots_left(struct slots *s, uint32_t slot, struct slab_stamp *out)
{
	return s->kind->left(s, slot, out);
}

int slots_fd(const struct slots *s)
{
	return s->kind->fd(s);
}
