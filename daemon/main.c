/*
 * sinkd: options, log, sockets, store, engine, loop, in this order, and the
 * orderly way back.  Exit status: 0 stopped as told, 1 something failed (the
 * reason is logged), 2 the options are wrong, 3 the device was lost: a new process may
 * have it again.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "config.h"
#include "daemon/base/crash.h"
#include "daemon/base/log.h"
#include "daemon/once.h"
#include "daemon/options.h"
#include "daemon/serve/serve.h"
#include "daemon/session/engine.h"
#include "daemon/session/store.h"

struct program {
	int argc;
	char **argv;
	struct options options;
	struct reason wrong;       /* the first thing in them that is */
};

static void report_plain(void *ctx, const char *where, const char *problem)
{
	struct program *p = ctx;

	fprintf(stderr, "sinkd: %s: %s\n", where, problem);
	if (p->wrong.name[0] == '\0')
		refuse(&p->wrong, "bad_config", "%s: %s", where, problem);
}

static void report_log(void *ctx, const char *where, const char *problem)
{
	(void)ctx;
	log_error("bad_config: %s: %s", where, problem);
}

static enum log_level level_of(const char *name)
{
	static const struct { const char *name; enum log_level level; } levels[] = {
		{ "error", LOG_LEVEL_ERROR }, { "warning", LOG_LEVEL_WARNING }, { "notice", LOG_LEVEL_NOTICE },
		{ "debug", LOG_LEVEL_DEBUG },
	};
	size_t i;

	for (i = 0; i < sizeof levels / sizeof levels[0]; i++)
		if (strcmp(levels[i].name, name) == 0)
			return levels[i].level;
	return LOG_LEVEL_INFO;
}

/* ---- SIGHUP ---- */

static void changed(void *ctx, const char *name, bool taken)
{
	(void)ctx;
	if (taken)
		log_notice("%s: taken over", name);
	else
		log_warning("%s: has changed, and is taken over by a restart only", name);
}

static void reload(void *ctx)
{
	struct program *p = ctx;

	if (options_reload(&p->options, p->argc, p->argv, report_log, changed, NULL) > 0)
		log_error("the configuration is as it was");
	log_level_set(level_of(p->options.log_level));
}

/* ---- starting ---- */

/* Users' text is in our memory: it stays there, and nobody may look. */
static void keep_private(void)
{
	struct rlimit none = { 0, 0 }, files;

	umask(077);
	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);      /* what `ulimit -f` refuses is a full disk */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static struct settings settings_of(const struct options *o)
{
	return (struct settings){
		.sampling = { .temperature = o->temperature, .top_k = o->top_k, .top_p = o->top_p, .min_p = o->min_p,
		              .repeat_penalty = o->repeat_penalty },
		.max_tokens = o->max_tokens,
	};
}

static struct engine_caps caps_of(const struct options *o)
{
	return (struct engine_caps){
		.sessions = o->max_sessions, .queued_bytes = o->max_queued_bytes, .stored_bytes = o->max_stored_bytes,
	};
}

static uint64_t machine_memory(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int start_engine(struct engine **out, const struct options *o, struct store *store, struct serve *serve,
                        struct reason *why)
{
	struct engine_params params = {
		.model = o->model,
		.backend = o->backend,
		.cuda_module = o->cuda_module,
		.n_thread = o->threads,
		.isa = strcmp(o->isa, "auto") == 0 ? NULL : o->isa,
		.n_slot = o->slots,
		.n_chunk = o->chunk,
		.gpu_memory = o->gpu_memory,
		.unload_seconds = o->unload_after,
		.swap_bytes = config_amount_of(o->swap_memory, machine_memory()),
		.kv_type = o->kv_type,
		.n_act_bit = strcmp(o->activation_bits, "8") == 0 ? 8 : 15,
		.sink_token = o->sink_token,
		.window = { .n_sink = o->sinks, .n_recent = o->window },
		.settings = settings_of(o),
		.caps = caps_of(o),
		.store = store,
		.slab_fd = serve_slab(serve),
		.serve = serve_mailbox(serve),
		.on_answer = serve_on_answer,
		.on_published = serve_on_published,
		.on_status = serve_on_status,
	};
	int rc = crash_watch(o->state, &params.crashed);

	if (rc)
		return rc;
	if (params.crashed)
		log_warning("the daemon that ran here before ended by a fault of its own");
	return engine_start(out, &params, why);
}

static int open_serve(struct serve **out, struct program *p, struct reason *why)
{
	const struct options *o = &p->options;
	const struct serve_params params = {
		.socket = o->socket,
		.system = o->system,
		.n_connection = o->max_connections,
		.n_output = o->max_output_bytes,
		.caps = caps_of(o),
		.reload = reload,
		.ctx = p,
	};

	return serve_open(out, &params, why);
}

/* What nobody has given a name has been traced. */
static void name_it(int rc, struct reason *why)
{
	if (rc != 0 && why->name[0] == '\0')
		refuse(why, rc == -ENOMEM ? "memory" : "internal", "see above");
}

static int serve(struct program *p)
{
	const struct store_params store_params = { .dir = p->options.state, .checking = serve_checking };
	struct serve *s = NULL;
	struct store *store = NULL;
	struct engine *engine = NULL;
	struct reason why = { .name = "" };
	int rc, wrong;

	wrong = p->wrong.name[0] != '\0' ? REFUSED : options_check(&p->options, &p->wrong);
	if (wrong)
		why = p->wrong;
	else
		log_info("sinkd " PACKAGE_VERSION ": model %s, state %s", p->options.model, p->options.state);
	/* Clients whose connection started us hang where nobody tells them why. */
	rc = wrong && sd_listen_fds(0) <= 0 ? wrong : open_serve(&s, p, &why);
	if (rc)
		goto out;
	rc = wrong ? wrong : store_open(&store, &store_params, &why);
	if (rc == 0)
		rc = start_engine(&engine, &p->options, store, s, &why);
	name_it(rc, &why);
	rc = serve_run(s, rc == 0 ? engine : NULL, &why);
out:
	store_close(store);
	serve_close(s);
	name_it(rc, &why);
	if (rc)
		log_error("%s: %s", why.name, why.text);
	else
		log_info("stopped");
	if (rc == 0)
		return 0;
	return strcmp(why.name, "device_lost") == 0 ? 3 : 1;
}

int main(int argc, char **argv)
{
	struct program p = { .argc = argc, .argv = argv };
	int bad, status;

	bad = options_load(&p.options, argc, argv, report_plain, &p);
	if (once_run(&p.options, bad, &status))
		goto out;
	keep_private();
	log_open(level_of(p.options.log_level));
	status = bad && sd_listen_fds(0) <= 0 ? 2 : serve(&p);
	if (bad)
		status = 2;
out:
	options_free(&p.options);
	return status;
}
