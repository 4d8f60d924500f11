/*
 * The table of a module, for programs that were written for one that is linked: on
 * start the module that SINKD_MODULE names is opened, its table copied to
 * sinkd_backend.  So the tests of tests/cusim run on the module that is installed,
 * and on any device.
 *
 * Modes of the simulation are not known here: a module exports one symbol.  Its
 * first mode is the environment's CUSIM.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/backend.h"
#include "tests/cusim/modes.h"

extern struct backend_ops sinkd_backend;       /* const for everybody else */
struct backend_ops sinkd_backend;

__attribute__((constructor)) static void module_open(void)
{
	const char *path = getenv("SINKD_MODULE");
	void *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
	const struct backend_ops *ops = module ? dlsym(module, "sinkd_backend") : NULL;

	if (!ops) {
		fprintf(stderr, "SINKD_MODULE: %s\n", path ? dlerror() : "names the module to test");
		_Exit(78);
	}
	sinkd_backend = *ops;
}

bool cusim_mode(const char *words)
{
	(void)words;
	return true;
}

unsigned cusim_faults(const char **last)
{
	if (last)
		*last = "";
	return 0;
}
