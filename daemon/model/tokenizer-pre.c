/*
 * Pre-tokenizers: which expressions cut a text into the words that byte-level BPE
 * merges in, as a table of tokenizer.ggml.pre.
 *
 * The one hard idea: the expressions of a row are applied one after another, each
 * inside the pieces that the last one left, and what an expression does not match
 * is a piece as well.  So nothing is lost, whatever the expressions are.
 *
 * It must not fail on a text: where a match runs into a limit, the rest of the
 * piece is one word.
 *
 * Source: the expressions are those of the models' own tokenizer.json, under the
 * names that llama.cpp gave them (llama-vocab.cpp).  \s is Unicode's White_Space:
 * PCRE2's own has U+180E besides.
 */
#include "daemon/model/tokenizer-parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define WHITE "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define EXPRS_MAX 6
#define MATCH_LIMIT 20000000u
#define JIT_STACK (16u << 20)        /* reserved, not used, but for long pieces */

/* Pieces that many rows have. */
#define SUFFIX "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TAIL_SLASH "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LETTERS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define LLAMA3 SUFFIX "|" LETTERS "|\\p{N}{1,3}" TAIL
#define QWEN2 SUFFIX "|" LETTERS "|\\p{N}" TAIL
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(suffix) "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix
#define CJK "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define DEEPSEEK3 "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
                  "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define BLOOM " ?[^(\\s|.,!?…。，、।۔،)]+"

static const struct pre_row rows[] = {
	/* An unnamed pre-tokenizer is this one, as in llama.cpp: files from before 2024. */
	{ { "default" }, { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" }, false, false },
	{ { "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2" },
	  { "\\p{N}", GPT2 }, false, false },
	{ { "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0",
	    "mellum", "exaone4" }, { GPT2 }, false, false },
	{ { "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2" },
	  { LLAMA3 }, true, true },
	{ { "dbrx", "smaug-bpe", "glm4", "chatglm-bpe" }, { LLAMA3 }, false, false },
	{ { "qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "f2llmv2", "grok-2",
	    "solar-open" }, { QWEN2 }, false, false },
	{ { "qwen35" }, { SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"
	    "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" }, false, false },
	{ { "falcon" }, { "[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]" }, false, false },
	{ { "tekken" }, { CASED("") "|\\p{N}" TAIL_SLASH }, true, true },
	{ { "gpt-4o", "llama4", "kanana2", "minimax-m2" },
	  { CASED(SUFFIX "?") "|\\p{N}{1,3}" TAIL_SLASH }, false, false },
	{ { "deepseek-coder" },
	  { "[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\\x{4e00}-\\x{9fa5}\\x{0800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}" },
	  false, false },
	{ { "deepseek-v3", "hunyuan-dense", "joyai-llm" }, { "\\p{N}{1,3}", CJK, DEEPSEEK3 }, false, false },
	{ { "poro-chat", "bloom", "gpt3-finnish" }, { BLOOM }, false, false },
	{ { "viking" }, { BLOOM, "\\p{N}" }, false, false },
	{ { "bailingmoe", "bailingmoe2", "llada-moe" },
	  { "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|" LETTERS "|\\p{N}"
	    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+" }, false, false },
	{ { "jais-2" }, { SUFFIX "|" LETTERS "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)"
	    "|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}" },
	  false, false },
	{ { "minicpm5" }, { "\\p{N}{1,3}", SUFFIX "|" LETTERS "|\\p{N}+" TAIL }, true, false },
	{ { "ufakzeka" }, { LETTERS "|\\p{N}" TAIL }, false, false },
	{ { "laguna" }, { "[^\\n]+|[\\n]+", QWEN2 }, false, false },
	{ { "exaone-moe" }, { SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}"
	    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+" }, false, false },
	{ { "youtu" }, { "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" CJK, CASED(SUFFIX "?") "|\\p{N}" TAIL_SLASH }, true, false },
	{ { "chameleon" },
	  { "<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}", "[\\p{P}!-/:-@\\[-`{-~]", GPT2 }, false, true },
	{ { "seed-coder" },
	  { SUFFIX "|" LETTERS "|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" }, false, false },
};

enum { N_ROW = sizeof rows / sizeof rows[0], N_NAME = sizeof rows[0].names / sizeof rows[0].names[0] };

const struct pre_row *pre_find(struct gguf_str name)
{
	for (size_t i = 0; i < N_ROW; i++)
		for (size_t k = 0; k < N_NAME && rows[i].names[k]; k++)
			if (strlen(rows[i].names[k]) == name.n && memcmp(rows[i].names[k], name.data, name.n) == 0)
				return &rows[i];
	return NULL;
}

const char *tokenizer_pre_at(size_t i)
{
	for (size_t r = 0; r < N_ROW; r++)
		for (size_t k = 0; k < N_NAME && rows[r].names[k]; k++)
			if (i-- == 0)
				return rows[r].names[k];
	return NULL;
}

/* ---- expressions ---- */

struct pre {
	pcre2_code *codes[EXPRS_MAX];
	size_t n;
};

/* \s and \S spelled out.  dst has room for every letter to grow into a class. */
static void spaces_expand(const char *src, char *dst)
{
	bool in_class = false;
	int n;

	for (; *src; src += n) {
		n = *src == '\\' ? 2 : 1;
		if (n == 1)
			in_class = in_class ? *src != ']' : *src == '[';
		if (n == 2 && src[1] == 's')
			dst += sprintf(dst, in_class ? "%s" : "[%s]", WHITE);
		else if (n == 2 && src[1] == 'S')
			dst += sprintf(dst, "[^%s]", WHITE);
		else
			dst = (char *)memcpy(dst, src, (size_t)n) + n;
	}
	*dst = 0;
}

static int expr_compile(pcre2_code **out, const char *expr, struct reason *why)
{
	char *text = malloc(strlen(expr) * sizeof WHITE + sizeof WHITE);
	PCRE2_SIZE at;
	int error;

	if (!text)
		return ERROR(-ENOMEM);
	spaces_expand(expr, text);
	*out = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
	free(text);
	if (!*out)
		return refuse(why, "unsupported", "a pre-tokenizer expression does not compile here (PCRE2 error %d at %zu)",
		              error, (size_t)at);
	pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);   /* slower without, no different */
	return 0;
}

int pre_open(struct pre **out, const struct pre_row *row, struct reason *why)
{
	struct pre *p = calloc(1, sizeof *p);
	int rc = 0;

	*out = NULL;
	if (!p)
		return ERROR(-ENOMEM);
	for (size_t i = 0; !rc && i < EXPRS_MAX && row->exprs[i]; i++) {
		rc = expr_compile(&p->codes[i], row->exprs[i], why);
		p->n = i + 1;
	}
	if (rc) {
		pre_close(p);
		return rc;
	}
	*out = p;
	return 0;
}

void pre_close(struct pre *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n; i++)
		pcre2_code_free(p->codes[i]);
	free(p);
}

/* ---- splitting ---- */

struct split {
	const struct pre *p;
	pcre2_match_data *found[EXPRS_MAX];
	pcre2_match_context *limits;
	pcre2_jit_stack *stack;
	int (*word)(void *ctx, const char *text, size_t n);
	void *ctx;
};

static int split_at(struct split *s, size_t level, const char *text, size_t n)
{
	const PCRE2_SIZE *span;
	size_t at = 0;
	int rc = 0;

	if (n == 0)
		return 0;
	if (level == s->p->n)
		return s->word(s->ctx, text, n);
	span = pcre2_get_ovector_pointer(s->found[level]);
	while (!rc && at < n) {
		rc = pcre2_match(s->p->codes[level], (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
		                 s->found[level], s->limits);
		if (rc == PCRE2_ERROR_NOMEMORY)
			return ERROR(-ENOMEM);
		if (rc < 0)        /* no match, or a limit */
			return split_at(s, level + 1, text + at, n - at);
		rc = split_at(s, level + 1, text + at, span[0] - at);
		if (!rc)
			rc = split_at(s, level + 1, text + span[0], span[1] - span[0]);
		at = span[1];
	}
	return rc;
}

int pre_begin(struct split **out, const struct pre *p)
{
	struct split *s = calloc(1, sizeof *s);

	*out = NULL;
	if (!s)
		return ERROR(-ENOMEM);
	s->p = p;
	s->limits = pcre2_match_context_create(NULL);
	s->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK, NULL);
	if (!s->limits || !s->stack)
		goto no_memory;
	pcre2_jit_stack_assign(s->limits, NULL, s->stack);
	pcre2_set_match_limit(s->limits, MATCH_LIMIT);
	for (size_t i = 0; i < p->n; i++) {
		s->found[i] = pcre2_match_data_create(1, NULL);
		if (!s->found[i])
			goto no_memory;
	}
	*out = s;
	return 0;
no_memory:
	pre_end(s);
	return ERROR(-ENOMEM);
}

void pre_end(struct split *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->p->n; i++)
		pcre2_match_data_free(s->found[i]);
	pcre2_jit_stack_free(s->stack);
	pcre2_match_context_free(s->limits);
	free(s);
}

int pre_split(struct split *s, const char *text, size_t n, int (*word)(void *ctx, const char *text, size_t n), void *ctx)
{
	s->word = word;
	s->ctx = ctx;
	return split_at(s, 0, text, n);
}
