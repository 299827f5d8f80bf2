/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_WALK_H
#define XDPECMP_WALK_H
/*
 * From one header to the next: IPv6 extension headers, IP within IP or GRE, ports. In the order of
 * __skb_flow_dissect() in net/core/flow_dissector.c, and stopping at the same headers, since Linux
 * hashes its result under policies 1 to 3.
 *
 * If Linux would read on and we cannot (more headers than MAX_HEADERS, a truncated header, GRE that
 * carries something other than IP), the walk is `broken`: such a packet is passed to Linux.
 */
#include "protocols.h"

/* One IP packet: `length` bytes. Padding may follow it in the frame. */
struct l3 {
	void *start;
	void *end; /* of the frame */
	__u32 length;
};

#define L3_OFFSET_MASK 0x3fff /* nothing is read beyond this offset */

/* `size` bytes at `offset`, or NULL if the packet or L3_OFFSET_MASK ends before. */
static __always_inline void *get_bytes(const struct l3 *l3, __u64 offset, __u32 size)
{
	void *at;

	if (offset > L3_OFFSET_MASK || offset + size > l3->length)
		return NULL;
	/* for the verifier: the bounds must be on the register that is added, and the pointer that is
	 * compared with the end must be the one that is read by */
	asm volatile("%0 &= 0x3fff" : "+r"(offset));
	at = l3->start + offset;
	asm volatile("" : "+r"(at));
	return at + size > l3->end ? NULL : at;
}

/* What follows an IP header and its extension headers. */
struct l4 {
	__u32 offset;
	__u8 proto;
	__u8 is_fragment; /* the first one too; in IPv6, any packet with a fragment header */
};

/*
 * The state of a walk. It is in map memory (struct scratch), not on the stack: the verifier takes
 * what is read from there for unknown, so it follows a loop once for each round and not once for
 * each combination of headers. Volatile, or the compiler would keep it in registers.
 */
struct walk {
	__u32 ip;     /* offset of the innermost IP header so far */
	__u32 offset; /* of the next header */
	__be32 label; /* the innermost IPv6 flow label that is not 0 */
	__u8 family;  /* of the IP header at `ip` */
	__u8 proto;   /* of the next header */
	__u8 is_fragment;
	__u8 is_encapsulated; /* IP within IP or GRE was found */
	__u8 has_routing;     /* a routing header was found */
	__u8 is_broken;
};

#define MAX_HEADERS 6 /* that one call of walk_*() passes (Linux: 15) */

static __always_inline __u32 ipv4_header_bytes(const struct ipv4_header *ip)
{
	return (ip->version_ihl & IPV4_IHL_MASK) * 4;
}

/*
 * Enters the IP header at w->offset. The length of the one that a walk begins with is not checked:
 * check_ipv4() has done so, unless it is quoted, and then Linux does not check it either.
 */
static __always_inline void enter_ipv4(const struct l3 *l3, volatile struct walk *w)
{
	const struct ipv4_header *ip = get_bytes(l3, w->offset, sizeof(*ip));

	if (!ip || (w->is_encapsulated && (ip->version_ihl & IPV4_IHL_MASK) < IPV4_IHL_MIN)) {
		w->is_broken = 1;
		return;
	}
	w->family = 4;
	w->ip = w->offset;
	w->offset += ipv4_header_bytes(ip);
	w->proto = ip->protocol;
	w->is_fragment = !!(ip->fragment & IPV4_FRAGMENT_MASK);
}

static __always_inline void enter_ipv6(const struct l3 *l3, volatile struct walk *w)
{
	const struct ipv6_header *ip = get_bytes(l3, w->offset, sizeof(*ip));
	__be32 label;

	if (!ip) {
		w->is_broken = 1;
		return;
	}
	w->family = 6;
	w->ip = w->offset;
	w->offset += sizeof(*ip);
	w->proto = ip->next_header;
	label = ip->version_class_label & IPV6_LABEL_MASK;
	if (label)
		w->label = label;
}

/* Returns the length of a GRE header, 0 if the walk cannot go on: __skb_flow_dissect_gre(). */
static __always_inline __u32 parse_gre(const struct l3 *l3, __u32 offset, __be16 *proto)
{
	const struct gre_header *gre = get_bytes(l3, offset, sizeof(*gre));

	if (!gre || (gre->flags & (GRE_ROUTING | GRE_VERSION_MASK)))
		return 0;
	*proto = gre->proto;
	return sizeof(*gre) + (gre->flags & GRE_CHECKSUM ? GRE_OPTION_BYTES : 0) +
	       (gre->flags & GRE_KEY ? GRE_OPTION_BYTES : 0) +
	       (gre->flags & GRE_SEQUENCE ? GRE_OPTION_BYTES : 0);
}

static __always_inline int is_extension_header(__u8 proto)
{
	return proto == NEXTHDR_HOP_BY_HOP || proto == NEXTHDR_ROUTING ||
	       proto == NEXTHDR_FRAGMENT || proto == NEXTHDR_DESTINATION;
}

/* Passes one extension header, if the next header is one. Returns 1 if the walk goes on. */
static __always_inline int skip_extension_header(const struct l3 *l3, volatile struct walk *w)
{
	const struct extension_header *header;

	if (w->family != 6 || w->is_fragment || !is_extension_header(w->proto))
		return 0;
	/* as for Linux, the first two bytes are enough, except of a fragment header */
	header = get_bytes(l3, w->offset, sizeof(*header));
	if (!header || (w->proto == NEXTHDR_FRAGMENT &&
			!get_bytes(l3, w->offset, FRAGMENT_HEADER_BYTES))) {
		w->is_broken = 1;
		return 0;
	}
	if (w->proto == NEXTHDR_FRAGMENT) {
		w->is_fragment = 1;
		w->offset += FRAGMENT_HEADER_BYTES;
	} else {
		w->offset += (header->length + 1) * 8;
	}
	if (w->proto == NEXTHDR_ROUTING)
		w->has_routing = 1;
	w->proto = header->next_header;
	return !w->is_fragment;
}

/* Passes all extension headers of this IP header. */
static __always_inline void walk_extension_headers(const struct l3 *l3, volatile struct walk *w)
{
#pragma nounroll
	for (int i = 0; i < MAX_HEADERS; i++)
		if (!skip_extension_header(l3, w))
			return;
	w->is_broken = w->family == 6 && is_extension_header(w->proto);
}

static __always_inline int is_tunnel(__u8 proto)
{
	return proto == PROTO_IPIP || proto == PROTO_IPV6 || proto == PROTO_GRE;
}

/* Enters one inner IP packet, if there is one. Returns 1 if the walk goes on. */
static __always_inline int enter_inner(const struct l3 *l3, volatile struct walk *w)
{
	__u8 inner = w->proto == PROTO_IPIP ? 4 : w->proto == PROTO_IPV6 ? 6 : 0;

	if (w->is_fragment || w->is_broken)
		return 0;
	if (w->proto == PROTO_GRE) {
		__be16 proto = 0;
		__u32 length = parse_gre(l3, w->offset, &proto);

		if (!length || (proto != ETHERTYPE_IPV4 && proto != ETHERTYPE_IPV6)) {
			w->is_broken = 1;
			return 0;
		}
		w->offset += length;
		inner = proto == ETHERTYPE_IPV4 ? 4 : 6;
	}
	if (!inner)
		return 0;
	w->is_encapsulated = 1;
	if (inner == 4)
		enter_ipv4(l3, w);
	else
		enter_ipv6(l3, w);
	return !w->is_broken;
}

/* Goes to the innermost packet: one loop over headers of every kind, as in the flow dissector. */
static __always_inline void walk_to_innermost(const struct l3 *l3, volatile struct walk *w)
{
#pragma nounroll
	for (int i = 0; i < MAX_HEADERS; i++)
		if (!skip_extension_header(l3, w) && !enter_inner(l3, w))
			return;
	w->is_broken = !w->is_fragment &&
		       (is_tunnel(w->proto) || (w->family == 6 && is_extension_header(w->proto)));
}

/* Begins a walk at the IP header at `offset`, whose fixed part must be complete. */
static __always_inline void start_walk(const struct l3 *l3, volatile struct walk *w, __u32 offset,
				       __u32 family)
{
	w->label = 0;
	w->is_fragment = w->is_encapsulated = w->has_routing = w->is_broken = 0;
	w->offset = offset;
	if (family == 4)
		enter_ipv4(l3, w);
	else
		enter_ipv6(l3, w);
}

/* The next header of a walk. */
static __always_inline struct l4 get_l4(const volatile struct walk *w)
{
	struct l4 l4 = {.offset = w->offset, .proto = w->proto, .is_fragment = w->is_fragment};

	return l4;
}

/* --- layer 4 -------------------------------------------------------------------------------- */

/*
 * Both ports as on the wire, source first, or 0: proto_ports_offset() in net/core/utils.c. For ESP
 * and AH the SPI takes their place, as in Linux.
 */
static __always_inline __u32 load_ports(const struct l3 *l3, const struct l4 *l4)
{
	__u32 offset = l4->offset;
	const __u32 *ports;

	if (l4->is_fragment)
		return 0;
	switch (l4->proto) {
	case PROTO_AH:
		offset += __builtin_offsetof(struct ah_header, spi);
		break;
	case PROTO_TCP:
	case PROTO_UDP:
	case PROTO_DCCP:
	case PROTO_ESP:
	case PROTO_SCTP:
	case PROTO_UDPLITE:
		break;
	default:
		return 0;
	}
	ports = get_bytes(l3, offset, sizeof(*ports));
	return ports ? *ports : 0;
}

/* What follows the IPv4 header `ip`, which is at `offset`. */
static __always_inline struct l4 find_l4_of_ipv4(const struct ipv4_header *ip, __u32 offset)
{
	struct l4 l4 = {
		.offset = offset + ipv4_header_bytes(ip),
		.proto = ip->protocol,
		.is_fragment = !!(ip->fragment & IPV4_FRAGMENT_MASK),
	};

	return l4;
}

#endif
