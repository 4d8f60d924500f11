/*
 * `sinkd --gguf FILE`: what is in a file, and would it load.  Loads no weights; the
 * answer comes from the same plan that model_open follows.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/model/chat.h"
#include "daemon/model/model.h"
#include "daemon/model/plan.h"
#include "daemon/model/tokenizer.h"

#define FORMATS_SHOWN 32

static void keys_print(FILE *f, const struct gguf *g)
{
	struct gguf_str key;
	char name[80], value[100];
	size_t i;

	fprintf(f, "keys\n");
	for (i = 0; gguf_key_at(g, i, &key, value, sizeof value); i++) {
		gguf_print(key, name, sizeof name);
		fprintf(f, "  %-44s %s\n", name, value);
	}
}

/* One line a format: how many tensors, how many bytes. */
static void formats_print(FILE *f, const struct gguf *g)
{
	struct { uint32_t type; size_t n; uint64_t n_byte; } kinds[FORMATS_SHOWN];
	const struct gguf_tensor *t;
	size_t i, k, n = 0;
	char buf[24];

	for (i = 0; (t = gguf_tensor_at(g, i)); i++) {
		for (k = 0; k < n && kinds[k].type != t->type; k++)
			;
		if (k == FORMATS_SHOWN)
			continue;
		if (k == n) {
			kinds[n].type = t->type;
			kinds[n].n = 0;
			kinds[n++].n_byte = 0;
		}
		kinds[k].n++;
		kinds[k].n_byte += t->n_byte;
	}
	fprintf(f, "tensors\n");
	for (k = 0; k < n; k++)
		fprintf(f, "  %-8s %5zu tensors %14" PRIu64 " bytes\n", plan_format(kinds[k].type, buf), kinds[k].n, kinds[k].n_byte);
}

static void plan_print(FILE *f, const struct plan *p)
{
	const struct hparams *h = &p->h;

	fprintf(f, "model\n");
	fprintf(f, "  %-44s %s\n", "architecture", p->arch->name);
	fprintf(f, "  %-44s %" PRIu64 "\n", "parameters", p->n_param);
	fprintf(f, "  %-44s %" PRIu32 " x %" PRIu32 ", ffn %" PRIu32 "\n", "layers x width", h->n_layer, h->n_embd, h->n_ff);
	fprintf(f, "  %-44s %" PRIu32 " (%" PRIu32 " of keys), %" PRIu32 " wide\n", "heads", h->n_head, h->n_head_kv, h->head_dim);
	fprintf(f, "  %-44s %" PRIu32 "\n", "context", h->n_ctx);
	if (h->local)
		fprintf(f, "  %-44s %" PRIu32 ", one layer of %" PRIu32 " is global\n", "local window", h->local, h->local_period);
	if (h->n_expert)
		fprintf(f, "  %-44s %" PRIu32 ", %" PRIu32 " at a time, ffn %" PRIu32 "\n", "experts", h->n_expert,
		        h->n_expert_used, h->n_ff_expert);
	if (p->arch->rope == ROPE_NONE)
		fprintf(f, "  %-44s ALiBi\n", "positions");
	else
		fprintf(f, "  %-44s rope over %" PRIu32 " of %" PRIu32 ", base %g%s\n", "positions", h->n_rot, h->head_dim,
		        h->rope.base, h->rope.yarn ? ", YaRN" : h->rope.factor > 1 ? ", linear scaling" :
		        p->model[T_ROPE_FACTORS_LONG].of ? ", longrope" : p->model[T_ROPE_FREQS].of ? ", divisors" : "");
}

/* Tokenizer and chat format, as model_open would choose them. */
static int text_print(FILE *f, const struct gguf *g, const struct plan *p, struct reason *why)
{
	struct tokenizer *t = NULL;
	const struct chat_format *chat;
	struct reason none = { "", "" };
	int rc = tokenizer_open(&t, g, why);

	if (rc)
		return rc;
	chat = chat_recognise(g, t, &none);
	fprintf(f, "  %-44s %zu\n", "vocabulary", tokenizer_n_vocab(t));
	fprintf(f, "  %-44s %s%s%s\n", "chat format", chat ? chat->name : "none",
	        chat || !none.text[0] ? "" : ": ", chat ? "" : none.text);
	if (tokenizer_n_vocab(t) != p->h.n_vocab)
		rc = refuse(why, "bad_model", "the vocabulary has %zu tokens, the embedding %" PRIu32 " rows",
		            tokenizer_n_vocab(t), p->h.n_vocab);
	chat_free(chat);
	tokenizer_close(t);
	return rc;
}

static int file_print(FILE *f, const struct gguf *g, struct reason *why)
{
	struct plan p = { 0 };
	int rc;

	keys_print(f, g);
	formats_print(f, g);
	rc = plan_make(&p, g, why);
	if (!rc) {
		plan_print(f, &p);
		rc = text_print(f, g, &p, why);
	}
	plan_free(&p);
	return rc;
}

int model_inspect(const char *path, int fd, struct reason *why)
{
	struct reason own = { "", "" };
	struct gguf *g = NULL;
	FILE *f;
	int rc, own_fd = dup(fd);

	f = own_fd < 0 ? NULL : fdopen(own_fd, "w");
	if (!f) {
		rc = ERROR(-errno);
		if (own_fd >= 0)
			close(own_fd);
		return rc;
	}
	rc = gguf_open(&g, path, &own);
	if (!rc) {
		fprintf(f, "%s: %zu bytes, fingerprint %016" PRIx64 "\n", path, gguf_size(g), gguf_fingerprint(g));
		rc = file_print(f, g, &own);
	}
	if (rc)
		fprintf(f, "would not load: %s: %s\n", own.name, own.text);
	else
		fprintf(f, "would load\n");
	gguf_close(g);
	if (fclose(f) && !rc)
		rc = ERROR(-errno);
	if (why)
		*why = own;
	return rc;
}
