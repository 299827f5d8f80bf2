/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A test run repeats one frame, so a forwarder would find in its caches what it found there a moment
 * ago. Set in front of it, this gives each run another destination of a large random set, then calls
 * the forwarder. What the last run changed is written too (MAC, TTL, checksum), so a frame lasts for
 * any number of runs.
 *
 * The frame itself says which set and which forwarder, in its UDP payload. `floor` behind it tells
 * what all this costs, to be subtracted.
 */
#include "parse.h"

struct spread4 {
	__be32 destination;
	__sum16 checksum; /* of the whole header, with TTL */
	__u16 pad;
};

struct spread6 {
	__u64 destination[2];
};

/* In the payload: what to do with this frame. */
struct order {
	__u16 set;
	__u16 forwarder;
};

BPF_ARRAY(spread4, struct spread4, DESTINATIONS *SETS);
BPF_ARRAY(spread6, struct spread6, DESTINATIONS *SETS);
BPF_ARRAY(positions, u32, SETS);
BPF_PROG_ARRAY(forwarders, FORWARDERS);

#define UDP_SIZE 8

static __always_inline u32 next_position(u32 set)
{
	u32 *position = positions.lookup(&set);

	if (!position)
		return 0;
	*position = (*position + 1) % DESTINATIONS;
	return set * DESTINATIONS + *position;
}

int spread(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet_header *eth = data;
	struct ipv4_header *ip = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);
	struct order *order = (void *)(ip + 1) + UDP_SIZE;
	u32 index;

	if ((void *)(order + 1) > end)
		return XDP_DROP;
	*(__u32 *)eth->destination = MAC & 0xffffffff;
	*(__u16 *)&eth->destination[4] = MAC >> 32;
	if (eth->proto == ETHERTYPE_IPV4) {
		struct spread4 *next;

		index = next_position(order->set);
		next = spread4.lookup(&index);
		if (!next)
			return XDP_DROP;
		ip->destination = next->destination;
		ip->ttl = TTL;
		ip->checksum = next->checksum;
	} else {
		struct spread6 *next;

		order = (void *)(ip6 + 1) + UDP_SIZE;
		if ((void *)(order + 1) > end)
			return XDP_DROP;
		index = next_position(order->set);
		next = spread6.lookup(&index);
		if (!next)
			return XDP_DROP;
		((__u64 *)ip6->destination)[0] = next->destination[0];
		((__u64 *)ip6->destination)[1] = next->destination[1];
		ip6->hop_limit = TTL;
	}
	forwarders.call(ctx, order->forwarder);
	return XDP_ABORTED;
}
