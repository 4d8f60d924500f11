/*
 * Vocabularies for tests: a tiny model's, with tokens and keys of the test's own.
 */
#ifndef TESTS_UNIT_VOCAB_MAKE_H
#define TESTS_UNIT_VOCAB_MAKE_H

#include "daemon/model/tokenizer.h"
#include "tests/unit/gguf-make.h"

struct vocab_change {
	const char *pre;               /* NULL: smollm */
	const char *name;              /* general.name; NULL: none */
	const char *chat;              /* tokenizer.chat_template; NULL: none */
	const char *eos;               /* spelling; NULL: the model's */
	bool space_prefix;
	const char *control[24];       /* tokens besides */
	const char *user[8];
};

/* From a whole GGUF file; the caller closes both, the tokenizer first. */
void vocab_make(struct gguf **g, struct tokenizer **t, const char *path, const struct vocab_change *c);
/* Of a file that is made: a list of strings, up to a NULL; n times one number.  NULL, or n < 0: no such key. */
void vocab_list(struct make *m, const char *key, const char *const *list);
void vocab_numbers(struct make *m, const char *key, uint32_t type, int n, uint32_t value);
/* A file of tests/data or tests/golden, wherever the test runs. */
const char *test_file(const char *path);

#endif
