/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_KEY_H
#define XDPECMP_KEY_H
/*
 * Packet -> flow key -> 31-bit hash, as the kernel has them under
 * net.ipv4.fib_multipath_hash_policy and its IPv6 sister:
 *   0  addresses; for IPv6 with flow label and next header
 *   1  addresses, ports, protocol, as the flow dissector finds them
 * Matches fib_multipath_hash() and ip_multipath_l3_keys() in net/ipv4/route.c,
 * rt6_multipath_hash() and ip6_multipath_l3_keys() in net/ipv6/route.c and
 * __skb_flow_dissect() in net/core/flow_dissector.c.
 *
 * An ICMP error is keyed by the packet that it quotes, so that it goes where the flow goes that
 * caused it (RFC 7690). Linux does this under policy 0, and for ICMPv6 only directly behind the
 * fixed header; we do it under both policies and behind destination options too.
 * Sorting addresses and ports gives both directions of a flow one hash, which is why the quote,
 * which runs the other way, needs no swapping.
 */
#include "parse.h"
#include "siphash.h"

/* Bytes of one IP packet: `length` of them count, whatever the frame carries behind them. */
struct l3 {
	void *start;
	void *end; /* of the frame */
	__u32 length;
};

/* `size` bytes at `offset`, or NULL where the packet is shorter. */
static __always_inline void *l3_bytes(const struct l3 *l3, __u32 offset, __u32 size)
{
	void *at;

	if (offset > 0x3fff || offset + size > l3->length)
		return NULL;
	at = l3->start + offset;
	return at + size > l3->end ? NULL : at;
}

/* --- layer 4 ---------------------------------------------------------------------------------- */

struct l4 {
	__u32 offset;
	__u8 proto;
	__u8 is_fragment;
	__u8 for_linux; /* a routing header, or a walk that we broke off before Linux would have */
};

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

#define MAX_EXTENSION_HEADERS 8

static __always_inline int is_extension_header(__u8 proto)
{
	return proto == NEXTHDR_HOP_BY_HOP || proto == NEXTHDR_ROUTING ||
	       proto == NEXTHDR_FRAGMENT || proto == NEXTHDR_DESTINATION;
}

/*
 * Walks IPv6 extension headers as the flow dissector does: a fragment header ends the walk, first
 * fragment or not, and names the protocol. Linux reads on where a header is cut after two bytes,
 * and walks twice as many: such packets are for Linux.
 */
static __always_inline void skip_extension_headers(const struct l3 *l3, struct l4 *l4)
{
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		const __u8 *header;

		if (!is_extension_header(l4->proto))
			return;
		header = l3_bytes(l3, l4->offset, 8);
		if (!header)
			break;
		if (l4->proto == NEXTHDR_FRAGMENT) {
			l4->proto = header[0];
			l4->is_fragment = 1;
			return;
		}
		if (l4->proto == NEXTHDR_ROUTING)
			l4->for_linux = 1;
		l4->proto = header[0];
		l4->offset += (header[1] + 1) * 8;
	}
	if (is_extension_header(l4->proto))
		l4->for_linux = 1;
}

static __always_inline struct l4 ipv4_l4(const struct ipv4_header *ip, __u32 offset)
{
	struct l4 l4 = {
		.offset = offset + (ip->version_ihl & 0xf) * 4,
		.proto = ip->protocol,
		.is_fragment = !!(ip->fragment & IPV4_FRAGMENT_MASK),
	};

	return l4;
}

static __always_inline struct l4 ipv6_l4(const struct l3 *l3, const struct ipv6_header *ip,
					 __u32 offset)
{
	struct l4 l4 = {
		.offset = offset + sizeof(*ip),
		.proto = ip->next_header,
	};

	skip_extension_headers(l3, &l4);
	return l4;
}

/*
 * A host behind a veth leaves TCP and UDP checksums for hardware that isn't there: the field holds
 * the sum over the pseudo-header alone, the packet's metadata say so, and those are lost when native
 * XDP redirects it. So what looks like that is passed to Linux, which finishes it where it must.
 * One finished checksum in 65,536 looks alike and takes the slow path too.
 * `addresses`: the sum of source and destination. Source: tcp_v4_send_check(), udp_set_csum().
 */
static __always_inline int checksum_is_partial(const struct l3 *l3, const struct l4 *l4,
					       __u64 addresses)
{
	__u32 offset = l4->proto == PROTO_TCP ? 16 : 6;
	const __sum16 *checksum;
	__u64 sum;

	if ((l4->proto != PROTO_TCP && l4->proto != PROTO_UDP) || l4->is_fragment)
		return 0;
	checksum = l3_bytes(l3, l4->offset + offset, sizeof(*checksum));
	if (!checksum)
		return 0;
	sum = addresses + be16(l4->proto) + be16(l3->length - l4->offset);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return *checksum == sum;
}

static __always_inline __u64 sum_addresses(const void *addresses, __u32 words)
{
	const __u32 *word = addresses;
	__u64 sum = 0;

#pragma unroll
	for (__u32 i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

/* --- ICMP errors ------------------------------------------------------------------------------ */

#define ANY_CODE 256

/* Which ICMP error this is, or ICMP_ERROR_BASE where it is none: icmp_errors.def. */
static __always_inline __u32 classify_icmp(__u32 packet_family, const struct icmp_header *icmp)
{
#define X(name, family, error_type, error_code, text)                                              \
	if (packet_family == family && icmp->type == error_type &&                                 \
	    (error_code == ANY_CODE || icmp->code == error_code))                                  \
		return ICMP_ERROR_##name;
#include "icmp_errors.def"
#undef X
	return ICMP_ERROR_BASE;
}

struct quote {
	__u32 error;  /* enum icmp_error; ICMP_ERROR_BASE: the packet is no ICMP error */
	__u32 offset; /* of the quoted IP header; 0 where it is not there whole */
};

/* `l4` must be the first header behind the IP header(s) of `l3`. */
static __always_inline struct quote find_quote(const struct l3 *l3, const struct l4 *l4,
					       __u32 family)
{
	__u32 quoted = family == 4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);
	struct quote quote = {.error = ICMP_ERROR_BASE};
	const struct icmp_header *icmp = l3_bytes(l3, l4->offset, sizeof(*icmp));

	if (!icmp)
		return quote;
	quote.error = classify_icmp(family, icmp);
	if (quote.error != ICMP_ERROR_BASE && l3_bytes(l3, l4->offset + sizeof(*icmp), quoted))
		quote.offset = l4->offset + sizeof(*icmp);
	return quote;
}

static __always_inline struct quote find_quote4(const struct l3 *l3, const struct ipv4_header *ip)
{
	struct l4 l4 = ipv4_l4(ip, 0);
	struct quote none = {.error = ICMP_ERROR_BASE};

	if (ip->protocol != PROTO_ICMP || (ip->fragment & IPV4_OFFSET_MASK))
		return none;
	return find_quote(l3, &l4, 4);
}

static __always_inline struct quote find_quote6(const struct l3 *l3, const struct l4 *l4)
{
	struct quote none = {.error = ICMP_ERROR_BASE};

	if (l4->proto != PROTO_ICMPV6 || l4->is_fragment)
		return none;
	return find_quote(l3, l4, 6);
}

/* --- keys ------------------------------------------------------------------------------------- */

struct key4 {
	__be32 source, destination;
	__u32 ports; /* both as they stand, source first */
	__u8 proto;
};

struct key6 {
	__u64 source[2], destination[2]; /* as they stand */
	__be32 label;
	__u32 ports;
	__u8 proto;
};

/* The key of the IPv4 packet that begins at `offset` of `l3`: the packet itself or its quote. */
static __always_inline struct key4 make_key4(const struct l3 *l3, __u32 offset, __u8 policy)
{
	const struct ipv4_header *ip = l3_bytes(l3, offset, sizeof(*ip));
	struct key4 key = {};

	if (!ip)
		return key;
	key.source = ip->source;
	key.destination = ip->destination;
	if (policy == 1) {
		struct l4 l4 = ipv4_l4(ip, offset);

		key.proto = l4.proto;
		key.ports = load_ports(l3, &l4);
	}
	return key;
}

static __always_inline struct key6 make_key6(const struct l3 *l3, __u32 offset, __u8 policy)
{
	const struct ipv6_header *ip = l3_bytes(l3, offset, sizeof(*ip));
	struct key6 key = {};

	if (!ip)
		return key;
	key.source[0] = ((const __u64 *)ip->source)[0];
	key.source[1] = ((const __u64 *)ip->source)[1];
	key.destination[0] = ((const __u64 *)ip->destination)[0];
	key.destination[1] = ((const __u64 *)ip->destination)[1];
	if (policy == 1) {
		struct l4 l4 = ipv6_l4(l3, ip, offset);

		key.proto = l4.proto;
		key.ports = load_ports(l3, &l4);
	} else {
		key.proto = ip->next_header;
		key.label = ip->version_class_label & IPV6_LABEL_MASK;
	}
	return key;
}

/* __flow_hash_consistentify() in net/core/flow_dissector.c compares both ports as they lie. */
static __always_inline __u64 sorted_ports(__u32 ports)
{
	__u32 source = ports & 0xffff, destination = ports >> 16;

	return destination < source ? (source << 16) | destination : ports;
}

/* --- hashes: struct flow_keys from `basic` on, as 64-bit words --------------------------------- */

static __always_inline __u32 hash4(const struct config *config, const struct key4 *key)
{
	__u64 low = key->source, high = key->destination;
	struct sip s;

	if (key->destination < key->source) {
		low = key->destination;
		high = key->source;
	}
	if (config->policy4 == 0) {
		s = sip_load(config->sip_after_zero);
	} else {
		s = sip_load(config->sip_start);
		sip_word(&s, (__u64)key->proto << 16);
		sip_word(&s, 0);
		sip_word(&s, 0);
		sip_word(&s, sorted_ports(key->ports) << 32);
	}
	sip_word(&s, low << 32);
	sip_word(&s, high);
	return sip_finish31(&s, 48);
}

static __always_inline int before6(const __u64 a[2], const __u64 b[2])
{
	if (a[0] != b[0])
		return __builtin_bswap64(a[0]) < __builtin_bswap64(b[0]);
	return __builtin_bswap64(a[1]) < __builtin_bswap64(b[1]);
}

static __always_inline __u32 hash6(const struct config *config, const struct key6 *key)
{
	int swap = before6(key->destination, key->source);
	__u64 low0 = swap ? key->destination[0] : key->source[0];
	__u64 low1 = swap ? key->destination[1] : key->source[1];
	__u64 high0 = swap ? key->source[0] : key->destination[0];
	__u64 high1 = swap ? key->source[1] : key->destination[1];
	struct sip s = sip_load(config->sip_start);

	sip_word(&s, (__u64)key->label << 32 | (__u64)key->proto << 16);
	sip_word(&s, 0);
	sip_word(&s, 0);
	sip_word(&s, sorted_ports(key->ports) << 32);
	/* the addresses begin in the middle of a word and end with four bytes of padding */
	sip_word(&s, low0 << 32);
	sip_word(&s, low0 >> 32 | low1 << 32);
	sip_word(&s, low1 >> 32 | high0 << 32);
	sip_word(&s, high0 >> 32 | high1 << 32);
	sip_word(&s, high1 >> 32);
	return sip_finish31(&s, 72);
}

#endif
