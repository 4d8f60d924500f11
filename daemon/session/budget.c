/* The budget: sums that cannot wrap, a division, and a line for people. */
#include "daemon/session/budget.h"

#include <stdio.h>

/* Numbers come from files: too large is as large as can be. */
static uint64_t sum(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t product(uint64_t a, uint64_t b)
{
	return b > 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

uint64_t budget_bytes(const struct budget *b)
{
	return sum(sum(b->weights, b->work), product(b->slot, b->n_slot));
}

/* Three digits or so: 812 KiB, 260 MiB, 4.4 GiB. */
static const char *size_text(uint64_t bytes, char out[24])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double x = (double)bytes;
	size_t i = 0;

	while (x >= 1000 && i + 1 < sizeof units / sizeof units[0]) {
		x /= 1024;
		i++;
	}
	snprintf(out, 24, i == 0 || x >= 99.95 ? "%.0f %s" : "%.1f %s", x, units[i]);
	return out;
}

int budget_fit(struct budget *b, struct config_amount amount, struct reason *why)
{
	uint64_t fixed = sum(b->weights, b->work), n;
	char need[24], slot[24], limit[24], free[24];

	b->limit = config_amount_of(amount, b->free);
	if (b->limit > b->free)
		b->limit = b->free;
	n = fixed < b->limit && b->slot > 0 ? (b->limit - fixed) / b->slot : 0;
	if (n == 0)
		return refuse(why, "memory", "the model needs %s and a session %s; of the device's memory %s are free, %s may be taken",
		              size_text(fixed, need), size_text(b->slot, slot), size_text(b->free, free),
		              size_text(b->limit, limit));
	if (n < b->n_slot)
		b->n_slot = (uint32_t)n;
	return 0;
}

void budget_text(const struct budget *b, char *out, size_t n)
{
	char weights[24], work[24], slot[24], all[24], total[24];

	if (b->total == 0)
		snprintf(out, n, "weights %s, %u slots of up to %s", size_text(b->weights, weights), b->n_slot,
		         size_text(b->slot, slot));
	else
		snprintf(out, n, "weights %s, work %s, %u slot%s of %s; %s of %s", size_text(b->weights, weights),
		         size_text(b->work, work), b->n_slot, b->n_slot == 1 ? "" : "s", size_text(b->slot, slot),
		         size_text(budget_bytes(b), all), size_text(b->total, total));
}
