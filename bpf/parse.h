/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_PARSE_H
#define XDPECMP_PARSE_H
/*
 * Bytes -> link layer and IP header, and a check of each header alone: is this a packet that Linux
 * would forward, as far as its bytes tell?
 *
 * Every check returns REASON_FORWARDED for "go on" or the reason to pass the packet to Linux. The
 * rule is one-sided: we may pass what Linux would forward, never forward what Linux would drop.
 * Matches ip_rcv_core() and ip_route_input_slow() (net/ipv4), ip6_rcv_core() and ip6_forward()
 * (net/ipv6). Left to Linux on purpose: IPv4 options, hop-by-hop and routing headers. What depends
 * on routes or interfaces is not here, but in admit.c.
 */
#include "abi.h"
#include "checksum.h"
#include "protocols.h"

/* A position in the frame; nothing is read before it was compared with `end`. */
struct cursor {
	void *at;
	void *end;
};

/* The link layer: its tags as on the wire, and where the network header begins. */
struct link_layer {
	__be16 outer_tpid, outer_tci;
	__be16 inner_tpid, inner_tci;
	__be16 eth_proto; /* behind the tags */
	__u32 l3_offset;
};

/*
 * 1 if a and b are equal, else 0, without a branch: the verifier follows each branch to the end of
 * the program, once for each place where the network header may begin.
 */
static __always_inline __u64 is_equal(__u16 a, __u16 b)
{
	__u64 difference = a ^ b;

	difference--;
	asm volatile("" : "+r"(difference)); /* or the compiler makes a branch of it */
	return difference >> 63;
}

static __always_inline __u64 is_tpid(__be16 proto)
{
	return is_equal(proto, TPID_8021Q) | is_equal(proto, TPID_8021AD);
}

/*
 * Ethernet and up to two VLAN tags; afterwards the cursor is at the network header. A third tag
 * stays as eth_proto, and the frame is not IP to us. A frame too short for an IPv4 header is
 * malformed.
 */
static __always_inline enum reason parse_link_layer(struct cursor *c, struct link_layer *link)
{
	struct ethernet_header *eth = c->at;
	struct vlan_tag *tags = (struct vlan_tag *)(eth + 1);
	__u64 tagged, double_tagged; /* all ones or 0 */

	if ((void *)(eth + 1) + sizeof(struct ipv4_header) > c->end)
		return REASON_MALFORMED;
	tagged = -is_tpid(eth->proto);
	double_tagged = tagged & -is_tpid(tags[0].proto);
	link->outer_tpid = eth->proto & tagged;
	link->outer_tci = tags[0].tci & tagged;
	link->inner_tpid = tags[0].proto & double_tagged;
	link->inner_tci = tags[1].tci & double_tagged;
	link->eth_proto = (eth->proto & ~tagged) | (tags[0].proto & tagged & ~double_tagged) |
			  (tags[1].proto & double_tagged);
	link->l3_offset = sizeof(*eth) + (sizeof(*tags) & tagged) + (sizeof(*tags) & double_tagged);
	c->at += link->l3_offset;
	return REASON_FORWARDED;
}

/* `available`: bytes from the header to the end of the frame; *length: those of the packet. */
static __always_inline enum reason check_ipv4(const struct ipv4_header *ip, __u32 available,
					      __u32 *length)
{
	__u8 destination = ip->destination & 0xff, source = ip->source & 0xff;

	if (ip->version_ihl != IPV4_VERSION_IHL) {
		if (ip->version_ihl >> 4 != 4 || (ip->version_ihl & IPV4_IHL_MASK) < IPV4_IHL_MIN)
			return REASON_MALFORMED;
		return REASON_IPV4_OPTIONS;
	}
	*length = be16(ip->total_length);
	if (*length < sizeof(*ip) || *length > available)
		return REASON_LENGTH;
	if (!is_ipv4_checksum_right(ip))
		return REASON_CHECKSUM;
	/* 0/8, 127/8, and 224/3: multicast and reserved addresses, broadcast among them */
	if ((__u8)(destination - 1) >= IPV4_MULTICAST - 1 || destination == IPV4_LOOPBACK)
		return REASON_MULTICAST;
	if ((__u8)(source - 1) >= IPV4_MULTICAST - 1 || source == IPV4_LOOPBACK)
		return REASON_MARTIAN_SOURCE;
	if ((__be16)ip->source == IPV4_LINK_LOCAL || (__be16)ip->destination == IPV4_LINK_LOCAL)
		return REASON_LINK_LOCAL;
	return REASON_FORWARDED;
}

/* `otherwise`: the reason for addresses that are never forwarded and not link-local. */
static __always_inline enum reason check_ipv6_address(const __u8 *address, enum reason otherwise)
{
	__u16 first = ((__u16)address[0] << 8) | address[1];

	if (address[0] == IPV6_MULTICAST)
		return otherwise;
	if ((first & IPV6_LINK_LOCAL_MASK) == IPV6_LINK_LOCAL)
		return REASON_LINK_LOCAL;
	/* the first half is 0: ::, ::1, IPv4-mapped, IPv4-compatible; 64:ff9b::/96 is forwarded */
	if (!*(const __u64 *)address)
		return otherwise;
	return REASON_FORWARDED;
}

/* As check_ipv4(). */
static __always_inline enum reason check_ipv6(const struct ipv6_header *ip, __u32 available,
					      __u32 *length)
{
	enum reason reason;

	if ((ip->version_class_label & IPV6_VERSION_MASK) != IPV6_VERSION)
		return REASON_MALFORMED;
	if (ip->next_header == NEXTHDR_HOP_BY_HOP || ip->next_header == NEXTHDR_ROUTING)
		return REASON_EXTENSION_HEADER;
	/* 0 means BIG TCP or a jumbogram (RFC 2675), longer than the field can say */
	*length = be16(ip->payload_length) + sizeof(*ip);
	if (*length == sizeof(*ip) || *length > available)
		return REASON_LENGTH;
	reason = check_ipv6_address(ip->destination, REASON_MULTICAST);
	if (reason)
		return reason;
	return check_ipv6_address(ip->source, REASON_MARTIAN_SOURCE);
}

#endif
