/* What the service manager is told; see watchdog.c. */
#ifndef DAEMON_SERVE_WATCHDOG_H
#define DAEMON_SERVE_WATCHDOG_H

#include "daemon/serve/inside.h"

void watchdog_loading(struct serve *s);        /* STATUS, and more time */
void watchdog_ready(struct serve *s);          /* READY=1; starts the watchdog's timer */
void watchdog_keep(struct serve *s, int fd);    /* the manager keeps a copy of fd over restarts */
void watchdog_forget(struct serve *s);          /* what it kept is of no use any more */
void watchdog_again(struct serve *s);           /* ready once more */
void watchdog_unloaded(struct serve *s);        /* nothing of the engine's is kept any more */
void watchdog_pong(struct serve *s);           /* the engine has answered */
void watchdog_stopping(struct serve *s, const char *status);
void watchdog_reload(struct serve *s, bool begin);

#endif
