/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_REWRITE_H
#define XDPECMP_REWRITE_H
/*
 * What a router changes in a packet that it forwards: padding is cut off, TTL or hop limit
 * decreased, MAC addresses and VLAN tags are those of the egress. Byte for byte as Linux does it:
 * ip_rcv_core() trims, and ip_decrease_ttl() in include/net/ip.h updates the checksum (RFC 1624).
 *
 * Whether the packet may be forwarded is decided before; the only refusal here is NO_HEADROOM.
 */
#include "parse.h"

/* The adjacency, each word read once; see struct nexthop. */
struct egress {
	__u64 neighbour_word; /* MAC address; reason and family above it */
	__u64 device_word;    /* MAC address; MTU above it */
	__u64 tags;           /* outer TPID, outer TCI, inner TPID, inner TCI, as on the wire */
};

static __always_inline __u32 tag_bytes(const struct egress *egress)
{
	if (!egress->tags)
		return 0;
	return egress->tags >> 32 ? 2 * sizeof(struct vlan_tag) : sizeof(struct vlan_tag);
}

/* Makes the frame end with the packet, and fits its beginning to the tags of the egress. */
static __always_inline enum reason resize(struct xdp_md *ctx, const struct link_layer *link,
					  __u32 l3_length, const struct egress *egress)
{
	__u32 frame = ctx->data_end - ctx->data;
	__u32 wanted = link->l3_offset + l3_length;
	int surplus = (int)(link->l3_offset - sizeof(struct ethernet_header)) -
		      (int)tag_bytes(egress);

	if (surplus && bpf_xdp_adjust_head(ctx, surplus))
		return REASON_NO_HEADROOM;
	if (frame > wanted)
		bpf_xdp_adjust_tail(ctx, (int)wanted - (int)frame);
	return REASON_FORWARDED;
}

static __always_inline void write_link_layer(struct ethernet_header *eth, __be16 l3_proto,
					     const struct egress *egress)
{
	__u16 *words = (__u16 *)eth;
	struct vlan_tag *tag = (struct vlan_tag *)(eth + 1);

	*(__u32 *)&words[0] = egress->neighbour_word;
	words[2] = egress->neighbour_word >> 32;
	*(__u32 *)&words[3] = egress->device_word;
	words[5] = egress->device_word >> 32;
	if (!egress->tags) {
		eth->proto = l3_proto;
		return;
	}
	eth->proto = egress->tags;
	tag[0].tci = egress->tags >> 16;
	if (!(egress->tags >> 32)) {
		tag[0].proto = l3_proto;
		return;
	}
	tag[0].proto = egress->tags >> 32;
	tag[1].tci = egress->tags >> 48;
	tag[1].proto = l3_proto;
}

/* ip_decrease_ttl(): the carry of the sum is added back. */
static __always_inline void decrease_ttl(struct ipv4_header *ip)
{
	__u32 sum = (__u32)ip->checksum + be16(0x0100);

	ip->checksum = sum + (sum >= 0xffff);
	ip->ttl--;
}

/* To be called after resize(). The checks against the end are for the verifier: they never fail. */
static __always_inline enum reason rewrite(struct xdp_md *ctx, __be16 l3_proto,
					   const struct egress *egress)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *l3 = data + sizeof(struct ethernet_header) + tag_bytes(egress);

	if (l3 + sizeof(struct ipv4_header) > end)
		return REASON_MALFORMED;
	write_link_layer(data, l3_proto, egress);
	if (l3_proto == ETHERTYPE_IPV4)
		decrease_ttl(l3);
	else
		((struct ipv6_header *)l3)->hop_limit--;
	return REASON_FORWARDED;
}

#endif
