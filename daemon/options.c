/*
 * The table of options, and where their defaults lie: the system's paths for
 * root, the XDG ones for everyone else.
 *
 * A new option is a row here, a field in the header and a line in sinkd.8; a
 * test compares the last with the first.
 */
#include "daemon/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(struct options, field)
#define ACTION .argument_only = true

static const struct config_row rows[] = {
	{ "config", CONFIG_TEXT, AT(config), .unit = "FILE", .argument_only = true,
	  .help = "options, as INI file with the section [sinkd]" },
	{ "model", CONFIG_TEXT, AT(model), .unit = "FILE", .help = "the language model, a GGUF file" },
	{ "socket", CONFIG_TEXT, AT(socket), .unit = "PATH",
	  .help = "Unix socket to listen on, unless a service manager hands one over" },
	{ "state", CONFIG_TEXT, AT(state), .unit = "DIR", .help = "sessions on disk; private" },
	{ "backend", CONFIG_WORD, AT(backend), "auto", .words = "auto|cpu|cuda", .unit = "NAME",
	  .help = "device that computes; auto: a GPU where there is one, else the CPU" },
	{ "cuda-module", CONFIG_TEXT, AT(cuda_module), .unit = "PATH",
	  .help = "the CUDA backend's module; default: the installed one" },
	{ "threads", CONFIG_COUNT, AT(threads), "0", 0, 1024, .unit = "N",
	  .help = "threads that compute; 0: as many as the process may run on" },
	{ "isa", CONFIG_WORD, AT(isa), "auto", .words = "auto|scalar|avx2|avxvnni|avx512", .unit = "NAME",
	  .help = "instruction set of the CPU backend; auto: the best" },
	{ "gpu-memory", CONFIG_AMOUNT, AT(gpu_memory), "90%", 1048576, 1e15, .unit = "BYTES",
	  .help = "what the weights, the work and the slots may take of a GPU's memory: bytes, or a percentage of what "
	          "is free at the start" },
	{ "slots", CONFIG_COUNT, AT(slots), "0", 0, 4096, .unit = "N",
	  .help = "sessions whose caches are on the device at once; 0: 8 on the CPU, on a GPU as many as fit, up to 64" },
	{ "swap-memory", CONFIG_AMOUNT, AT(swap_memory), "25%", 0, 1e15, .unit = "BYTES",
	  .help = "the machine's memory for caches of sessions that have no slot: bytes, or a percentage of all; "
	          "0: they are on disk only" },
	{ "unload-after", CONFIG_COUNT, AT(unload_after), "0", 0, 31536000, .unit = "SECONDS",
	  .help = "without work for that long the model is unloaded; the next request loads it again; 0: never" },
	{ "kv-type", CONFIG_WORD, AT(kv_type), "f16", .words = "f16|q8", .unit = "TYPE",
	  .help = "numbers in the caches: halves, or bytes (sinks stay halves): half the memory, and faster in long windows" },
	{ "activation-bits", CONFIG_WORD, AT(activation_bits), "15", .words = "15|8", .unit = "N",
	  .help = "of activations in products with quantized weights, on the CPU; 8: as other engines do, faster in long "
	          "texts and with many sessions, and a little less exact" },
	{ "chunk", CONFIG_COUNT, AT(chunk), "64", 1, 4096, .unit = "TOKENS",
	  .help = "longest piece of text computed in one step" },
	{ "sinks", CONFIG_COUNT, AT(sinks), "4", 0, 1048576, .unit = "TOKENS",
	  .help = "attention sinks of new sessions" },
	{ "sink-token", CONFIG_TEXT, AT(sink_token), .unit = "TOKEN",
	  .help = "spelling or id of the token that the model was trained with as its sink: every timeline begins "
	          "with it (use it with sinks = 1); default: what the model file says, mostly none" },
	{ "window", CONFIG_COUNT, AT(window), "0", 0, 16777216, .unit = "TOKENS",
	  .help = "recent window of new sessions; 0: 2000, or what the model's context allows" },
	{ "temperature", CONFIG_REAL, AT(temperature), "0.7", 0, 100, .unit = "X",
	  .help = "sampling of new sessions; 0: greedy" },
	{ "top-k", CONFIG_COUNT, AT(top_k), "40", 0, 1048576, .unit = "N",
	  .help = "sampling: the N likeliest tokens; 0: off" },
	{ "top-p", CONFIG_REAL, AT(top_p), "0.95", 0, 1, .unit = "X",
	  .help = "sampling: the likeliest tokens that sum up to X; 1: off" },
	{ "min-p", CONFIG_REAL, AT(min_p), "0.05", 0, 1, .unit = "X",
	  .help = "sampling: no token under X times the likeliest; 0: off" },
	{ "repeat-penalty", CONFIG_REAL, AT(repeat_penalty), "1", 0.01, 100, .unit = "X",
	  .help = "sampling: against repeating recent tokens; 1: off" },
	{ "max-tokens", CONFIG_COUNT, AT(max_tokens), "1024", 1, 1000000000, .unit = "TOKENS",
	  .help = "longest answer, unless a session or a call says otherwise" },
	{ "max-connections", CONFIG_COUNT, AT(max_connections), "64", 1, 1000000, .unit = "N",
	  .help = "connections of one user" },
	{ "max-sessions", CONFIG_COUNT, AT(max_sessions), "256", 1, 1000000, .unit = "N",
	  .help = "sessions of one user" },
	{ "max-queued-bytes", CONFIG_BYTES, AT(max_queued_bytes), "64M", 4096, 1e15, .unit = "BYTES",
	  .help = "text of one user that waits to be computed" },
	{ "max-stored-bytes", CONFIG_BYTES, AT(max_stored_bytes), "4G", 4096, 1e15, .unit = "BYTES",
	  .help = "text of one user on disk" },
	{ "max-output-bytes", CONFIG_BYTES, AT(max_output_bytes), "4M", 65536, 1e12, .unit = "BYTES",
	  .help = "answers that a connection may leave unread" },
	{ "log-level", CONFIG_WORD, AT(log_level), "info", .words = "error|warning|notice|info|debug",
	  .unit = "LEVEL", .reload = true, .help = "what is logged" },

	{ "gguf", CONFIG_TEXT, AT(gguf), .unit = "FILE", ACTION,
	  .help = "print what is in a GGUF file and whether it would load, and exit" },
	{ "tokenize", CONFIG_TEXT, AT(tokenize), .unit = "TEXT", ACTION,
	  .help = "print the model's tokens of TEXT, and exit" },
	{ "dump-config", CONFIG_FLAG, AT(dump_config), ACTION,
	  .help = "print the options in force as a configuration file, and exit" },
	{ "check-config", CONFIG_FLAG, AT(check_config), ACTION,
	  .help = "say what is wrong with the options, and exit" },
	{ "salvage", CONFIG_FLAG, AT(salvage), ACTION,
	  .help = "recover what is readable of a damaged state directory, and exit" },
	{ "version", CONFIG_FLAG, AT(version), ACTION, .help = "print the version, and exit" },
	{ "help", CONFIG_FLAG, AT(help), ACTION, .help = "print this, and exit" },
	{ 0 },
};

_Static_assert(sizeof rows / sizeof rows[0] <= CONFIG_ROWS_MAX, "struct config has room for all options");

/* $variable (an absolute path), else $HOME/home; NULL: neither. */
static char *xdg(const char *variable, const char *home, const char *tail)
{
	const char *dir = getenv(variable), *user = getenv("HOME");
	char *path = NULL;
	int rc = -1;

	if (dir && dir[0] == '/')
		rc = asprintf(&path, "%s/%s", dir, tail);
	else if (home && user && user[0] == '/')
		rc = asprintf(&path, "%s/%s/%s", user, home, tail);
	return rc < 0 ? NULL : path;
}

static void default_path(struct options *o, const char *name, const char *system, char *user)
{
	const char *path = o->system ? system : user;

	if (path)
		config_set(&o->table, config_find(&o->table, name), path, "default", CONFIG_DEFAULT);
	free(user);
}

static void default_paths(struct options *o)
{
	default_path(o, "config", "/etc/sinkd/sinkd.conf", xdg("XDG_CONFIG_HOME", ".config", "sinkd/sinkd.conf"));
	default_path(o, "socket", "/run/sinkd/sinkd.sock", xdg("XDG_RUNTIME_DIR", NULL, "sinkd/sinkd.sock"));
	default_path(o, "state", "/var/lib/sinkd", xdg("XDG_STATE_HOME", ".local/state", "sinkd"));
}

static bool config_is_named(const struct options *o)
{
	return o->table.source[config_find(&o->table, "config") - rows] == CONFIG_ARGUMENT;
}

int options_load(struct options *o, int argc, char **argv,
                 void (*report)(void *ctx, const char *where, const char *problem), void *ctx)
{
	int bad;

	memset(o, 0, sizeof *o);
	o->system = geteuid() == 0;
	o->table = (struct config){ .rows = rows, .section = "sinkd", .target = o, .report = report, .ctx = ctx };
	bad = config_defaults(&o->table);
	default_paths(o);
	bad += config_arguments(&o->table, argc, argv);
	if (o->config && o->config[0])
		bad += config_file(&o->table, o->config, config_is_named(o));
	return bad;
}

int options_reload(struct options *o, int argc, char **argv,
                   void (*report)(void *ctx, const char *where, const char *problem),
                   void (*changed)(void *ctx, const char *name, bool taken), void *ctx)
{
	const struct config_row *row;
	struct options fresh;
	char before[4096], after[4096];
	int bad = options_load(&fresh, argc, argv, report, ctx);

	for (row = rows; row->name && !bad; row++) {
		config_value(&o->table, row, before, sizeof before);
		config_value(&fresh.table, row, after, sizeof after);
		if (row->argument_only || strcmp(before, after) == 0)
			continue;
		if (row->reload) {
			o->table.source[row - rows] = CONFIG_DEFAULT;
			config_set(&o->table, row, after, "reload", CONFIG_FILE);
		}
		changed(ctx, row->name, row->reload);
	}
	options_free(&fresh);
	return bad;
}

int options_check(const struct options *o, struct reason *why)
{
	if (!o->model)
		return refuse(why, "bad_config", "no model: give --model FILE, or model = FILE in %s",
		              o->config && o->config[0] ? o->config : "a file named by --config");
	if (!o->state)
		return refuse(why, "bad_config", "no state directory: give --state (there is no HOME)");
	return 0;
}

void options_free(struct options *o)
{
	config_free(&o->table);
}
