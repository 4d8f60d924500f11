/*
 * Tells a crash from a kill.  A process that ends by a fault of its own (SIGSEGV,
 * SIGABRT, ...; the watchdog's abort too) leaves a mark in the state directory;
 * SIGKILL, a power cut and a clean stop leave none.  So a session is blamed for a
 * crash only where there was one.  One per process; call before threads.
 */
#ifndef DAEMON_BASE_CRASH_H
#define DAEMON_BASE_CRASH_H

#include <stdbool.h>

/* Watches from here on; *crashed: the process before us left the mark, which is
 * taken away.  0, or -errno. */
int crash_watch(const char *dir, bool *crashed);

#endif
