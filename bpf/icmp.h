/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_ICMP_H
#define XDPECMP_ICMP_H
/*
 * ICMP errors quote the packet that caused them; hashing the quote sends them where its flow goes
 * (RFC 7690). Linux looks for the quote under policy 0 only, and for ICMPv6 only directly behind
 * the fixed header: ip_multipath_l3_keys(), ip6_multipath_l3_keys(). We do it under every policy,
 * and behind destination options and an authentication header too.
 *
 * Which types are errors is listed in icmp_errors.def alone.
 */
#include "abi.h"
#include "walk.h"

struct quote {
	__u32 error;  /* the error's counter in reason_stats; 0: the packet is no ICMP error */
	__u32 offset; /* of the quoted IP header; 0 if that is not complete */
};

/* Bit masks over types: icmp_is_err() in include/linux/icmp.h, icmpv6_is_err() in icmpv6.h. */
enum {
#define X(name, family, type, code, text) | (family == 4 ? 1 << type : 0)
	ICMPV4_ERRORS = 0
#include "icmp_errors.def"
#undef X
	,
#define X(name, family, type, code, text) | (family == 6 ? 1 << type : 0)
	ICMPV6_ERRORS = 0
#include "icmp_errors.def"
#undef X
};
#define ICMP_ERROR_MAX 31 /* the last type with a bit */

/*
 * The counter of this ICMP error, or 0 if it is none. Computed from the type rather than looked up:
 * each branch would be one more path for the verifier to follow to the end of the program.
 */
static __always_inline __u32 classify_icmp(__u32 family, const struct icmp_header *icmp)
{
	__u32 errors = family == 4 ? ICMPV4_ERRORS : ICMPV6_ERRORS;
	__u32 base = family == 4 ? ICMPV4_STAT_BASE : ICMPV6_STAT_BASE;
	__u32 type = icmp->type;

	if (type > ICMP_ERROR_MAX || !(errors >> type & 1))
		return 0;
	if (family == 4 && type == ICMPV4_DEST_UNREACH && icmp->code == ICMPV4_FRAG_NEEDED)
		base += ICMP_STAT_FRAG_NEEDED_SHIFT;
	return base + type;
}

/* `offset`: of the ICMP header. */
static __always_inline struct quote read_quote(const struct l3 *l3, __u32 offset, __u32 family)
{
	__u32 quoted = family == 4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);
	struct quote quote = {};
	const struct icmp_header *icmp = get_bytes(l3, offset, sizeof(*icmp));

	if (!icmp)
		return quote;
	quote.error = classify_icmp(family, icmp);
	if (quote.error && get_bytes(l3, offset + sizeof(*icmp), quoted))
		quote.offset = offset + sizeof(*icmp);
	return quote;
}

/* The header has no options: check_ipv4() refuses them. */
static __always_inline struct quote find_quote4(const struct l3 *l3, const struct ipv4_header *ip)
{
	struct quote none = {};

	if (unlikely(ip->protocol == PROTO_ICMP) && !(ip->fragment & IPV4_OFFSET_MASK))
		return read_quote(l3, sizeof(*ip), 4);
	return none;
}

/* `l4`: what follows the extension headers. */
static __always_inline struct quote find_quote6(const struct l3 *l3, const struct l4 *l4)
{
	struct quote none = {};
	__u32 offset = l4->offset;
	__u8 proto = l4->proto;

	if (proto == PROTO_AH && !l4->is_fragment) {
		const struct ah_header *ah = get_bytes(l3, offset, sizeof(*ah));

		if (!ah)
			return none;
		proto = ah->next_header;
		offset += (ah->length + 2) * 4;
	}
	if (proto != PROTO_ICMPV6 || l4->is_fragment)
		return none;
	return read_quote(l3, offset, 6);
}

#endif
