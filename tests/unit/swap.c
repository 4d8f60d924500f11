/* Swap: what is kept, who goes first, what is held does not go, and no byte is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/session/swap.h"

struct pool {                  /* memory that is counted, and can run out */
	size_t n_byte, most;
	unsigned n_take, n_give;
};

static void *take(void *ctx, size_t n)
{
	struct pool *p = ctx;
	size_t *at;

	if (p->n_byte + n > p->most)
		return NULL;
	p->n_byte += n;
	p->n_take++;
	at = malloc(sizeof *at + n);
	assert_non_null(at);
	*at = n;
	return at + 1;
}

static void give(void *ctx, void *memory)
{
	struct pool *p = ctx;
	size_t *at = (size_t *)memory - 1;

	p->n_byte -= *at;
	p->n_give++;
	free(at);
}

static struct swap *open_swap(struct pool *p, uint64_t n_byte)
{
	const struct swap_memory m = { .take = take, .give = give, .ctx = p };
	struct swap *s;

	*p = (struct pool){ .most = 1 << 20 };
	assert_int_equal(swap_open(&s, n_byte, &m), 0);
	return s;
}

static void close_swap(struct swap *s, const struct pool *p)
{
	swap_close(s);
	assert_int_equal(p->n_byte, 0);
	assert_int_equal(p->n_take, p->n_give);
}

/* A session leaves: its copy has n bytes of its own number. */
static struct swap_copy *leave(struct swap *s, uint64_t session, size_t n)
{
	struct swap_copy *c = swap_new(s, session, n);

	assert_non_null(c);
	assert_int_equal(c->c.n_kv, n);
	assert_true(c->held);
	memset(c->c.kv, (int)session, n);
	swap_keep(s, c);
	return c;
}

static void left(struct swap *s, uint64_t session, size_t n)
{
	swap_release(s, leave(s, session, n));
}

static bool found(struct swap *s, uint64_t session, size_t n)
{
	struct swap_copy *c = swap_find(s, session);
	size_t i;

	if (c == NULL)
		return false;
	assert_int_equal(c->session, session);
	assert_int_equal(c->c.n_kv, n);
	for (i = 0; i < n; i++)
		assert_int_equal(((const char *)c->c.kv)[i], (char)session);
	return true;
}

static void oldest_first(void **state)
{
	struct pool p;
	struct swap *s = open_swap(&p, 300);
	uint64_t i;

	(void)state;
	for (i = 1; i <= 3; i++)
		left(s, i, 100);
	assert_int_equal(swap_bytes(s), 300);
	left(s, 4, 100);               /* in the memory of the first one */
	assert_int_equal(p.n_take, 3);
	assert_false(found(s, 1, 100));
	for (i = 2; i <= 4; i++)
		assert_true(found(s, i, 100));
	left(s, 2, 100);               /* again: the newest now */
	left(s, 5, 100);
	assert_false(found(s, 3, 100));
	assert_true(found(s, 2, 100) && found(s, 4, 100) && found(s, 5, 100));
	left(s, 6, 250);               /* the room of all of them */
	assert_true(found(s, 6, 250));
	assert_false(found(s, 5, 100) || found(s, 2, 100));
	assert_int_equal(swap_bytes(s), 250);
	assert_true(swap_bytes(s) <= 300);
	close_swap(s, &p);
}

static void bounds(void **state)
{
	struct pool p;
	struct swap *s = open_swap(&p, 100);
	struct swap_copy *c;

	(void)state;
	left(s, 1, 100);
	c = leave(s, 2, 101);          /* is written, and not kept; nobody goes for it */
	assert_false(c->kept);
	assert_true(found(s, 1, 100));
	assert_false(found(s, 2, 101));
	swap_release(s, c);
	assert_int_equal(p.n_byte, 100);
	close_swap(s, &p);

	s = open_swap(&p, 0);          /* only the disk */
	c = leave(s, 1, 10);
	assert_null(swap_find(s, 1));
	swap_release(s, c);
	assert_int_equal(p.n_byte, 0);
	close_swap(s, &p);
}

/* What a checkpoint is being written from stays, whoever needs room. */
static void held(void **state)
{
	struct pool p;
	struct swap *s = open_swap(&p, 200);
	struct swap_copy *a = leave(s, 1, 100), *b = leave(s, 2, 100), *c;

	(void)state;
	c = leave(s, 3, 100);
	assert_false(c->kept);
	assert_true(found(s, 1, 100) && found(s, 2, 100));
	swap_release(s, c);
	swap_spend(s, a);              /* it comes back before the disk has it */
	assert_null(swap_find(s, 1));
	c = leave(s, 1, 100);          /* and leaves again */
	assert_ptr_not_equal(c, a);
	assert_int_equal(((const char *)a->c.kv)[99], 1);
	swap_release(s, a);
	swap_release(s, b);
	swap_release(s, c);
	assert_true(found(s, 2, 100));
	close_swap(s, &p);
}

static void spent(void **state)
{
	struct pool p;
	struct swap *s = open_swap(&p, 1000);
	uint64_t i;

	(void)state;
	for (i = 1; i <= 50; i++) {    /* out and in: the same memory all the time */
		left(s, i, 100);
		assert_true(found(s, i, 100));
		swap_spend(s, swap_find(s, i));
		assert_null(swap_find(s, i));
	}
	assert_int_equal(p.n_take, 1);
	left(s, 1, 100);
	left(s, 2, 100);
	swap_spend(s, swap_find(s, 1));
	swap_spend(s, swap_find(s, 2));        /* one waits, no more */
	assert_int_equal(p.n_byte, 100);
	left(s, 3, 60);                /* of another size: it does not serve */
	assert_int_equal(p.n_byte, 160);
	close_swap(s, &p);
}

static void forgotten(void **state)
{
	struct pool p;
	struct swap *s = open_swap(&p, 1000);
	struct swap_copy *c;

	(void)state;
	left(s, 1, 100);
	swap_forget(s, 1);
	assert_int_equal(p.n_byte, 0);
	c = leave(s, 2, 100);
	swap_forget(s, 2);
	assert_null(swap_find(s, 2));
	assert_int_equal(p.n_byte, 100);       /* the store reads it still */
	swap_release(s, c);
	assert_int_equal(p.n_byte, 0);
	swap_forget(s, 3);
	close_swap(s, &p);
}

static void no_memory(void **state)
{
	struct pool p;
	struct swap *s = open_swap(&p, 1000);
	struct swap_copy *c;

	(void)state;
	p.most = 250;
	left(s, 1, 100);
	left(s, 2, 100);
	left(s, 3, 120);               /* 1 gives way to it */
	assert_false(found(s, 1, 100));
	assert_true(found(s, 2, 100) && found(s, 3, 120));
	c = swap_new(s, 4, 251);
	assert_null(c);
	assert_false(swap_shrink(s));
	assert_int_equal(p.n_byte, 0);
	close_swap(s, &p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(oldest_first), cmocka_unit_test(bounds), cmocka_unit_test(held),
		cmocka_unit_test(spent), cmocka_unit_test(forgotten), cmocka_unit_test(no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
