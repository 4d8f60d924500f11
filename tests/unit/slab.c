/* The slab: slots are reserved, zeroed and given back; no memory is refused by name. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/session/slab.h"

enum { N_SLOT = 5, HEADER = 4096 };

static const struct slab_id own = { .fingerprint = 0x1234, .n_chunk = 128, .layout = "cpu-kv3-f16-b16" };

static uint64_t used(struct slab *s)
{
	struct stat st;

	assert_int_equal(fstat(slab_fd(s), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void check_zero(const char *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (p[i] != 0)
			fail_msg("byte %zu is not zero", i);
}

/* Whole pages, and slots that share pages with their neighbours. */
static void check_slots(size_t slot_bytes)
{
	struct reason why;
	struct slab *s;
	uint32_t slot, i;
	char *p;

	assert_int_equal(slab_open(&s, &own, slot_bytes, N_SLOT, -1, &why), 0);
	p = slab_memory(s);
	assert_int_equal((uintptr_t)p % (size_t)sysconf(_SC_PAGESIZE), 0);
	assert_true(used(s) <= HEADER);        /* sparse */
	for (i = 0; i < N_SLOT; i++) {
		assert_int_equal(slab_take(s, slot_bytes, &slot, &why), 0);
		assert_int_equal(slot, i);
		assert_true(used(s) >= (i + 1) * slot_bytes);  /* reserved before it is touched */
		check_zero(p + i * slot_bytes, slot_bytes);
		memset(p + i * slot_bytes, 'a' + (int)i, slot_bytes);
	}
	assert_int_equal(slab_take(s, slot_bytes, &slot, &why), -1);
	slab_drop(s, 2);
	assert_true(used(s) <= 4 * slot_bytes + 3 * 4096 + HEADER);     /* before it is read: that takes pages again */
	check_zero(p + 2 * slot_bytes, slot_bytes);
	for (i = 0; i < N_SLOT; i++)           /* and nobody else's */
		if (i != 2) {
			assert_int_equal(p[i * slot_bytes], 'a' + (int)i);
			assert_int_equal(p[(i + 1) * slot_bytes - 1], 'a' + (int)i);
		}
	assert_int_equal(slab_take(s, 1, &slot, &why), 0);
	assert_int_equal(slot, 2);
	for (i = 0; i < N_SLOT; i++)
		slab_drop(s, i);
	assert_true(used(s) <= HEADER + (slot_bytes % 4096 ? (N_SLOT + 1) * 4096 : 0));        /* pages that were shared */
	slab_close(s);
}

static void test_slots(void **state)
{
	(void)state;
	check_slots(1 << 20);
	check_slots(100000);
}

static int first_victim(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY), rc;

	if (fd < 0)
		return -1;
	rc = write(fd, "1000", 4) == 4 ? 0 : -1;
	close(fd);
	return rc;
}

static void test_refused(void **state)
{
	struct reason why;
	struct slab *s;
	uint32_t slot;
	size_t much = 2 * (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
	int flags;

	(void)state;
	assert_int_equal(slab_open(&s, &own, SIZE_MAX / 2, 3, -1, &why), REFUSED);
	assert_string_equal(why.name, "memory");
	assert_int_equal(slab_open(&s, &own, (size_t)1 << 46, 1000, -1, &why), REFUSED);
	assert_string_equal(why.name, "memory");
	assert_true(slab_open(&s, &own, 0, 3, -1, &why) < 0);

	/* More than the machine has: the address space is there, the memory is not.
	 * Should slab_take ask the kernel for it, this test is what the kernel ends. */
	assert_int_equal(first_victim(), 0);
	assert_int_equal(slab_open(&s, &own, much, 1, -1, &why), 0);
	flags = fcntl(slab_fd(s), F_GETFD);
	assert_true(flags & FD_CLOEXEC);
	assert_int_equal(slab_take(s, much, &slot, &why), REFUSED);
	assert_string_equal(why.name, "memory");
	assert_true(used(s) <= HEADER);
	assert_int_equal(slab_take(s, 4096, &slot, &why), 0);  /* still of use */
	slab_close(s);
	slab_close(NULL);
}

static void open_with(struct slab **s, const struct slab_id *id, int fd)
{
	struct reason why;

	assert_int_equal(slab_open(s, id, 10000, N_SLOT, fd, &why), 0);
}

/* The process ends, its memory is kept. */
static int left_by(struct slab *s)
{
	int fd = dup(slab_fd(s));

	slab_close(s);
	return fd;
}

static void test_kept(void **state)
{
	const struct slab_stamp stamp = { .session = 7, .window = { 4, 60 }, .n_computed = 100, .n_written = 128, .start = 4 };
	struct slab_stamp got;
	struct reason why;
	struct slab *s;
	uint32_t slot, i;

	(void)state;
	open_with(&s, &own, -1);
	assert_false(slab_kept(s));
	for (i = 0; i < 3; i++) {
		assert_int_equal(slab_take(s, 10000, &slot, &why), 0);
		memset((char *)slab_memory(s) + i * 10000, 'a' + (int)i, 10000);
		slab_stamp(s, slot, &stamp);
	}
	slab_drop(s, 0);
	open_with(&s, &own, left_by(s));
	assert_true(slab_kept(s));
	assert_false(slab_left(s, 0, &got));   /* dropped: nothing */
	assert_true(slab_left(s, 1, &got));
	assert_memory_equal(&got, &stamp, sizeof got);
	assert_int_equal(((char *)slab_memory(s))[2 * 10000 - 1], 'b');
	assert_int_equal(slab_take(s, 10000, &slot, &why), 0);
	assert_int_equal(slot, 0);             /* 1 is taken */
	slab_close(s);
}

/* Any difference in what it is, and it is not taken over. */
static void test_kept_foreign(void **state)
{
	struct slab_id other[3] = { own, own, own };
	struct slab *s;
	size_t i;

	(void)state;
	other[0].fingerprint++;
	other[1].n_chunk++;
	other[2].layout[5] = 'x';
	for (i = 0; i < 3; i++) {
		open_with(&s, &own, -1);
		open_with(&s, &other[i], left_by(s));
		assert_false(slab_kept(s));
		slab_close(s);
	}
	open_with(&s, &own, -1);               /* a bit of its header */
	((char *)slab_memory(s))[(5 * 10000 + 4095) / 4096 * 4096 + 2] ^= 1;
	open_with(&s, &own, left_by(s));
	assert_false(slab_kept(s));
	assert_int_equal(ftruncate(slab_fd(s), 4096), 0);
	open_with(&s, &own, left_by(s));
	assert_false(slab_kept(s));
	slab_close(s);
}

/* What may be the cause of its processes' ends is dropped. */
static void test_kept_crash_loop(void **state)
{
	struct slab *s;
	int i;

	(void)state;
	open_with(&s, &own, -1);
	for (i = 0; i < 5; i++) {              /* as often as a step finishes */
		open_with(&s, &own, left_by(s));
		assert_true(slab_kept(s));
		slab_harmless(s);
	}
	for (i = 0; i < SLAB_STARTS; i++) {
		open_with(&s, &own, left_by(s));
		assert_true(slab_kept(s));
	}
	open_with(&s, &own, left_by(s));
	assert_false(slab_kept(s));
	slab_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slots), cmocka_unit_test(test_refused), cmocka_unit_test(test_kept),
		cmocka_unit_test(test_kept_foreign), cmocka_unit_test(test_kept_crash_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
