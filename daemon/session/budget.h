/*
 * The budget of a device: what the weights, the work and the slots of sessions take
 * of its memory, and how many slots that leaves; all of it before anything is
 * allocated.  Arithmetic only.
 */
#ifndef DAEMON_SESSION_BUDGET_H
#define DAEMON_SESSION_BUDGET_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/base/config.h"
#include "daemon/base/error.h"

struct budget {
	uint64_t weights, work, slot;          /* bytes; slot: of one */
	uint32_t n_slot;
	uint64_t free, total;                  /* of the device, before; total 0: it has no memory of its own */
	uint64_t limit;                        /* of what may be taken */
};

/* n_slot, as most of them, becomes what fits into amount.  REFUSED memory: not one. */
int budget_fit(struct budget *b, struct config_amount amount, struct reason *why);
uint64_t budget_bytes(const struct budget *b);                 /* weights, work and slots */
/* "weights 4.4 GiB, work 0.2 GiB, 12 slots of 260 MiB; 8.1 of 80 GiB" */
void budget_text(const struct budget *b, char *out, size_t n);

#endif
