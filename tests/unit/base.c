/* daemon/base: mailboxes between threads keep order and lose nothing; values; reasons. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/error.h"
#include "daemon/base/mailbox.h"
#include "daemon/base/value.h"

enum { N_SENDER = 3, N_LETTER = 20000 };

struct note {
	struct letter letter;
	int sender, number;
};

struct sender {
	struct mailbox *box;
	int id;
};

static void *send_all(void *arg)
{
	struct sender *s = arg;

	for (int i = 0; i < N_LETTER; i++) {
		struct note *n = malloc(sizeof *n);

		n->sender = s->id;
		n->number = i;
		mailbox_post(s->box, &n->letter);
	}
	return NULL;
}

/* Every letter of every sender arrives once, each sender's in its own order. */
static void test_mailbox(void **state)
{
	pthread_t threads[N_SENDER];
	struct sender senders[N_SENDER];
	int next[N_SENDER] = { 0 };
	struct mailbox *box;
	int n = 0;

	(void)state;
	assert_int_equal(mailbox_open(&box), 0);
	for (int i = 0; i < N_SENDER; i++) {
		senders[i] = (struct sender){ box, i };
		assert_int_equal(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
	}
	while (n < N_SENDER * N_LETTER) {
		struct letter *l = mailbox_wait(box, 10000), *following;

		assert_non_null(l);
		for (; l != NULL; l = following, n++) {
			struct note *note = (struct note *)l;

			following = l->next;
			assert_int_equal(note->number, next[note->sender]);
			next[note->sender]++;
			free(note);
		}
	}
	for (int i = 0; i < N_SENDER; i++)
		pthread_join(threads[i], NULL);
	assert_null(mailbox_take(box));
	assert_null(mailbox_wait(box, 1));
	mailbox_close(box);
}

static void test_value(void **state)
{
	struct value *map = value_map(), *list;

	(void)state;
	list = value_put(map, "list", value_list());
	for (unsigned i = 0; i < 100; i++)
		value_push(list, value_uint(i));
	value_put(map, "text", value_strn("a\0b", 3));
	value_put(map, "none", value_str(NULL));
	assert_int_equal(value_get(map, "list")->l.n, 100);
	assert_int_equal(value_get(map, "list")->l.items[99]->u, 99);
	assert_memory_equal(value_get(map, "text")->s.data, "a\0b", 4);
	assert_int_equal(value_get(map, "none")->kind, VALUE_NIL);
	assert_null(value_get(map, "absent"));
	value_free(map);
	value_free(NULL);
}

static void test_reason(void **state)
{
	struct reason why;
	char longer[1000];

	(void)state;
	memset(longer, 'x', sizeof longer - 1);
	longer[sizeof longer - 1] = '\0';
	assert_int_equal(refuse(&why, "bad_name", "%s", longer), REFUSED);
	assert_string_equal(why.name, "bad_name");
	assert_int_equal(strlen(why.text), sizeof why.text - 1);
	assert_int_equal(refuse(NULL, "bad_name", "nobody reads it"), REFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mailbox),
		cmocka_unit_test(test_value),
		cmocka_unit_test(test_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
