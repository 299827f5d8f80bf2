/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tries seeds of Linux's multipath hash: each run, by test run, TRIES of them, on one question, which
 * is in an entry of `searches` that one process has for itself. See xdpecmp/program/keysearch.py.
 *
 * A program of type SYSCALL, which sleeps: whoever runs it may be interrupted at any time. One of
 * type XDP runs as an RCU reader, and at idle priority on a busy host would keep all waiting that
 * wait for a grace period: the agent, and whoever makes or removes a network device.
 *
 * Hashes of different seeds do not depend on each other, so the processor works on two at a time by
 * itself: to do so in the source was measured to be no faster (30 ns a seed). A candidate is stored
 * without a branch: after one the verifier would follow each way through the loop.
 */
#include "siphash.h"

#define TRIES 1024 /* the verifier follows each of them: 750,000 of a million instructions */
#define FOUND_MAX 64

struct search {
	u64 next;  /* the seed to go on with, counted up */
	u64 fifth; /* the two words of the message that are not zero */
	u64 sixth;
	u32 low; /* the hash, 31 bits, is this ... */
	u32 width; /* ... or up to so much more */
	u32 count; /* of candidates in `found`, which is written round and round */
	u32 pad;
	u32 found[FOUND_MAX];
};

BPF_F_TABLE("array", u32, struct search, searches, 1, 1024 /* BPF_F_MMAPABLE */);

static __always_inline u32 hash31(u64 seed, u64 fifth, u64 sixth)
{
	u64 key = seed << 32 | seed;
	struct sip s = {
		key ^ 0x736f6d6570736575ULL,
		key ^ 0x646f72616e646f6dULL,
		key ^ 0x6c7967656e657261ULL,
		key ^ 0x7465646279746573ULL,
	};

	sip_absorb(&s, 0);
	sip_absorb(&s, 0);
	sip_absorb(&s, 0);
	sip_absorb(&s, 0);
	sip_absorb(&s, fifth);
	sip_absorb(&s, sixth);
	return sip_finish(&s, 48) >> 1;
}

struct asked {
	u32 number; /* of the entry of `searches` */
};

/* 0: done. */
int xdpecmp_key_search(struct asked *asked)
{
	struct search *search;
	u64 base, fifth, sixth;
	u32 low, width, index;

	index = asked->number;
	search = searches.lookup(&index);
	if (!search)
		return 1;
	base = search->next;
	fifth = search->fifth;
	sixth = search->sixth;
	low = search->low;
	width = search->width;
	search->next = base + TRIES;
#pragma nounroll
	for (u32 i = 0; i < TRIES; i++) {
		u32 seed = base + i;
		u32 above = hash31(seed, fifth, sixth) - low;
		u64 hit = ((u64)above - ((u64)width + 1)) >> 63;
		volatile u32 *count = &search->count;
		u32 at = *count & (FOUND_MAX - 1);

		search->found[at] = seed;
		*count += (u32)hit;
	}
	return 0;
}
