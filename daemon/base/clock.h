/* The time.  Any thread. */
#ifndef DAEMON_BASE_CLOCK_H
#define DAEMON_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_ms(void);                        /* of the wall */
int64_t clock_steady_ms(void);                 /* monotonic, as is */
double clock_seconds(void);

#endif
