/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_WALK_H
#define XDPECMP_WALK_H
/*
 * From one header to the next: IPv6 extension headers, and IP within IP or GRE, in the order and
 * with the stops of __skb_flow_dissect() in net/core/flow_dissector.c, whose result is what Linux
 * hashes under policies 1 to 3.
 *
 * Where Linux would read on and we don't (more headers than MAX_HEADERS, a header that is cut, GRE
 * that carries something else than IP), the walk is `broken`: such a packet is for Linux.
 */
#include "parse.h"

/* Bytes of one IP packet: `length` of them count, whatever the frame carries behind them. */
struct l3 {
	void *start;
	void *end; /* of the frame */
	__u32 length;
};

#define L3_BYTES_MAX 0x3fff

/* `size` bytes at `offset`, or NULL where the packet is shorter or the offset beyond reason. */
static __always_inline void *l3_bytes(const struct l3 *l3, __u64 offset, __u32 size)
{
	void *at;

	if (offset > L3_BYTES_MAX || offset + size > l3->length)
		return NULL;
	/* for the verifier: bounds on the very register that is added, and one pointer to compare and
	 * to read by */
	asm volatile("%0 &= 0x3fff" : "+r"(offset));
	at = l3->start + offset;
	asm volatile("" : "+r"(at));
	return at + size > l3->end ? NULL : at;
}

/* What follows an IP header and its extension headers. */
struct l4 {
	__u32 offset;
	__u8 proto;
	__u8 is_fragment;
};

/*
 * The state of a walk. It lives in map memory (struct scratch), not on the stack: what the verifier
 * reads from there is simply unknown to it, so that it follows a loop once a round and not once for
 * each combination of headers. Volatile, or the compiler would keep it in registers all the same.
 */
struct walk {
	__u32 ip;     /* offset of the innermost IP header entered */
	__u32 offset; /* of what comes next */
	__be32 label; /* the innermost IPv6 flow label that is not 0 */
	__u8 family;  /* of that IP header */
	__u8 proto;   /* of what comes next */
	__u8 is_fragment;
	__u8 is_encapsulated; /* IP within IP or GRE was met */
	__u8 has_routing;
	__u8 is_broken;
};

#define MAX_HEADERS 6 /* to be walked past, from where a walk starts or goes on */

#define GRE_CHECKSUM be16(0x8000)
#define GRE_ROUTING be16(0x4000)
#define GRE_KEY be16(0x2000)
#define GRE_SEQUENCE be16(0x1000)
#define GRE_VERSION_MASK be16(0x0007)

struct gre_header {
	__be16 flags;
	__be16 proto;
};

/* Steps into the IP header at w->offset. One that a walk begins with was looked at, or is quoted. */
static __always_inline void enter_ipv4(const struct l3 *l3, volatile struct walk *w)
{
	const struct ipv4_header *ip = l3_bytes(l3, w->offset, sizeof(*ip));

	if (!ip || (w->is_encapsulated && (ip->version_ihl & 0xf) < 5)) {
		w->is_broken = 1;
		return;
	}
	w->family = 4;
	w->ip = w->offset;
	w->offset += (ip->version_ihl & 0xf) * 4;
	w->proto = ip->protocol;
	w->is_fragment = !!(ip->fragment & IPV4_FRAGMENT_MASK);
}

static __always_inline void enter_ipv6(const struct l3 *l3, volatile struct walk *w)
{
	const struct ipv6_header *ip = l3_bytes(l3, w->offset, sizeof(*ip));
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

/* __skb_flow_dissect_gre(): the protocol and the length of a GRE header, 0 where we can't follow. */
static __always_inline __u32 gre_length(const struct l3 *l3, __u32 offset, __be16 *proto)
{
	const struct gre_header *gre = l3_bytes(l3, offset, sizeof(*gre));

	if (!gre || (gre->flags & (GRE_ROUTING | GRE_VERSION_MASK)))
		return 0;
	*proto = gre->proto;
	return sizeof(*gre) + (gre->flags & GRE_CHECKSUM ? 4 : 0) + (gre->flags & GRE_KEY ? 4 : 0) +
	       (gre->flags & GRE_SEQUENCE ? 4 : 0);
}

static __always_inline int is_extension_header(__u8 proto)
{
	return proto == NEXTHDR_HOP_BY_HOP || proto == NEXTHDR_ROUTING ||
	       proto == NEXTHDR_FRAGMENT || proto == NEXTHDR_DESTINATION;
}

/* Past one extension header, if this is one; whether the walk goes on. */
static __always_inline int skip_extension_header(const struct l3 *l3, volatile struct walk *w)
{
	const __u8 *header;

	if (w->family != 6 || w->is_fragment || !is_extension_header(w->proto))
		return 0;
	/* two bytes are enough for Linux to go on by, but for a fragment header */
	header = l3_bytes(l3, w->offset, 2);
	if (!header || (w->proto == NEXTHDR_FRAGMENT && !l3_bytes(l3, w->offset, 8))) {
		w->is_broken = 1;
		return 0;
	}
	if (w->proto == NEXTHDR_FRAGMENT) {
		w->is_fragment = 1;
		w->offset += 8;
	} else {
		w->offset += (header[1] + 1) * 8;
	}
	if (w->proto == NEXTHDR_ROUTING)
		w->has_routing = 1;
	w->proto = header[0];
	return !w->is_fragment;
}

/* From where `w` stands past all extension headers of this IP header. */
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

/* Into one inner IP packet, if there is one; whether the walk goes on. */
static __always_inline int enter_inner(const struct l3 *l3, volatile struct walk *w)
{
	__u8 inner = w->proto == PROTO_IPIP ? 4 : w->proto == PROTO_IPV6 ? 6 : 0;

	if (w->is_fragment || w->is_broken)
		return 0;
	if (w->proto == PROTO_GRE) {
		__be16 proto = 0;
		__u32 length = gre_length(l3, w->offset, &proto);

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

/* To the innermost packet: one loop over headers of every kind, as the dissector has it. */
static __always_inline void walk_to_innermost(const struct l3 *l3, volatile struct walk *w)
{
#pragma nounroll
	for (int i = 0; i < MAX_HEADERS; i++)
		if (!skip_extension_header(l3, w) && !enter_inner(l3, w))
			return;
	w->is_broken = !w->is_fragment &&
		       (is_tunnel(w->proto) || (w->family == 6 && is_extension_header(w->proto)));
}

/* Begins a walk at the IP header at `offset`, whose fixed part is there whole. */
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

static __always_inline struct l4 walk_l4(const volatile struct walk *w)
{
	struct l4 l4 = {.offset = w->offset, .proto = w->proto, .is_fragment = w->is_fragment};

	return l4;
}

/* --- layer 4 -------------------------------------------------------------------------------- */

/* Source and destination port as they stand, or 0: proto_ports_offset() in net/core/utils.c. */
static __always_inline __u32 load_ports(const struct l3 *l3, const struct l4 *l4)
{
	__u32 offset = l4->offset;
	const __u32 *ports;

	if (l4->is_fragment)
		return 0;
	switch (l4->proto) {
	case PROTO_AH:
		offset += 4;
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
	ports = l3_bytes(l3, offset, sizeof(*ports));
	return ports ? *ports : 0;
}

/* Of an IPv4 header at `offset`. */
static __always_inline struct l4 ipv4_l4(const struct ipv4_header *ip, __u32 offset)
{
	struct l4 l4 = {
		.offset = offset + (ip->version_ihl & 0xf) * 4,
		.proto = ip->protocol,
		.is_fragment = !!(ip->fragment & IPV4_FRAGMENT_MASK),
	};

	return l4;
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

/* VXLAN (RFC 7348, and what Linux took before), Geneve (RFC 8926). */
static __always_inline int is_udp_tunnel(__be16 port)
{
	return port == be16(4789) || port == be16(8472) || port == be16(6081);
}

/*
 * A host behind a veth or tap leaves checksums for hardware that isn't there. The field then holds
 * the sum over the pseudo-header alone (TCP, UDP) or 0 (SCTP), the packet's metadata say so, and
 * those are lost when native XDP redirects it. So what looks like that is passed to Linux, which
 * finishes it where it must. One finished checksum in 65,536 looks alike and takes the slow path
 * too. So does what a tunnel carries: there it is the inner checksum that is unfinished, and the
 * outer one of UDP is right as it is (lco_csum()) or 0.
 * `addresses`: the sum of source and destination. Source: tcp_v4_send_check(), udp_set_csum(),
 * sctp_packet_pack().
 */
static __always_inline int checksum_is_partial(const struct l3 *l3, const struct l4 *l4,
					       __u64 addresses)
{
	const __sum16 *checksum;
	const __be16 *udp;
	const __u32 *crc;

	if (l4->is_fragment)
		return 0;
	if (l4->proto == PROTO_SCTP) {
		crc = l3_bytes(l3, l4->offset + 8, sizeof(*crc));
		return crc && !*crc;
	}
	if (is_tunnel(l4->proto))
		return 1; /* what is inside may be unfinished too */
	if (l4->proto != PROTO_TCP && l4->proto != PROTO_UDP)
		return 0;
	if (l4->proto == PROTO_UDP) {
		udp = l3_bytes(l3, l4->offset, 8);
		if (udp && (!udp[3] || is_udp_tunnel(udp[1])))
			return 1;
	}
	checksum = l3_bytes(l3, l4->offset + (l4->proto == PROTO_TCP ? 16 : 6), sizeof(*checksum));
	return checksum && *checksum == fold_sum(addresses + be16(l4->proto) +
						 be16(l3->length - l4->offset));
}

#endif
