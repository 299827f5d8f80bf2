/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_CHECKSUM_H
#define XDPECMP_CHECKSUM_H
/*
 * Internet checksums (RFC 1071): whether that of an IPv4 header is right, and whether that of layer
 * 4 looks CHECKSUM_PARTIAL (`skb->ip_summed`), which means that hardware still has to compute it.
 *
 * A host behind a veth or tap leaves checksums to hardware that does not exist. The field then
 * holds the sum over the pseudo-header alone (TCP, UDP) or 0 (SCTP), and the skb says
 * CHECKSUM_PARTIAL, which is lost when native XDP redirects the packet. An XDP program sees the
 * field only: what looks partial is passed to Linux, which completes it if needed. One complete
 * checksum in 65,536 looks alike and takes the slow path too. Source: tcp_v4_send_check(),
 * udp_set_csum(), sctp_packet_pack().
 *
 * Left out: verifying checksums of layer 4, which no router does. Updating that of an IPv4 header
 * is in rewrite.h.
 */
#include "walk.h"

/* A sum of 32-bit words as the 16-bit one's complement sum that the checksum is made of. */
static __always_inline __u32 fold_sum(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u64 sum_words(const void *data, __u32 words)
{
	const __u32 *word = data;
	__u64 sum = 0;

#pragma unroll
	for (__u32 i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

/* Of a header without options: then the sum over all of it is 0xffff. */
static __always_inline int is_ipv4_checksum_right(const struct ipv4_header *ip)
{
	const __u32 *word = (const __u32 *)ip;

	return fold_sum((__u64)word[0] + word[1] + word[2] + word[3] + word[4]) == 0xffff;
}

static __always_inline int is_udp_tunnel(__be16 port)
{
	return port == PORT_VXLAN || port == PORT_VXLAN_LINUX || port == PORT_GENEVE;
}

/*
 * Whether the checksum looks CHECKSUM_PARTIAL. `addresses`: the sum of source and destination.
 * Tunnels count as partial, because the inner checksum may be: the outer one of UDP is then
 * complete (lco_csum()) or 0.
 */
static __always_inline int is_checksum_partial(const struct l3 *l3, const struct l4 *l4,
					       __u64 addresses)
{
	const struct udp_header *udp;
	const __sum16 *checksum;
	const __be32 *crc;

	if (l4->is_fragment)
		return 0;
	if (l4->proto == PROTO_SCTP) {
		crc = get_bytes(l3, l4->offset + SCTP_CHECKSUM_OFFSET, sizeof(*crc));
		return crc && !*crc;
	}
	if (is_tunnel(l4->proto))
		return 1;
	if (l4->proto != PROTO_TCP && l4->proto != PROTO_UDP)
		return 0;
	if (l4->proto == PROTO_UDP) {
		udp = get_bytes(l3, l4->offset, sizeof(*udp));
		if (udp && (!udp->checksum || is_udp_tunnel(udp->destination)))
			return 1;
	}
	checksum = get_bytes(l3,
			     l4->offset + (l4->proto == PROTO_TCP ? TCP_CHECKSUM_OFFSET :
								    UDP_CHECKSUM_OFFSET),
			     sizeof(*checksum));
	return checksum && *checksum == fold_sum(addresses + be16(l4->proto) +
						 be16(l3->length - l4->offset));
}

#endif
