/*
 * Checkpoint files, written so that at any moment the name ID.kv is a whole old
 * one or a whole new one.  The hard idea: sizes come from the file, so they are
 * compared with the file's size before anything is allocated, and the sum over
 * everything before any field is believed.
 */
#define XXH_STATIC_LINKING_ONLY        /* a hash state on the stack */
#include "daemon/session/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/log.h"

#define MAGIC "sinkd-kv"
#define VERSION 1

struct head {                  /* on disk: a change is a new version */
	char magic[8];
	uint32_t version, n_head;
	uint64_t session, fingerprint, n_computed, start, chain, n_kv, n_logits;
	uint32_t n_sink, n_recent, n_chunk, zero;
	char layout[48];
};
_Static_assert(sizeof(struct head) == 136, "no padding on disk");

#define NAME_SIZE 40
static void file_name(char *name, uint64_t session, const char *suffix)
{
	snprintf(name, NAME_SIZE, "%" PRIu64 ".kv%s", session, suffix);
}

void checkpoint_free(struct checkpoint *c)
{
	if (c == NULL)
		return;
	if (!c->lent)
		free(c->kv);
	free(c->logits);
	free(c);
}

static int disk_refused(struct reason *why, const char *what, int rc)
{
	return refuse(why, "disk", "checkpoint: %s: %s", what, strerror(-rc));
}

/* ---- writing ---- */

/* Through a buffer that O_DIRECT likes: a checkpoint is read once, if ever, and pages
 * of the system's cache for it cost more of the processor than all the rest, beside
 * whoever is being answered. */
#define BUFFER_ALIGN 4096
#define BUFFER_SIZE (2u << 20)

struct writer {
	const struct disk *d;
	int file;
	char *buffer;
	size_t n_buffer;
	uint64_t at;           /* of the buffer */
	XXH3_state_t sum;
};

static int flush(struct writer *w)
{
	int rc = w->d->write(w->d->ctx, w->file, w->buffer, w->n_buffer, w->at);

	w->at += w->n_buffer;
	w->n_buffer = 0;
	return rc;
}

static int put(struct writer *w, const void *p, size_t n)
{
	const char *c = p;
	size_t k;
	int rc = 0;

	for (; rc == 0 && n > 0; c += k, n -= k) {
		k = n < BUFFER_SIZE - w->n_buffer ? n : BUFFER_SIZE - w->n_buffer;
		XXH3_64bits_update(&w->sum, c, k);
		memcpy(w->buffer + w->n_buffer, c, k);
		w->n_buffer += k;
		if (w->n_buffer == BUFFER_SIZE)
			rc = flush(w);
	}
	return rc;
}

static int put_all(struct writer *w, const struct head *h, const struct checkpoint *c)
{
	uint64_t sum;
	int rc;

	XXH3_64bits_reset(&w->sum);
	if ((rc = put(w, h, sizeof *h)) < 0 ||
	    (rc = put(w, c->kv, c->n_kv)) < 0 ||
	    (rc = put(w, c->logits, c->n_logits * sizeof *c->logits)) < 0)
		return rc;
	sum = XXH3_64bits_digest(&w->sum);
	if ((rc = put(w, &sum, sizeof sum)) < 0)
		return rc;
	return w->n_buffer > 0 ? flush(w) : 0;
}

static void head_fill(struct head *h, uint64_t session, const struct checkpoint *c)
{
	memset(h, 0, sizeof *h);
	memcpy(h->magic, MAGIC, sizeof h->magic);
	h->version = VERSION;
	h->n_head = sizeof *h;
	h->session = session;
	h->fingerprint = c->fingerprint;
	h->n_computed = c->n_computed;
	h->start = c->start;
	h->chain = c->chain;
	h->n_kv = c->n_kv;
	h->n_logits = c->logits != NULL ? c->n_logits : 0;
	h->n_sink = c->window.n_sink;
	h->n_recent = c->window.n_recent;
	h->n_chunk = c->n_chunk;
	snprintf(h->layout, sizeof h->layout, "%s", c->layout);
}

int checkpoint_put(const struct disk *d, int dir, uint64_t session, const struct checkpoint *c,
                   struct reason *why)
{
	char name[NAME_SIZE], temporary[NAME_SIZE];
	struct writer w = { .d = d };
	struct head h;
	int rc;

	file_name(name, session, "");
	file_name(temporary, session, ".tmp");
	head_fill(&h, session, c);
	w.buffer = aligned_alloc(BUFFER_ALIGN, BUFFER_SIZE);
	if (w.buffer == NULL)
		return ERROR(-ENOMEM);
	w.file = d->open(d->ctx, dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT);
	if (w.file < 0) {
		free(w.buffer);
		return disk_refused(why, "open", w.file);
	}
	rc = put_all(&w, &h, c);
	if (rc == 0)
		rc = d->sync(d->ctx, w.file);
	d->close(d->ctx, w.file);
	free(w.buffer);
	if (rc < 0) {
		d->unlink(d->ctx, dir, temporary);
		return disk_refused(why, "write", rc);
	}
	rc = d->rename(d->ctx, dir, temporary, name);
	if (rc == 0)
		rc = d->sync_dir(d->ctx, dir);
	return rc < 0 ? disk_refused(why, "rename", rc) : 0;
}

/* ---- reading ---- */

static int bad(struct reason *why, uint64_t session, const char *what)
{
	return refuse(why, "bad_checkpoint", "checkpoint of session %" PRIu64 ": %s", session, what);
}

static int head_check(const struct head *h, uint64_t session, uint64_t size, struct reason *why)
{
	uint64_t rest = size - sizeof *h - sizeof(uint64_t);

	if (memcmp(h->magic, MAGIC, sizeof h->magic) != 0)
		return bad(why, session, "not a checkpoint");
	if (h->version != VERSION)
		return refuse(why, "bad_checkpoint", "checkpoint of session %" PRIu64 ": version %u, this is %d",
		              session, h->version, VERSION);
	if (h->n_head != sizeof *h || h->zero != 0)
		return bad(why, session, "a header of another size");
	if (h->session != session)
		return bad(why, session, "it is another session's");
	if (memchr(h->layout, '\0', sizeof h->layout) == NULL)
		return bad(why, session, "its layout has no end");
	if (h->start > h->n_computed)
		return bad(why, session, "it starts after its end");
	if (h->n_kv > rest || h->n_logits > (rest - h->n_kv) / sizeof(float) ||
	    h->n_kv + h->n_logits * sizeof(float) != rest)
		return bad(why, session, "cut short, or of another size than it says");
	return 0;
}

/* Allocates n bytes and reads them; what a file sizes may fail. */
static int get(const struct disk *d, int file, void **out, uint64_t n, uint64_t at, XXH3_state_t *sum)
{
	int rc;

	*out = malloc(n > 0 ? n : 1);
	if (*out == NULL)
		return -ENOMEM;
	rc = d->read(d->ctx, file, *out, n, at);
	if (rc == 0 && n > 0)
		XXH3_64bits_update(sum, *out, n);
	return rc;
}

static int read_body(const struct disk *d, int file, const struct head *h, struct checkpoint *c,
                     bool *sound)
{
	uint64_t at = sizeof *h, want;
	XXH3_state_t sum;
	int rc;

	XXH3_64bits_reset(&sum);
	XXH3_64bits_update(&sum, h, sizeof *h);
	rc = get(d, file, &c->kv, h->n_kv, at, &sum);
	at += h->n_kv;
	if (rc == 0 && h->n_logits > 0) {
		rc = get(d, file, (void **)&c->logits, h->n_logits * sizeof(float), at, &sum);
		at += h->n_logits * sizeof(float);
	}
	if (rc == 0)
		rc = d->read(d->ctx, file, &want, sizeof want, at);
	*sound = rc == 0 && want == XXH3_64bits_digest(&sum);
	return rc;
}

static void head_give(const struct head *h, struct checkpoint *c)
{
	c->fingerprint = h->fingerprint;
	memcpy(c->layout, h->layout, sizeof c->layout);
	c->window.n_sink = h->n_sink;
	c->window.n_recent = h->n_recent;
	c->n_chunk = h->n_chunk;
	c->n_computed = h->n_computed;
	c->start = h->start;
	c->chain = h->chain;
	c->n_kv = h->n_kv;
	c->n_logits = h->n_logits;
}

int checkpoint_get(const struct disk *d, int dir, uint64_t session, struct checkpoint **out,
                   struct reason *why)
{
	struct checkpoint *c = NULL;
	bool sound = false;
	char name[NAME_SIZE];
	struct head h;
	uint64_t size;
	int file, rc;

	*out = NULL;
	file_name(name, session, "");
	file = d->open(d->ctx, dir, name, O_RDONLY);
	if (file == -ENOENT)
		return STORE_NONE;
	if (file < 0)
		return bad(why, session, strerror(-file));
	rc = d->size(d->ctx, file, &size);
	if (rc == 0 && size < sizeof h + sizeof(uint64_t))
		rc = -ENODATA;
	if (rc == 0)
		rc = d->read(d->ctx, file, &h, sizeof h, 0);
	if (rc < 0) {
		rc = bad(why, session, rc == -ENODATA ? "cut short" : strerror(-rc));
		goto out;
	}
	rc = head_check(&h, session, size, why);
	if (rc != 0)
		goto out;
	c = calloc(1, sizeof *c);
	if (c == NULL) {
		rc = ERROR(-ENOMEM);
		goto out;
	}
	rc = read_body(d, file, &h, c, &sound);
	if (rc == -ENOMEM)
		rc = refuse(why, "memory", "no memory for the checkpoint of session %" PRIu64, session);
	else if (rc < 0)
		rc = bad(why, session, strerror(-rc));
	else if (!sound)
		rc = bad(why, session, "its sum is wrong");
	if (rc != 0)
		goto out;
	head_give(&h, c);
	*out = c;
	c = NULL;
out:
	d->close(d->ctx, file);
	checkpoint_free(c);
	return rc;
}

/* ---- removing ---- */

static int overwrite(const struct disk *d, int file)
{
	static const char zero[1 << 16];
	uint64_t size, at;
	int rc = d->size(d->ctx, file, &size);

	for (at = 0; rc == 0 && at < size; at += sizeof zero)
		rc = d->write(d->ctx, file, zero, size - at < sizeof zero ? size - at : sizeof zero, at);
	return rc == 0 ? d->sync(d->ctx, file) : rc;
}

static int wipe(const struct disk *d, int dir, const char *name)
{
	int file = d->open(d->ctx, dir, name, O_WRONLY), rc;

	if (file == -ENOENT)
		return 0;
	if (file >= 0) {
		rc = overwrite(d, file);
		d->close(d->ctx, file);
		if (rc < 0)
			log_warning("%s could not be overwritten: %s", name, strerror(-rc));
	}
	rc = d->unlink(d->ctx, dir, name);
	return rc == 0 ? d->sync_dir(d->ctx, dir) : rc;
}

int checkpoint_drop(const struct disk *d, int dir, uint64_t session, struct reason *why)
{
	char name[NAME_SIZE];
	int rc;

	file_name(name, session, "");
	rc = wipe(d, dir, name);
	return rc < 0 ? disk_refused(why, "remove", rc) : 0;
}

struct sweep {
	bool (*known)(void *ctx, uint64_t session);
	void *ctx;
	char (*names)[NAME_SIZE];
	size_t n, room;
};

/* Only names of our own spelling are touched. */
static void sweep_each(void *arg, const char *name)
{
	char own[NAME_SIZE], own_temporary[NAME_SIZE];
	struct sweep *s = arg;
	uint64_t session = strtoull(name, NULL, 10);
	bool temporary;

	file_name(own, session, "");
	file_name(own_temporary, session, ".tmp");
	temporary = strcmp(name, own_temporary) == 0;
	if (!temporary && (strcmp(name, own) != 0 || s->known(s->ctx, session)))
		return;
	if (s->n == s->room) {
		s->room = s->room ? 2 * s->room : 16;
		s->names = realloc(s->names, s->room * sizeof *s->names);
		if (s->names == NULL)
			abort();
	}
	memcpy(s->names[s->n++], temporary ? own_temporary : own, NAME_SIZE);
}

void checkpoint_sweep(const struct disk *d, int dir, bool (*known)(void *ctx, uint64_t session), void *ctx)
{
	struct sweep s = { .known = known, .ctx = ctx };
	size_t i;
	int rc;

	rc = d->list(d->ctx, dir, sweep_each, &s);
	for (i = 0; rc == 0 && i < s.n; i++) {
		log_info("checkpoint/%s is left over, removed", s.names[i]);
		rc = wipe(d, dir, s.names[i]);
	}
	if (rc < 0)
		log_warning("left-over checkpoints: %s", strerror(-rc));
	free(s.names);
}
