/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_SELECT_H
#define XDPECMP_SELECT_H
/*
 * Hash-threshold (RFC 2992): the first path whose bound is not below the hash takes the packet, as
 * in fib_select_multipath() in net/ipv4/fib_semantics.c. Bounds ascend, so a binary search finds
 * it; no branch predictor can guess the hash, so the search has no branch that depends on it.
 *
 * Functions over values: nexthops.c reads the maps, and knows which next hops are usable.
 */
#include "abi.h"

#define MAX_PATHS 1024
#define SEARCH_STEPS 10 /* 2^10 = MAX_PATHS */

/* The paths that are still candidates. */
struct search {
	__u32 first;
	__u32 count;
};

/* The path whose bound is compared next: the last one of the lower half. */
static __always_inline __u32 choose_probe(const struct search *s)
{
	return s->first + s->count / 2 - 1;
}

/* Keeps the half that the path is in. `bound`: that of the probe. */
static __always_inline void narrow_search(struct search *s, __u32 bound, __u32 hash)
{
	__u32 half = s->count / 2;
	__u64 is_above = ((__u64)bound - hash) >> 63; /* 1 where bound < hash */

	s->first += half * is_above;
	s->count -= half;
}

/* The bucket of a resilient group with `count` buckets, which is not 0. */
static __always_inline __u32 choose_bucket(__u32 hash, __u32 count)
{
	return hash % count;
}

#endif
