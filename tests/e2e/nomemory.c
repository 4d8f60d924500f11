/*
 * Loaded into a daemon under test (LD_PRELOAD): makes one allocation fail, or several one after another.
 *
 * The hard idea: one daemon is to be tried hundreds of times, so what is to fail is said from outside, in a file
 * that both have mapped (SINKD_NO_MEMORY names it).  The tester writes how many allocations still succeed, and how
 * many fail then; read back is how many there were, how many failed, and from where the first of these was called.
 *
 * What counts is what somebody else sizes: all that a library allocates for itself, and of the program's own what
 * has so many bytes that they are a client's, a file's or the model's.  What the program sizes itself may end it
 * (CONTRIBUTING.md), and is tried apart, with least 0.
 *
 * It must not allocate: glibc's own functions, under their other names, do the work.
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define N_CALLER 24
#define N_KNOWN 128
#define HERE __builtin_return_address(0)

struct control {                       /* as out-of-memory.py has it */
	_Atomic uint64_t armed;
	_Atomic uint64_t least;        /* bytes: what the program and libc ask for counts from so many on */
	_Atomic uint64_t succeed, fail;
	_Atomic uint64_t n_asked, n_failed;
	_Atomic uint64_t size;         /* of the first that failed */
	_Atomic uint64_t n_known;      /* places in the program that have been tried: let through */
	uint64_t known[N_KNOWN];
	uint64_t callers[N_CALLER];    /* of it, as places in the files, */
	char files[N_CALLER][64];      /* the ends of whose names these are */
};

struct range { uintptr_t from, to; };

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t each);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

static struct control nothing, *control = &nothing;
static struct range own[2];            /* the program, and libc, in which it calls strdup() and the like */
/* In the memory that a thread has from its start: any other is allocated when it is first used. */
static _Thread_local int inside __attribute__((tls_model("initial-exec")));

/* ---- who asks ---- */

static struct range extent(const struct dl_phdr_info *info)
{
	struct range r = { UINTPTR_MAX, 0 };
	int i;

	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *h = &info->dlpi_phdr[i];

		if (h->p_type != PT_LOAD)
			continue;
		r.from = info->dlpi_addr + h->p_vaddr < r.from ? info->dlpi_addr + h->p_vaddr : r.from;
		r.to = info->dlpi_addr + h->p_vaddr + h->p_memsz > r.to ? info->dlpi_addr + h->p_vaddr + h->p_memsz : r.to;
	}
	return r;
}

static int within(struct range r, const void *at)
{
	return (uintptr_t)at >= r.from && (uintptr_t)at < r.to;
}

static int look(struct dl_phdr_info *info, size_t n, void *ctx)
{
	struct range r = extent(info);

	(void)n;
	(void)ctx;
	if (own[0].to == 0)            /* the program comes first */
		own[0] = r;
	else if (within(r, (const void *)(uintptr_t)&__libc_malloc))
		own[1] = r;
	return 0;
}

static __attribute__((constructor)) void begin(void)
{
	const char *path = getenv("SINKD_NO_MEMORY");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p = MAP_FAILED, *first[2];

	if (fd >= 0) {
		p = (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	}
	dl_iterate_phdr(look, NULL);
	backtrace(first, 2);           /* its first use allocates */
	if (p != MAP_FAILED)
		control = p;
}

static void tell(size_t n, const void *caller)
{
	void *at[N_CALLER + 4];
	int i, k = 0, depth = backtrace(at, N_CALLER + 4);
	Dl_info info;
	size_t length;

	control->size = n;
	for (i = 0; i < depth && at[i] != caller; i++)         /* what is ours */
		;
	for (; i < depth && k < N_CALLER; i++) {
		if (!dladdr(at[i], &info))
			continue;
		length = strlen(info.dli_fname);
		strcpy(control->files[k], info.dli_fname + (length > 63 ? length - 63 : 0));
		control->callers[k++] = (uint64_t)((char *)at[i] - (char *)info.dli_fbase);
	}
}

static int known(const void *caller)
{
	uint64_t i;

	for (i = 0; i < control->n_known; i++)
		if (control->known[i] == (uintptr_t)caller - own[0].from)
			return 1;
	return 0;
}

static int counts(size_t n, const void *caller)
{
	if (!control->armed || inside)
		return 0;
	if (within(own[0], caller))
		return n >= control->least && !known(caller);
	return n >= control->least || !within(own[1], caller);
}

static int fails(size_t n, const void *caller)
{
	uint64_t mine;

	if (!counts(n, caller))
		return 0;
	mine = control->n_asked++;
	if (mine < control->succeed || mine - control->succeed >= control->fail)
		return 0;
	inside = 1;
	if (control->n_failed++ == 0)
		tell(n, caller);
	inside = 0;
	errno = ENOMEM;
	return 1;
}

/* ---- what is called ---- */

void *malloc(size_t n)
{
	return fails(n, HERE) ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t each)
{
	size_t all;

	if (__builtin_mul_overflow(n, each, &all))
		all = SIZE_MAX;
	return fails(all, HERE) ? NULL : __libc_calloc(n, each);
}

void *realloc(void *p, size_t n)
{
	return n > 0 && fails(n, HERE) ? NULL : __libc_realloc(p, n);
}

void *reallocarray(void *p, size_t n, size_t each)
{
	size_t all;

	if (__builtin_mul_overflow(n, each, &all))
		all = SIZE_MAX;
	return all > 0 && fails(all, HERE) ? NULL : __libc_realloc(p, all);
}

void *aligned_alloc(size_t align, size_t n)
{
	return fails(n, HERE) ? NULL : __libc_memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
	void *p = fails(n, HERE) ? NULL : __libc_memalign(align, n);

	if (p)
		*out = p;
	return p ? 0 : ENOMEM;
}

/* Of no file: as the backend takes it.  glibc's heap does not come this way. */
void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
	if (flags & MAP_ANONYMOUS && fails(n, HERE))
		return MAP_FAILED;
	return (void *)syscall(SYS_mmap, at, n, prot, flags, fd, offset);
}
