/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_SELECT_H
#define XDPECMP_SELECT_H
/*
 * Hash-threshold (RFC 2992): the first path whose bound is not below the hash takes the packet, as
 * in fib_select_multipath() in net/ipv4/fib_semantics.c. Bounds ascend, so it is found by halving;
 * the hash is random by design, so the halving is free of branches that depend on it.
 */
#include "abi.h"

#define MAX_PATHS 1024
#define SEARCH_STEPS 10 /* 2^10 = MAX_PATHS */

struct search {
	__u32 first; /* of the paths still possible */
	__u32 count;
};

/* The path to look at next: the last one of the lower half. */
static __always_inline __u32 search_probe(const struct search *s)
{
	return s->first + s->count / 2 - 1;
}

/* Keeps the half that holds the path, going by the bound of the probe. */
static __always_inline void search_narrow(struct search *s, __u32 bound, __u32 hash)
{
	__u32 half = s->count / 2;
	__u64 is_above = ((__u64)bound - hash) >> 63; /* 1 where bound < hash */

	s->first += half * is_above;
	s->count -= half;
}

/* A resilient group's bucket for a hash; count is not 0. */
static __always_inline __u32 bucket_of(__u32 hash, __u32 count)
{
	return hash % count;
}

#endif
