/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_PARSE_H
#define XDPECMP_PARSE_H
/*
 * From bytes to headers, and the judgement of each header by itself: is this a packet that Linux
 * would forward, going by its bytes alone?
 *
 * Every check returns REASON_FORWARDED for "go on" or the reason to pass the packet to Linux. The
 * rule is one-sided: we may pass what Linux would forward, never forward what Linux would drop.
 * Matches ip_rcv_core() and ip_route_input_slow() (net/ipv4), ip6_rcv_core() and ip6_forward()
 * (net/ipv6). Left to Linux on purpose: IPv4 options, hop-by-hop and routing headers.
 */
#include "abi.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "SipHash key layout");
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define be16(x) __builtin_bswap16(x)
#define be32(x) __builtin_bswap32(x)

#define ETHERTYPE_IPV4 be16(0x0800)
#define ETHERTYPE_IPV6 be16(0x86dd)
#define TPID_8021Q be16(0x8100)
#define TPID_8021AD be16(0x88a8)
#define VLAN_VID_MASK 0x0fff
#define L3_OFFSET_MAX 22 /* Ethernet and two tags */

#define PROTO_ICMP 1
#define PROTO_IPIP 4
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_DCCP 33
#define PROTO_IPV6 41
#define PROTO_GRE 47
#define PROTO_ESP 50
#define PROTO_AH 51
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136
#define NEXTHDR_HOP_BY_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_DESTINATION 60

struct ethernet_header {
	__u8 destination[6];
	__u8 source[6];
	__be16 proto;
};

struct vlan_tag {
	__be16 tci;
	__be16 proto; /* of what follows */
};

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment; /* flags and offset */
	__u8 ttl;
	__u8 protocol;
	__sum16 checksum;
	__be32 source;
	__be32 destination;
};
#define IPV4_OFFSET_MASK be16(0x1fff)
#define IPV4_FRAGMENT_MASK be16(0x3fff) /* more-fragments flag or an offset */

struct ipv6_header {
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};
#define IPV6_LABEL_MASK be32(0x000fffff)

struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};

/* A position in the frame; nothing is read before it was compared with `end`. */
struct cursor {
	void *at;
	void *end;
};

/* What the link layer says: the tags as they stand and where the network header begins. */
struct link_layer {
	__be16 outer_tpid, outer_tci;
	__be16 inner_tpid, inner_tci;
	__be16 eth_proto; /* behind the tags */
	__u32 l3_offset;
};

/*
 * 1 where a and b are equal, else 0, without a branch: the verifier follows each branch to the end of
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
 * Ethernet and up to two VLAN tags; afterwards the cursor is at the network header. A third tag stays
 * as eth_proto: not an IP packet to us. Nor is anything too short for an IP header.
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

/* A sum of 32-bit words to the 16-bit one's complement sum that the Internet checksum is made of. */
static __always_inline __u32 fold_sum(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum over a header without options is 0xffff where its checksum is right. */
static __always_inline int ipv4_checksum_is_good(const struct ipv4_header *ip)
{
	const __u32 *word = (const __u32 *)ip;

	return fold_sum((__u64)word[0] + word[1] + word[2] + word[3] + word[4]) == 0xffff;
}

/* `available`: bytes from the header to the end of the frame; *length: those that count. */
static __always_inline enum reason check_ipv4(const struct ipv4_header *ip, __u32 available,
					      __u32 *length)
{
	__u8 destination = ip->destination & 0xff, source = ip->source & 0xff;

	if (ip->version_ihl != 0x45) {
		if (ip->version_ihl >> 4 != 4 || (ip->version_ihl & 0xf) < 5)
			return REASON_MALFORMED;
		return REASON_IPV4_OPTIONS;
	}
	*length = be16(ip->total_length);
	if (*length < sizeof(*ip) || *length > available)
		return REASON_LENGTH;
	if (!ipv4_checksum_is_good(ip))
		return REASON_CHECKSUM;
	/* 0/8, 127/8, and 224/3: the multicast and the reserved range with the broadcast address */
	if ((__u8)(destination - 1) >= 223 || destination == 127)
		return REASON_MULTICAST;
	if ((__u8)(source - 1) >= 223 || source == 127)
		return REASON_MARTIAN_SOURCE;
	if ((ip->source & 0xffff) == 0xfea9 || (ip->destination & 0xffff) == 0xfea9)
		return REASON_LINK_LOCAL; /* 169.254/16 */
	return REASON_FORWARDED;
}

static __always_inline enum reason check_ipv6_address(const __u8 *address, enum reason otherwise)
{
	__u16 first = ((__u16)address[0] << 8) | address[1];

	if (address[0] == 0xff)
		return otherwise;
	if ((first & 0xffc0) == 0xfe80)
		return REASON_LINK_LOCAL;
	/* ::, ::1, IPv4-mapped and IPv4-compatible: none is ever forwarded (64:ff9b::/96 is) */
	if (!*(const __u64 *)address)
		return otherwise;
	return REASON_FORWARDED;
}

static __always_inline enum reason check_ipv6(const struct ipv6_header *ip, __u32 available,
					      __u32 *length)
{
	enum reason reason;

	if ((ip->version_class_label & be32(0xf0000000)) != be32(0x60000000))
		return REASON_MALFORMED;
	if (ip->next_header == NEXTHDR_HOP_BY_HOP || ip->next_header == NEXTHDR_ROUTING)
		return REASON_EXTENSION_HEADER;
	/* 0: BIG TCP, or a jumbogram (RFC 2675), is longer than the field can say */
	*length = be16(ip->payload_length) + sizeof(*ip);
	if (*length == sizeof(*ip) || *length > available)
		return REASON_LENGTH;
	reason = check_ipv6_address(ip->destination, REASON_MULTICAST);
	if (reason)
		return reason;
	return check_ipv6_address(ip->source, REASON_MARTIAN_SOURCE);
}

#endif
