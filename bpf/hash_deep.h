/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_HASH_DEEP_H
#define XDPECMP_HASH_DEEP_H
/*
 * Packet -> hash under any policy, if that takes a walk through the packet: policy 1 behind IPv6
 * extension headers, policy 2 (innermost IP header), policy 3 (fields that
 * fib_multipath_hash_fields names, outer and inner). fib_multipath_hash() in net/ipv4/route.c,
 * rt6_multipath_hash() in net/ipv6/route.c.
 *
 * `offset` is 0, or that of the packet which an ICMP error quotes. Policy 3 may leave out one side
 * of a flow, so there the sides of a quote are swapped: it went the other way.
 */
#include "jhash.h"
#include "key.h"

#define KEY_WORDS_MAX (KEY6_BYTES / 8)

/* What loops read and write: in map memory, see struct walk. */
struct scratch {
	__u64 words[KEY_WORDS_MAX]; /* a key laid out for hashing */
	struct walk walk;
	__u16 pad;
};
_Static_assert(sizeof(struct scratch) == 96, "scratch");

/* Bits of fib_multipath_hash_fields (include/net/ip_fib.h); those of inner headers further left. */
#define FIELD_SOURCE 0x01
#define FIELD_DESTINATION 0x02
#define FIELD_PROTO 0x04
#define FIELD_LABEL 0x08
#define FIELD_SOURCE_PORT 0x10
#define FIELD_DESTINATION_PORT 0x20
#define FIELDS_MASK 0x3f
#define FIELDS_INNER_SHIFT 6

/* Hashes `count` words, in a loop that is small rather than fast. */
static __always_inline __u32 hash_words(const struct config *config, const __u64 *words,
					__u32 count)
{
	struct sip s = sip_load(config->sip_start);

#pragma nounroll
	for (__u32 i = 0; i < KEY_WORDS_MAX; i++) {
		if (i >= count)
			break;
		sip_absorb(&s, words[i]);
	}
	return sip_finish(&s, count * 8);
}

/* All ones if the field is chosen, else 0: a branch would double what the verifier follows. */
static __always_inline __u64 field_mask(__u32 fields, __u32 field)
{
	return -(__u64)(fields >> __builtin_ctz(field) & 1);
}

/* Source for destination and vice versa. */
static __always_inline __u32 swap_fields(__u32 fields)
{
	return (fields & (FIELD_PROTO | FIELD_LABEL)) |
	       (fields & (FIELD_SOURCE | FIELD_SOURCE_PORT)) << 1 |
	       (fields & (FIELD_DESTINATION | FIELD_DESTINATION_PORT)) >> 1;
}

/* The hash over the chosen fields of the IP packet that the walk has reached. */
static __always_inline __u32 hash_fields(const struct config *config, const struct l3 *l3,
					 struct scratch *scratch, __u32 fields)
{
	__u64 source = field_mask(fields, FIELD_SOURCE);
	__u64 destination = field_mask(fields, FIELD_DESTINATION);
	__u64 port_mask = (field_mask(fields, FIELD_SOURCE_PORT) & 0xffff) |
			  (field_mask(fields, FIELD_DESTINATION_PORT) & 0xffff0000);
	volatile struct walk *w = &scratch->walk;
	struct l4 l4 = get_l4(w);
	__u64 *words = scratch->words;
	__u32 count = KEY4_BYTES / 8;

	words[0] = (w->proto & field_mask(fields, FIELD_PROTO)) << KEY_PROTO_SHIFT;
	words[1] = words[2] = 0;
	words[3] = sort_ports(load_ports(l3, &l4) & port_mask) << KEY_PORTS_SHIFT;
	if (w->family == 4) {
		const struct ipv4_header *ip = get_bytes(l3, w->ip, sizeof(*ip));
		__u32 from, to;

		if (!ip)
			return 0;
		from = ip->source & source;
		to = ip->destination & destination;
		words[4] = (__u64)(to < from ? to : from) << 32;
		words[5] = to < from ? from : to;
	} else {
		const struct ipv6_header *ip = get_bytes(l3, w->ip, sizeof(*ip));
		struct key6 key;

		if (!ip)
			return 0;
		load_addresses6(&key, ip);
		key.source[0] &= source;
		key.source[1] &= source;
		key.destination[0] &= destination;
		key.destination[1] &= destination;
		words[0] |= (be32(w->label) & field_mask(fields, FIELD_LABEL))
			    << KEY_LABEL_SHIFT;
		lay_out_addresses6(&key, &words[4]);
		count = KEY6_BYTES / 8;
	}
	return hash_words(config, words, count);
}

#define FIELDS_OF_POLICY_L4                                                                        \
	(FIELD_SOURCE | FIELD_DESTINATION | FIELD_PROTO | FIELD_SOURCE_PORT | FIELD_DESTINATION_PORT)
#define FIELDS_OF_POLICY_INNER_L3                                                                  \
	((FIELD_SOURCE | FIELD_DESTINATION | FIELD_PROTO | FIELD_LABEL) << FIELDS_INNER_SHIFT)

/*
 * Two rounds: over the outer header, then over the innermost. A packet whose walk breaks is passed
 * to Linux; a quote may be truncated, so there the fields that it has are enough.
 */
static __always_inline enum reason hash_deep(const struct config *config, const struct l3 *l3,
					     __u32 offset, __u32 family, struct scratch *scratch,
					     __u32 *hash31)
{
	__u32 fields = family == 4 ? config->fields4 : config->fields6;
	__u8 policy = family == 4 ? config->policy4 : config->policy6;
	volatile struct walk *w = &scratch->walk;
	int is_quote = offset != 0;
	__u32 outer = 0, inner = 0;

	start_walk(l3, w, offset, family);
	if (policy == POLICY_L4)
		fields = FIELDS_OF_POLICY_L4;
	if (policy == POLICY_INNER_L3)
		fields = FIELDS_OF_POLICY_INNER_L3;
#pragma nounroll
	for (__u32 round = 0; round < 2; round++) {
		__u32 chosen = (round ? fields >> FIELDS_INNER_SHIFT : fields) & FIELDS_MASK;
		__u32 hash;

		if (!chosen)
			continue;
		if (round)
			walk_to_innermost(l3, w);
		else
			walk_extension_headers(l3, w);
		if (w->is_broken && !is_quote)
			return REASON_ENCAPSULATION;
		if (policy == POLICY_INNER_L3 && w->family == 4)
			chosen = FIELD_SOURCE | FIELD_DESTINATION;
		hash = hash_fields(config, l3, scratch, is_quote ? swap_fields(chosen) : chosen);
		if (!round)
			outer = hash;
		else if (policy == POLICY_INNER_L3 || w->is_encapsulated)
			inner = hash;
	}
	if (policy == POLICY_CUSTOM)
		outer = jhash_2words(outer, inner);
	*hash31 = (policy == POLICY_INNER_L3 ? inner : outer) >> 1;
	return REASON_FORWARDED;
}

#endif
