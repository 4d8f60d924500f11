/*
 * The daemon's options: one table (options.c) feeds the INI file, the command
 * line, --dump-config, --help and the check of the man page.
 */
#ifndef DAEMON_OPTIONS_H
#define DAEMON_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/config.h"
#include "daemon/base/error.h"

struct options {
	char *config, *model, *socket, *state, *backend, *cuda_module, *isa, *kv_type, *activation_bits, *log_level, *sink_token;
	uint32_t threads, slots, chunk, unload_after;
	struct config_amount gpu_memory, swap_memory;
	uint32_t sinks, window;
	float temperature, top_p, min_p, repeat_penalty;
	uint32_t top_k, max_tokens;
	uint32_t max_connections, max_sessions;
	uint64_t max_queued_bytes, max_stored_bytes, max_output_bytes;
	/* what to do instead of serving */
	char *gguf, *tokenize;
	bool dump_config, check_config, salvage, version, help;

	bool system;               /* run by root: the system's paths are the defaults */
	struct config table;       /* how it was read */
};

/* Defaults, then the command line, then the file that it names (or the default
 * one).  Returns how many problems were reported. */
int options_load(struct options *o, int argc, char **argv,
                 void (*report)(void *ctx, const char *where, const char *problem), void *ctx);
/* The file again (SIGHUP): takes over the options that can be changed in a running
 * daemon, and calls changed for each other one that now differs.  With problems
 * nothing changes. */
int options_reload(struct options *o, int argc, char **argv,
                   void (*report)(void *ctx, const char *where, const char *problem),
                   void (*changed)(void *ctx, const char *name, bool taken), void *ctx);
/* What no single option shows: can a daemon be started with these?  REFUSED:
 * bad_config, unsupported. */
int options_check(const struct options *o, struct reason *why);
void options_free(struct options *o);

#endif
