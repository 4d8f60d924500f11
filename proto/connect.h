/* Where a daemon is, and a connection to it.  For libsink. */
#ifndef PROTO_CONNECT_H
#define PROTO_CONNECT_H

#include <stdbool.h>
#include <stddef.h>

#define CONNECT_PATH_MAX 108   /* bytes of a Unix socket's address, its NUL among them */

/* path NULL: $SINKD_SOCKET where it is set, and no other; else the user's socket, then
 * the system's.  The descriptor, and the path in found; or -errno and why.
 * Waits where as many connections as may do wait to be accepted; unless now: -EAGAIN. */
int daemon_connect(const char *path, bool now, char found[CONNECT_PATH_MAX], char *why, size_t n_why);

#endif
