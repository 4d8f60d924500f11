/* Rows of the tables sessions and queue: the little that can be said about them
 * without a database. */
#include "daemon/session/row.h"

#include <stdlib.h>

const char *const share_names[N_SHARE] = { "none", "group-read", "group-write" };

void settings_merge(struct settings *to, const struct settings *from, unsigned given)
{
	const struct sampling *s = &from->sampling;

	if (given & GIVEN_TEMPERATURE)
		to->sampling.temperature = s->temperature;
	if (given & GIVEN_TOP_K)
		to->sampling.top_k = s->top_k;
	if (given & GIVEN_TOP_P)
		to->sampling.top_p = s->top_p;
	if (given & GIVEN_MIN_P)
		to->sampling.min_p = s->min_p;
	if (given & GIVEN_REPEAT_PENALTY)
		to->sampling.repeat_penalty = s->repeat_penalty;
	if (given & GIVEN_SEED)
		to->sampling.seed = s->seed;
	if (given & GIVEN_STOP)
		to->stops = from->stops;
	if (given & GIVEN_MAX_TOKENS)
		to->max_tokens = from->max_tokens;
}

void order_free(struct order *o)
{
	if (o == NULL)
		return;
	free(o->payload);
	free(o);
}
