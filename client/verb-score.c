/*
 * score: how likely the model finds a text; always JSON.
 */
#include <stdio.h>
#include <stdlib.h>

#include "client/client.h"

const struct option options_score[] = {
	{ "--sinks", "N", "sinks", OPTION_UINT, "attention sinks; 0: plain window attention" },
	{ "--window", "N", "window", OPTION_UINT, "recent window, tokens" },
	{ "--chunk", "N", "chunk", OPTION_UINT, "most tokens of a forward pass" },
	{ "--from", "T", "from", OPTION_UINT, "the first token that is scored; default 1, the second of the text" },
	{ "--per-token", NULL, "per_token", OPTION_FLAG, "add per_token, the list of each scored token's nll" },
	{ "--exact", NULL, "exact", OPTION_FLAG, "weights dequantized, activations in float32" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};

int verb_score(struct client *c)
{
	struct sink_answer a = { 0 };
	struct params p;
	char *text = NULL;
	size_t n = 0;
	int rc;

	params_init(&p);
	rc = link_open(c);
	if (rc == 0)
		rc = text_gather(c, 0, TEXT_MOST, &text, &n);
	if (rc == 0)
		rc = params_options(&p, c);
	if (rc == 0) {
		params_text(&p, "text", text, n);
		rc = link_call(c, "score", &p, &a);
	}
	if (rc == 0)
		json_line(&a.result);
	sink_answer_free(&a);
	params_free(&p);
	free(text);
	return rc;
}
