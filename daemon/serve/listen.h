/* Sockets that listen; see listen.c. */
#ifndef DAEMON_SERVE_LISTEN_H
#define DAEMON_SERVE_LISTEN_H

#include "daemon/serve/inside.h"

int listen_open(struct serve *s, struct reason *why);
void listen_close(struct serve *s);            /* and removes our own path */
const char *listen_where(const struct serve *s);

#endif
