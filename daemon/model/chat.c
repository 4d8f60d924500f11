/*
 * Chat formats: the table, how a row is recognised, and the walk from turn to turn.
 *
 * The one hard idea: a format is spellings, not a program.  The Jinja of a template
 * is read for marks and for one literal (the system text of models that always
 * have one), never run; fed turn by turn the tokens are those of the rendered
 * template, because what closes a turn and what opens the next are tokenized as one
 * text, and a space at its end waits for the text that it belongs to.
 *
 * It must not parse users' text for special tokens, nor add BOS.
 */
#include "daemon/model/chat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const role_names[N_ROLE] = { "raw", "system", "user", "assistant", "tool" };

#define PREAMBLE_MAX 4096

#define SYSTEM [ROLE_SYSTEM]
#define USER [ROLE_USER]
#define ASSISTANT [ROLE_ASSISTANT]
#define TOOL [ROLE_TOOL]

/* The first row all of whose marks occur wins, so the more particular ones come first. */
static const struct chat_format formats[] = {
	{
		.name = "phi-4", .marks = { "<|im_start|>", "<|im_sep|>" }, .end = "<|im_end|>",
		.turns = { SYSTEM = { "<|im_start|>system<|im_sep|>", "<|im_end|>" },
		           USER = { "<|im_start|>user<|im_sep|>", "<|im_end|>" },
		           ASSISTANT = { "<|im_start|>assistant<|im_sep|>", "<|im_end|>" } },
	}, {
		.name = "chatml", .marks = { "<|im_start|>" }, .end = "<|im_end|>",
		.turns = { SYSTEM = { "<|im_start|>system\n", "<|im_end|>\n" },
		           USER = { "<|im_start|>user\n", "<|im_end|>\n" },
		           ASSISTANT = { "<|im_start|>assistant\n", "<|im_end|>\n" },
		           TOOL = { "<|im_start|>tool\n", "<|im_end|>\n" } },
	}, {
		.name = "llama-3", .marks = { "<|start_header_id|>" }, .end = "<|eot_id|>",
		.turns = { SYSTEM = { "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>" },
		           USER = { "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>" },
		           ASSISTANT = { "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>" },
		           TOOL = { "<|start_header_id|>ipython<|end_header_id|>\n\n", "<|eot_id|>" } },
	}, {
		.name = "llama-4", .marks = { "<|header_start|>" }, .end = "<|eot|>",
		.turns = { SYSTEM = { "<|header_start|>system<|header_end|>\n\n", "<|eot|>" },
		           USER = { "<|header_start|>user<|header_end|>\n\n", "<|eot|>" },
		           ASSISTANT = { "<|header_start|>assistant<|header_end|>\n\n", "<|eot|>" },
		           TOOL = { "<|header_start|>ipython<|header_end|>\n\n", "<|eot|>" } },
	}, {
		.name = "gemma", .marks = { "<start_of_turn>" }, .end = "<end_of_turn>", .system_in_user = true,
		.turns = { SYSTEM = { "<start_of_turn>user\n", "\n\n" },
		           USER = { "<start_of_turn>user\n", "<end_of_turn>\n" },
		           ASSISTANT = { "<start_of_turn>model\n", "<end_of_turn>\n" } },
	}, {
		.name = "mistral-v7", .marks = { "[INST]", "[SYSTEM_PROMPT] " },
		.turns = { SYSTEM = { "[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]" }, USER = { "[INST] ", "[/INST]" },
		           ASSISTANT = { " ", CHAT_EOS } },
	}, {
		.name = "mistral-v7-tekken", .marks = { "[INST]", "[SYSTEM_PROMPT]" },
		.turns = { SYSTEM = { "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]" }, USER = { "[INST]", "[/INST]" },
		           ASSISTANT = { "", CHAT_EOS } },
	}, {
		.name = "mistral-v3-tekken", .marks = { "\"[INST]\"", "[AVAILABLE_TOOLS]" }, .system_in_user = true,
		.turns = { SYSTEM = { "[INST]", "\n\n" }, USER = { "[INST]", "[/INST]" }, ASSISTANT = { "", CHAT_EOS } },
	}, {
		.name = "mistral-v3", .marks = { "[INST]", "[AVAILABLE_TOOLS]" }, .system_in_user = true,
		.turns = { SYSTEM = { "[INST] ", "\n\n" }, USER = { "[INST] ", "[/INST]" }, ASSISTANT = { " ", CHAT_EOS } },
	}, {
		.name = "llama-2", .marks = { "[INST]", "<<SYS>>" }, .system_in_user = true,
		.turns = { SYSTEM = { "[INST] <<SYS>>\n", "\n<</SYS>>\n\n" }, USER = { "[INST] ", " [/INST]" },
		           ASSISTANT = { " ", " " CHAT_EOS } },
	}, {
		.name = "mistral-v1", .marks = { " [INST] " }, .system_in_user = true,
		.turns = { SYSTEM = { " [INST] ", "\n\n" }, USER = { " [INST] ", " [/INST]" },
		           ASSISTANT = { " ", CHAT_EOS } },
	}, {
		.name = "mistral", .marks = { "[INST]" }, .system_in_user = true,
		.turns = { SYSTEM = { "[INST] ", "\n\n" }, USER = { "[INST] ", " [/INST]" },
		           ASSISTANT = { " ", CHAT_EOS } },
	}, {
		.name = "phi-3", .marks = { "<|user|>", "<|end|>" }, .end = "<|end|>",
		.turns = { SYSTEM = { "<|system|>\n", "<|end|>\n" }, USER = { "<|user|>\n", "<|end|>\n" },
		           ASSISTANT = { "<|assistant|>\n", "<|end|>\n" } },
	}, {
		.name = "tulu", .marks = { "<|user|>", "<|assistant|>", "not loop.last" },       /* OLMo 2, too: zephyr's with one EOS */
		.turns = { SYSTEM = { "<|system|>\n", "\n" }, USER = { "<|user|>\n", "\n" },
		           ASSISTANT = { "<|assistant|>\n", CHAT_EOS "\n" } },
	}, {
		.name = "zephyr", .marks = { "<|user|>", "<|assistant|>" },
		.turns = { SYSTEM = { "<|system|>\n", CHAT_EOS "\n" }, USER = { "<|user|>\n", CHAT_EOS "\n" },
		           ASSISTANT = { "<|assistant|>\n", CHAT_EOS "\n" } },
	}, {
		.name = "command-r", .marks = { "<|START_OF_TURN_TOKEN|>" }, .end = "<|END_OF_TURN_TOKEN|>",
		.turns = { SYSTEM = { "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>" },
		           USER = { "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>" },
		           ASSISTANT = { "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>" } },
	}, {
		.name = "granite", .marks = { "<|start_of_role|>" }, .end = "<|end_of_text|>",
		.turns = { SYSTEM = { "<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n" },
		           USER = { "<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n" },
		           ASSISTANT = { "<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n" },
		           TOOL = { "<|start_of_role|>tool<|end_of_role|>", "<|end_of_text|>\n" } },
	}, {
		.name = "deepseek", .marks = { "<｜User｜>", "<｜Assistant｜>" },
		.turns = { SYSTEM = { "", "" }, USER = { "<｜User｜>", "" }, ASSISTANT = { "<｜Assistant｜>", CHAT_EOS } },
	}, {
		/* The template's own system text has no turn that it would open, and is left out. */
		.name = "deepseek-coder", .marks = { "### Instruction:", "<|EOT|>" }, .end = "<|EOT|>",
		.turns = { SYSTEM = { "", "" }, USER = { "### Instruction:\n", "\n" },
		           ASSISTANT = { "### Response:\n", "\n<|EOT|>\n" } },
	}, {
		.name = "alpaca", .marks = { "### Instruction:" },
		.turns = { SYSTEM = { "", "\n\n" }, USER = { "### Instruction:\n", "\n\n" },
		           ASSISTANT = { "### Response:\n", CHAT_EOS "\n\n" } },
	}, {
		.name = "vicuna", .marks = { "USER:", "ASSISTANT:" },
		.turns = { SYSTEM = { "", "\n\n" }, USER = { "USER: ", "\n" }, ASSISTANT = { "ASSISTANT: ", CHAT_EOS "\n" } },
	},
};

enum { N_FORMAT = sizeof formats / sizeof formats[0] };

const struct chat_format *chat_at(size_t i)
{
	return i < N_FORMAT ? &formats[i] : NULL;
}

const struct chat_format *chat_find(const char *name)
{
	for (size_t i = 0; i < N_FORMAT; i++)
		if (strcmp(formats[i].name, name) == 0)
			return &formats[i];
	return NULL;
}

/* ---- recognising ---- */

static bool has_marks(const struct chat_format *f, struct gguf_str s)
{
	for (size_t i = 0; i < 4 && f->marks[i]; i++)
		if (!memmem(s.data, s.n, f->marks[i], strlen(f->marks[i])))
			return false;
	return true;
}

/* A Jinja literal's text from p until stop, which must come before the closing
 * quote; its length, or -1. */
static long literal_read(const char *p, const char *end, char quote, const char *stop, char *dst)
{
	size_t n_stop = strlen(stop);
	long n = 0;

	for (; p < end && n < PREAMBLE_MAX && *p != quote && *p != '{' && *p != '}'; p++) {
		if ((size_t)(end - p) >= n_stop && memcmp(p, stop, n_stop) == 0)
			return n;
		if (*p == '\\' && p + 1 < end) {
			p++;
			dst[n++] = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
		} else {
			dst[n++] = *p;
		}
	}
	return -1;
}

/* Skips text where s continues with it, newlines spelled as such or as \n. */
static const char *literal_skip(const char *p, const char *end, const char *text)
{
	for (; *text; text++) {
		if (*text == '\n' && end - p >= 2 && p[0] == '\\' && p[1] == 'n')
			p += 2;
		else if (p < end && *p == *text)
			p++;
		else
			return NULL;
	}
	return p;
}

/* The system text that the template has for conversations without one: a literal
 * that opens with the system turn's opening and holds all of the turn. */
static long preamble_find(const struct chat_format *f, struct gguf_str s, char *dst)
{
	const struct chat_turn *turn = &f->turns[ROLE_SYSTEM];
	const char *end = s.data + s.n, *p;
	char stop[64];
	long n;

	if (!turn->open || !*turn->open || f->system_in_user || strlen(turn->close) >= sizeof stop || *turn->close <= ' ')
		return -1;
	strcpy(stop, turn->close);
	stop[strcspn(stop, "\n")] = 0;
	for (const char *at = s.data; at < end; at++) {
		if (*at != '\'' && *at != '"')
			continue;
		p = literal_skip(at + 1, end, turn->open);
		n = p ? literal_read(p, end, *at, stop, dst) : -1;
		if (n > 0)
			return n;
	}
	return -1;
}

const struct chat_format *chat_recognise(const struct gguf *g, const struct tokenizer *t, struct reason *why)
{
	struct gguf_str s;
	struct { struct chat_format f; char preamble[]; } *copy;
	size_t i = 0;
	long n;

	(void)t;
	if (!gguf_string(g, "tokenizer.chat_template", &s)) {
		refuse(why, "unsupported", "the model has no chat template");
		return NULL;
	}
	while (i < N_FORMAT && !has_marks(&formats[i], s))
		i++;
	if (i == N_FORMAT) {
		refuse(why, "unsupported", "the model's chat template is of no known format");
		return NULL;
	}
	copy = malloc(sizeof *copy + s.n + 1);
	if (!copy) {
		refuse(why, "memory", "no memory for the chat template");
		return NULL;
	}
	copy->f = formats[i];
	n = preamble_find(&formats[i], s, copy->preamble);
	if (n > 0) {
		copy->preamble[n] = 0;
		copy->f.preamble = copy->preamble;
	}
	return &copy->f;
}

void chat_free(const struct chat_format *f)
{
	free((void *)(uintptr_t)f);
}

/* ---- from turn to turn ---- */

struct spelling {
	char *data;
	size_t n, room;
};

static int spell_bytes(struct spelling *s, const char *text, size_t n)
{
	if (n == 0)
		return 0;
	if (s->room - s->n < n) {
		size_t room = 2 * s->room + n + 128;
		char *data = realloc(s->data, room);

		if (!data)
			return ERROR(-ENOMEM);
		s->data = data;
		s->room = room;
	}
	memcpy(s->data + s->n, text, n);
	s->n += n;
	return 0;
}

/* Appends text, with the model's own spelling for CHAT_EOS. */
static int spell(struct spelling *s, const struct tokenizer *t, const char *text)
{
	struct gguf_str eos = tokenizer_piece(t, tokenizer_eos(t), true);
	size_t n;
	int rc;

	do {
		n = strcspn(text, CHAT_EOS);
		rc = spell_bytes(s, text, n);
		text += n;
		if (!rc && *text) {
			rc = spell_bytes(s, eos.data, eos.n);
			text++;
		}
	} while (!rc && *text);
	return rc;
}

void chat_tokens(const struct tokenizer *t, struct chat_state *s, const int32_t *ids, size_t n)
{
	if (n == 0)
		return;
	if (n > 1 || ids[0] != tokenizer_bos(t))
		s->started = 1;    /* BOS alone comes before the first turn */
	s->space = 0;
	s->special = tokenizer_is_special(t, ids[n - 1]);
}

/* Tokenizes where the timeline stands, with the space that waits. */
static int feed(const struct tokenizer *t, struct chat_state *s, const char *text, size_t n, unsigned flags,
                struct ids *out)
{
	size_t before = out->n;
	char *joined = NULL;
	int rc;

	if (n == 0)
		return 0;
	if (!s->started || s->special)
		flags |= TOKENIZE_START;
	if (s->space) {
		joined = malloc(n + 1);
		if (!joined)
			return ERROR(-ENOMEM);
		joined[0] = ' ';
		memcpy(joined + 1, text, n);
		rc = tokenizer_encode(t, joined, n + 1, flags, out);
		free(joined);
	} else {
		rc = tokenizer_encode(t, text, n, flags, out);
	}
	if (!rc && out->n > before)
		chat_tokens(t, s, out->data + before, out->n - before);
	return rc;
}

/* Template text: its last space stays behind. */
static int feed_template(const struct tokenizer *t, struct chat_state *s, struct spelling *p, struct ids *out)
{
	bool space = p->n && p->data[p->n - 1] == ' ';
	int rc = feed(t, s, p->data, p->n - space, TOKENIZE_SPECIAL, out);

	if (!rc && space)
		s->space = 1;
	return rc;
}

/* What leads from the open turn to one of role (ROLE_RAW: to none). */
static int spell_way(const struct chat_format *f, const struct tokenizer *t, const struct chat_state *s, enum role role,
                     struct spelling *p)
{
	enum role open = s->open ? (enum role)(s->open - 1) : ROLE_RAW;
	int rc = 0;

	if (!s->started && f->preamble && role != ROLE_SYSTEM && role != ROLE_RAW) {
		rc = spell(p, t, f->turns[ROLE_SYSTEM].open);
		if (!rc)
			rc = spell(p, t, f->preamble);
		open = ROLE_SYSTEM;
	}
	if (!rc && open != ROLE_RAW)
		rc = spell(p, t, f->turns[open].close);
	if (!rc && open == ROLE_SYSTEM && f->system_in_user) {
		if (role == ROLE_USER)
			return 0;  /* that turn is open already */
		rc = spell(p, t, f->turns[ROLE_USER].close);
	}
	if (!rc && role != ROLE_RAW)
		rc = spell(p, t, f->turns[role].open);
	return rc;
}

int chat_enter(const struct chat_format *f, const struct tokenizer *t, struct chat_state *s,
               enum role role, struct ids *out, struct reason *why)
{
	struct spelling p = { 0 };
	int rc;

	if (role >= N_ROLE || (role != ROLE_RAW && !f->turns[role].open))
		return refuse(why, "role_unknown", "the chat format %s has no role %s", f->name,
		              role < N_ROLE ? role_names[role] : "of that number");
	if (s->open == (role == ROLE_RAW ? 0 : role + 1))
		return 0;
	rc = spell_way(f, t, s, role, &p);
	if (!rc)
		rc = feed_template(t, s, &p, out);
	free(p.data);
	if (rc)
		return rc;
	s->open = role == ROLE_RAW ? 0 : (uint8_t)(role + 1);
	s->started = 1;
	return 0;
}

int chat_text(const struct chat_format *f, const struct tokenizer *t, struct chat_state *s,
              const char *text, size_t n, struct ids *out)
{
	(void)f;
	return feed(t, s, text, n, 0, out);
}

int chat_close(const struct chat_format *f, const struct tokenizer *t, struct chat_state *s,
               bool ended, struct ids *out)
{
	const char *end = f->end ? f->end : CHAT_EOS, *close;
	struct spelling p = { 0 };
	struct ids ids = { 0 };
	size_t skip;
	int rc;

	if (!s->open)
		return 0;
	if (!ended)
		return chat_enter(f, t, s, s->open == ROLE_SYSTEM + 1 && f->system_in_user ? ROLE_USER : ROLE_RAW, out, NULL);
	/* What follows the end token is tokenized behind it, as in the template. */
	close = strstr(f->turns[s->open - 1].close, end);
	s->open = 0;
	s->space = 0;
	s->special = 1;
	rc = spell(&p, t, close ? close : "");
	if (!rc)
		rc = feed_template(t, s, &p, &ids);
	skip = ids.n && tokenizer_is_end(t, ids.data[0]);
	if (!rc)
		ids_append(out, ids.data + skip, ids.n - skip);
	ids_free(&ids);
	free(p.data);
	return rc;
}
