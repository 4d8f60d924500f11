/* The budget: what fits, what does not, sums that do not wrap, and the line for people. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/session/budget.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static const struct config_amount usual = { .percent = 90 };

static struct budget of(uint64_t weights, uint64_t work, uint64_t slot, uint32_t n, uint64_t free)
{
	return (struct budget){ .weights = weights, .work = work, .slot = slot, .n_slot = n, .free = free, .total = free };
}

static void fits(void **state)
{
	struct budget b = of(60, 10, 10, 64, 100);

	(void)state;
	assert_int_equal(budget_fit(&b, usual, NULL), 0);
	assert_int_equal(b.limit, 90);
	assert_int_equal(b.n_slot, 2);         /* 60 + 10 + 2 * 10: to the byte */
	assert_int_equal(budget_bytes(&b), 90);
	b = of(60, 11, 10, 64, 100);
	assert_int_equal(budget_fit(&b, usual, NULL), 0);
	assert_int_equal(b.n_slot, 1);
	b = of(60, 10, 10, 1, 1000);           /* as many as were asked for */
	assert_int_equal(budget_fit(&b, usual, NULL), 0);
	assert_int_equal(b.n_slot, 1);
	b = of(60, 10, 10, 64, 1000);
	assert_int_equal(budget_fit(&b, (struct config_amount){ .bytes = 100 }, NULL), 0);
	assert_int_equal(b.n_slot, 3);
	b = of(60, 10, 10, 64, 100);           /* more than there is */
	assert_int_equal(budget_fit(&b, (struct config_amount){ .bytes = 5000 }, NULL), 0);
	assert_int_equal(b.limit, 100);
	assert_int_equal(b.n_slot, 3);
}

static void does_not_fit(void **state)
{
	const struct { uint64_t weights, work, slot; } bad[] = {
		{ 60, 21, 10 }, { 90, 0, 1 }, { 91, 0, 1 }, { UINT64_MAX, 1, 1 }, { 1, UINT64_MAX, 1 },
		{ 1, 1, UINT64_MAX }, { UINT64_MAX, UINT64_MAX, UINT64_MAX },
	};
	struct reason why;
	struct budget b;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		b = of(bad[i].weights, bad[i].work, bad[i].slot, 64, 100);
		assert_int_equal(budget_fit(&b, usual, &why), REFUSED);
		assert_string_equal(why.name, "memory");
	}
	b = of(5 * GIB, 200 * MIB, 260 * MIB, 64, 4 * GIB);
	assert_int_equal(budget_fit(&b, usual, &why), REFUSED);
	assert_non_null(strstr(why.text, "5.2 GiB and a session 260 MiB"));
	assert_non_null(strstr(why.text, "4.0 GiB are free, 3.6 GiB may be taken"));
	b = of(UINT64_MAX, 1, UINT64_MAX, 64, 0);
	assert_int_equal(budget_bytes(&b), UINT64_MAX);
}

static void the_line(void **state)
{
	struct budget b = of(4 * GIB + 400 * MIB, 200 * MIB, 260 * MIB, 12, 80 * GIB);
	char text[160];

	(void)state;
	budget_text(&b, text, sizeof text);
	assert_string_equal(text, "weights 4.4 GiB, work 200 MiB, 12 slots of 260 MiB; 7.6 GiB of 80.0 GiB");
	b.total = 0;
	b.slot = 812 * 1024;
	budget_text(&b, text, sizeof text);
	assert_string_equal(text, "weights 4.4 GiB, 12 slots of up to 812 KiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fits), cmocka_unit_test(does_not_fit), cmocka_unit_test(the_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
