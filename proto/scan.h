/*
 * The scanner in front of the unpacker.  msgpack-c allocates from declared counts
 * before an element arrives; so nothing reaches it that this has not walked.
 *
 * scan_feed walks bytes as they come, keeps only counters (constant memory), and
 * tells when one whole value ends.  Refused: depth over PROTO_DEPTH_MAX, a
 * declared size that cannot fit under the cap, a message over the cap, the byte
 * 0xc1.  Restartable at any byte.
 */
#ifndef PROTO_SCAN_H
#define PROTO_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "proto/methods.h"

struct scan {
	uint64_t left[PROTO_DEPTH_MAX + 1];    /* values still to come, by depth */
	uint32_t depth;
	uint64_t owed;             /* fewest bytes that must still come; 0: the message is whole */
	uint64_t skip;             /* payload bytes of the current str/bin/number */
	size_t seen, cap;          /* bytes of this message so far, and the most */
	uint8_t head[5], n_head, want;         /* a header cut by the end of a read */
};

enum scan_result { SCAN_MORE, SCAN_DONE, SCAN_TOO_LARGE, SCAN_TOO_DEEP, SCAN_BAD };

void scan_reset(struct scan *s, size_t cap);
/* Walks up to n bytes; *used = bytes that belong to this message (all of n unless
 * SCAN_DONE or refused).  After anything but SCAN_MORE, scan_reset comes first. */
enum scan_result scan_feed(struct scan *s, const void *p, size_t n, size_t *used);

#endif
