/*
 * What sinkd does instead of serving: one task, its answer on standard output,
 * what is wrong on standard error, and an exit status.
 */
#ifndef DAEMON_ONCE_H
#define DAEMON_ONCE_H

#include <stdbool.h>

#include "daemon/options.h"

/* Does the task that the options name, if any; *status is then the exit status. */
bool once_run(const struct options *o, int n_problem, int *status);

#endif
