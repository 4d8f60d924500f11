/*
 * Which backend computes, and where it comes from: the CPU's is built in, CUDA's is
 * a module that is opened, so that the same package serves machines with and
 * without a GPU.
 *
 * The hard idea: the cheap questions come first.  Opening the module without a
 * driver costs half a second for nothing, so the driver's library is asked for
 * before; and of a module nothing is believed before its version is.
 *
 * What has been opened is never closed: a CUDA runtime does not like it, and the
 * process has one backend for its whole life.
 */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "daemon/session/engine-internal.h"

#define SYMBOL "sinkd_backend"

struct known {
	const char *name;
	const struct backend_ops *built_in;    /* NULL: a module */
	const char *module;                    /* where it is installed */
	const char *driver;                    /* without which it is of no use */
};

static const struct known known[] = {          /* the best first: auto's order */
	{ "cuda", NULL, PKGLIBDIR "/sinkd-cuda.so", "libcuda.so.1" },
	{ "cpu", &backend_cpu, NULL, NULL },
};
#define N_KNOWN (sizeof known / sizeof known[0])

const char *backend_wanted(const char *choice, unsigned i)
{
	if (strcmp(choice, "auto") == 0)
		return i < N_KNOWN ? known[i].name : NULL;
	return i == 0 ? choice : NULL;
}

static int open_module(const char *name, const char *path, const struct backend_ops **out, struct reason *why)
{
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct backend_ops *ops;

	if (module == NULL)
		return refuse(why, "backend", "%s: the module cannot be opened: %s", name, dlerror());
	ops = dlsym(module, SYMBOL);
	if (ops == NULL)
		return refuse(why, "backend", "%s: %s is not a backend: it has no " SYMBOL, name, path);
	if (ops->version != BACKEND_VERSION || strcmp(ops->build, PACKAGE_VERSION) != 0)
		return refuse(why, "backend", "%s: the module %s is of another version: interface %u of sinkd %.16s; "
		              "this is %u of " PACKAGE_VERSION, name, path, ops->version, ops->build, BACKEND_VERSION);
	*out = ops;
	return 0;
}

/* module: a path that somebody gave, who knows what he does; NULL: the installed one. */
static int find_module(const struct known *k, const char *module, const struct backend_ops **out, bool *expected,
                       struct reason *why)
{
	const char *path = module != NULL ? module : k->module;

	if (access(path, F_OK) != 0) {
		*expected = module == NULL;
		return refuse(why, "backend", "%s: there is no module %s", k->name, path);
	}
	if (module == NULL && dlopen(k->driver, RTLD_LAZY | RTLD_LOCAL) == NULL) {
		*expected = true;
		return refuse(why, "backend", "%s: no driver: %s", k->name, dlerror());
	}
	return open_module(k->name, path, out, why);
}

int backend_find(const char *name, const char *module, const struct backend_ops **out, bool *expected,
                 struct reason *why)
{
	size_t i;

	*expected = false;
	for (i = 0; i < N_KNOWN; i++) {
		if (strcmp(name, known[i].name) != 0)
			continue;
		*out = known[i].built_in;
		return *out != NULL ? 0 : find_module(&known[i], module, out, expected, why);
	}
	return refuse(why, "unsupported", "no backend %s in this version", name);
}
