#include "tests/unit/store-desk.h"

#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void desk_dir(struct desk *d)
{
	memset(d, 0, sizeof *d);
	snprintf(d->dir, sizeof d->dir, "/tmp/sinkd-store-XXXXXX");
	if (mkdtemp(d->dir) == NULL)
		abort();
}

int desk_open_only(struct desk *d)
{
	struct store_params p = { .dir = d->dir, .vfs = d->vfs, .disk = d->disk };
	int rc = store_open(&d->store, &p, &d->why);

	if (rc != 0)
		d->store = NULL;
	return rc;
}

int desk_open(struct desk *d)
{
	int rc = desk_open_only(d);

	if (rc != 0)
		return rc;
	if (mailbox_open(&d->box) != 0 || store_start(d->store) != 0)
		abort();
	return 0;
}

void desk_close(struct desk *d)
{
	store_close(d->store);
	mailbox_close(d->box);
	d->store = NULL;
	d->box = NULL;
}

static void remove_all(const char *dir)
{
	DIR *list = opendir(dir);
	struct dirent *e;
	char path[1024];

	while (list != NULL && (e = readdir(list)) != NULL) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
		if (unlink(path) < 0)
			remove_all(path);
	}
	if (list != NULL)
		closedir(list);
	rmdir(dir);
}

void desk_remove(struct desk *d)
{
	remove_all(d->dir);
}

void desk_post(struct desk *d, struct store_job *j)
{
	j->reply_to = d->box;
	store_post(d->store, j);
}

struct store_job *desk_wait(struct desk *d)
{
	static struct letter *kept;    /* taken with the one before */
	struct letter *l = kept;

	if (l == NULL)
		l = mailbox_wait(d->box, 60000);
	assert(l != NULL);
	kept = l->next;
	return (struct store_job *)l;
}

int desk_ask(struct desk *d, struct store_job *j)
{
	struct store_job *back;

	desk_post(d, j);
	back = desk_wait(d);
	assert(back == j);
	d->why = j->why;
	return j->rc;
}

int desk_sync(struct desk *d)
{
	struct store_job *j = store_job_new(STORE_SYNC, 0);
	int rc = desk_ask(d, j);

	store_job_free(j);
	return rc;
}

static void make_settings(struct settings *v)
{
	memset(v, 0, sizeof *v);
	v->sampling = (struct sampling){ 0.7f, 40, 0.95f, 0.05f, 1.1f, UINT64_MAX - 7 };
	v->stops.n = 3;
	v->stops.at[0].n = 4;
	memcpy(v->stops.at[0].data, "stop", 4);
	v->stops.at[1].n = STOP_BYTES;
	memset(v->stops.at[1].data, 0xff, STOP_BYTES);
	v->stops.at[2].n = 1;          /* a NUL */
	v->max_tokens = UINT32_MAX;
}

void make_row(struct session_row *r, const char *name)
{
	memset(r, 0, sizeof *r);
	r->uid = 4000000000u;
	r->gid = 100;
	snprintf(r->name, sizeof r->name, "%s", name);
	r->created = 1700000000000;
	r->used = 1700000000001;
	r->fingerprint = UINT64_C(0xfedcba9876543210);
	snprintf(r->model, sizeof r->model, "a model");
	r->window = (struct window){ 4, 2000 };
	r->raw = true;
	r->share = SHARE_GROUP_WRITE;
	make_settings(&r->settings);
	r->chat.open = 3;
	r->chat.started = 1;
	r->n_kill = 1;
}

uint64_t desk_session(struct desk *d, struct session_row *r, const char *name)
{
	struct store_job *j = store_job_new(STORE_SESSION_PUT, 0);
	int rc;

	make_row(r, name);
	j->row = *r;
	rc = desk_ask(d, j);
	r->id = rc == 0 ? j->row.id : 0;
	store_job_free(j);
	return r->id;
}

struct order *make_order(uint64_t session, const char *key, const char *payload)
{
	struct order *o = calloc(1, sizeof *o);

	o->session = session;
	o->kind = ORDER_SAY;
	o->role = ROLE_USER;
	o->given = GIVEN_TEMPERATURE | GIVEN_SEED;
	make_settings(&o->settings);
	if (key != NULL) {
		o->n_key = strlen(key);
		memcpy(o->key, key, o->n_key);
	}
	o->n_payload = strlen(payload);
	o->payload = strdup(payload);
	return o;
}

int32_t token_at(uint64_t position)
{
	return (int32_t)(position * 2654435761u % 50000);
}

void make_event(struct event *e, struct session_row *r, size_t n_ids, const char *text)
{
	size_t i;

	memset(e, 0, sizeof *e);
	e->session = r->id;
	e->seq = ++r->n_seq;
	e->time = 1700000000000 + (int64_t)e->seq;
	e->kind = EVENT_TEXT;
	e->role = ROLE_ASSISTANT;
	e->order = 7;
	e->position = r->n_token;
	e->n_prompt = 11;
	e->n_generated = 12;
	e->window_start = r->n_token > 2004 ? r->n_token - 2000 : 4;
	for (i = 0; i < n_ids; i++)
		ids_push(&e->ids, token_at(r->n_token++));
	e->n_text = strlen(text);
	e->text = strdup(text);
}

struct store_job *make_log(struct session_row *r, size_t n)
{
	struct store_job *j = store_job_new(STORE_LOG, r->id);
	char text[64];
	size_t i;

	j->events = calloc(n ? n : 1, sizeof *j->events);
	for (i = 0; i < n; i++) {
		snprintf(text, sizeof text, "entry %llu ", (unsigned long long)r->n_seq + 1);
		make_event(&j->events[i], r, (size_t)((r->n_seq + 1) % 4), text);
		j->n_event++;
	}
	j->row = *r;
	return j;
}
