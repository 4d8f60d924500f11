/* What a test sees of the simulated device; C and C++. */
#ifndef TESTS_CUSIM_MODES_H
#define TESTS_CUSIM_MODES_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Words by commas; NULL or "": none.  The environment's CUSIM is the first mode of a
 * process.  False, and nothing changes: a word is not known, or memory is held that
 * the mode would have made otherwise.  Counts start and no error sticks any more.
 *
 *   order:forward, order:reverse, order:SEED   in which lanes, warps and blocks run
 *   lazy            queued work runs only when the host waits
 *   poison          fresh memory is NaN
 *   unreadable      device memory faults when the host touches it
 *   nodevice        a driver, and no device;  nodriver: not even that
 *   memory:BYTES    the device has that much (K, M, G; 2G): cudaMalloc past it fails
 *   fail:N          the Nth kernel from here fails;  fail:NAME:N: the Nth call of this
 *                   function of the runtime or of cuBLAS does (four of these at most)
 *   failcopy:HEX    a copy to the device fails that has these bytes (16 at most)
 *                   at a multiple of 8
 *   failfile:PATH   the next kernel fails while this file exists; the file is removed;
 *                   failfile:NAME:PATH: the next call of this function of the runtime
 *
 * A kernel that fails, a queued call and a wait leave an error that sticks, as on a
 * device: every later call answers it, kernels do not run, and cudaFree frees all the
 * same.  After cudaDeviceReset, which frees whatever is left, the device works again. */
bool cusim_mode(const char *words);
/* Divergence, wrong masks, wrong pointers and launches so far; what the last one was. */
unsigned cusim_faults(const char **last);
struct cusim_counts {
	unsigned queued;               /* kernels, copies and graphs, each by itself */
	unsigned waits;                /* of the host for a stream */
	unsigned graphs_made, graph_launches;
	unsigned graph_nodes;          /* of the one made last */
	size_t bytes_back;             /* copied from the device to the host */
};
struct cusim_counts cusim_count(void);         /* since the process began */
/* Bytes of device and pinned memory that nobody has freed.  What is left when the
 * process exits is said on stderr. */
size_t cusim_held(void);

#ifdef __cplusplus
}
#endif
#endif
