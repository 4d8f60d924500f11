/*
 * What tests of damage to a store share: a state of two sessions, its files, and
 * whether what comes back is what was written.
 */
#ifndef TESTS_UNIT_STORE_STATE_H
#define TESTS_UNIT_STORE_STATE_H

#include "tests/unit/store-desk.h"

/* Pseudo-random, from dice_state, which setup sets. */
extern uint64_t dice_state;
uint64_t dice(uint64_t n);                     /* under n */
void fill(unsigned char *p, size_t n);

/* Files of the state directory; the caller frees data. */
struct file {
	unsigned char *data;
	size_t n;
};
void path_of(char *path, const struct desk *d, const char *name);      /* 512 bytes */
struct file load(const struct desk *d, const char *name);
void save(const struct desk *d, const char *name, const void *data, size_t n);
bool exists(const struct desk *d, const char *name);

/* Sessions a and b, the first with N_ENTRY entries and an order; closed again. */
enum { N_ENTRY = 200 };
extern struct session_row row_a, row_b;
int setup(void **state);
int teardown(void **state);
void log_job(struct desk *d, struct session_row *r, size_t n);        /* n entries more */
int simple(struct desk *d, enum store_op op, uint64_t session, uint64_t from);

/* Opens, collects the sessions, starts. */
int open_all(struct desk *d);
extern struct store_session found[8];
extern size_t n_found;

/* Whatever comes back as good is what was written; false: it was refused. */
bool check_good(struct desk *d, struct session_row *want);

#endif
