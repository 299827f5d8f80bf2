/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_SIPHASH_H
#define XDPECMP_SIPHASH_H
/*
 * SipHash-2-4 over whole 64-bit words (Aumasson and Bernstein, 2012), and what Linux makes of the
 * result: flow_hash_from_keys_seed() in net/core/flow_dissector.c takes the low 32 bits and turns 0
 * into 1. That fib_multipath_hash() then drops the lowest bit is left to the callers.
 *
 * The start states come from user space, which knows the seed; see struct config.
 */
#include "abi.h"

struct sip {
	__u64 v0, v1, v2, v3;
};

#define ROTATE_LEFT(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = ROTATE_LEFT(s->v1, 13) ^ s->v0;
	s->v0 = ROTATE_LEFT(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = ROTATE_LEFT(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = ROTATE_LEFT(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = ROTATE_LEFT(s->v1, 17) ^ s->v2;
	s->v2 = ROTATE_LEFT(s->v2, 32);
}

/* Hashes one more word: two rounds. */
static __always_inline void sip_absorb(struct sip *s, __u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	sip_round(s);
	s->v0 ^= word;
}

/* The 32-bit hash of all words so far; `length`: bytes of the whole key. Four rounds. */
static __always_inline __u32 sip_finish(struct sip *s, __u64 length)
{
	__u32 hash;

	sip_absorb(s, length << 56);
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	sip_round(s);
	hash = (__u32)(s->v0 ^ s->v1 ^ s->v2 ^ s->v3);
	return hash ? hash : 1;
}

static __always_inline struct sip sip_load(const __u64 state[4])
{
	struct sip s = {state[0], state[1], state[2], state[3]};

	return s;
}

#endif
