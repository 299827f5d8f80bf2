/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How fast can it be at best? Programs that do one part of the work and leave out all the rest, to be
 * set beside the whole:
 *
 *   checks         what can be said of a packet without a map: link layer and IP header, as xdpecmp
 *                  checks them, then XDP_TX
 *   bare_redirect  MACs, TTL or hop limit, redirect through a devmap; no check, no choice
 *   minimum        the same to one of two next hops by the kernel's own hash under policy 0. Whoever
 *                  chooses as Linux does cannot do without: sorted addresses, SipHash-2-4 over all that
 *                  does not depend on the seed alone, MACs, TTL, redirect. It looks at no route, no
 *                  MTU, no neighbour and no lease, checks nothing and counts nothing.
 *   look_up        the same, but which of the next hops it takes depends on a table too, as large as
 *                  direct24 and full of zeros: behind the spreader (spread.c) it tells what one access
 *                  to such a table at random takes.
 *
 * The hash is xdpecmp's own code, with the seed as a constant, which the compiler folds into the
 * start states as the agent does.
 */
#include "key.h"
#include "rewrite.h"

#define BOUND 0x3fffffff /* of two paths of the same weight */
#define MAC 0x100000000002ULL /* 02:00:00:00:00:10, as in router.py */

#define MMAPABLE (1U << 10)

BPF_DEVMAP(paths, 2);
BPF_F_TABLE("array", u32, struct direct, table, DIRECT24_MAX, MMAPABLE);

static __always_inline void start_hash(struct config *config)
{
	const __u64 key = (__u64)SEED << 32 | SEED;
	struct sip s = {key ^ 0x736f6d6570736575ULL, key ^ 0x646f72616e646f6dULL,
			key ^ 0x6c7967656e657261ULL, key ^ 0x7465646279746573ULL};

	config->sip_start[0] = s.v0;
	config->sip_start[1] = s.v1;
	config->sip_start[2] = s.v2;
	config->sip_start[3] = s.v3;
	sip_absorb(&s, 0);
	sip_absorb(&s, 0);
	sip_absorb(&s, 0);
	sip_absorb(&s, 0);
	config->sip_after_zero[0] = s.v0;
	config->sip_after_zero[1] = s.v1;
	config->sip_after_zero[2] = s.v2;
	config->sip_after_zero[3] = s.v3;
}

static __always_inline __u32 hash_policy0(struct ethernet_header *eth, void *end)
{
	struct ipv4_header *ip = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);
	struct config config = {};
	struct key6 key6 = {};

	start_hash(&config);
	if (eth->proto == ETHERTYPE_IPV4) {
		struct key4 key = {.source = ip->source, .destination = ip->destination};

		return hash_key4(&config, &key);
	}
	if ((void *)(ip6 + 1) > end)
		return 0;
	load_addresses6(&key6, ip6);
	key6.label = ip6->version_class_label & IPV6_LABEL_MASK;
	key6.proto = ip6->next_header;
	return hash_key6(&config, &key6);
}

static __always_inline __u32 look_up_direct(__be32 address)
{
	u32 index = be16(address);
	struct direct *block = table.lookup(&index);

	return block ? *(volatile u16 *)&block->group[address >> 16 & 0xff] : 0;
}

static __always_inline int forward(struct xdp_md *ctx, int by_hash, int by_table)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct egress egress = {.neighbour_word = MAC, .device_word = MAC};
	struct ethernet_header *eth = data;
	u32 path = 0;

	if (data + sizeof(*eth) + sizeof(struct ipv4_header) > end)
		return XDP_DROP;
	if (by_hash)
		path = hash_policy0(eth, end) >> 1 > BOUND;
	if (by_table)
		path += look_up_direct(((struct ipv4_header *)(eth + 1))->destination);
	write_link_layer(eth, eth->proto, &egress);
	if (eth->proto == ETHERTYPE_IPV4)
		decrease_ttl((void *)(eth + 1));
	else
		((struct ipv6_header *)(eth + 1))->hop_limit--;
	return paths.redirect_map(path, XDP_DROP);
}

int minimum(struct xdp_md *ctx)
{
	return forward(ctx, 1, 0);
}

int look_up(struct xdp_md *ctx)
{
	return forward(ctx, 1, 1);
}

int bare_redirect(struct xdp_md *ctx)
{
	return forward(ctx, 0, 0);
}

int checks(struct xdp_md *ctx)
{
	struct cursor c = {.at = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
	struct link_layer link;
	enum reason reason = parse_link_layer(&c, &link);
	__u32 length = 0, size;

	if (reason)
		return XDP_DROP;
	size = link.eth_proto == ETHERTYPE_IPV4 ? sizeof(struct ipv4_header) :
						  sizeof(struct ipv6_header);
	if (c.at + sizeof(struct ipv4_header) > c.end)
		return XDP_DROP;
	if (link.eth_proto == ETHERTYPE_IPV4)
		reason = check_ipv4(c.at, c.end - c.at, &length);
	else if (c.at + sizeof(struct ipv6_header) <= c.end)
		reason = check_ipv6(c.at, c.end - c.at, &length);
	else
		return XDP_DROP;
	return reason || length < size ? XDP_DROP : XDP_TX;
}
