/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_KEY_H
#define XDPECMP_KEY_H
/*
 * Packet -> flow key -> 31-bit hash, as the kernel has them under
 * net.ipv4.fib_multipath_hash_policy and its IPv6 sister:
 *   0  addresses; for IPv6 with flow label and next header
 *   1  addresses, ports, protocol
 *   2  as 0, of the innermost IP header
 *   3  the fields that fib_multipath_hash_fields names, outer and inner
 * Matches fib_multipath_hash() in net/ipv4/route.c and rt6_multipath_hash() in net/ipv6/route.c.
 *
 * Where the packet is an ICMP error, `offset` is that of the packet which it quotes. Sorting
 * addresses and ports gives both directions of a flow one hash, so the quote, which runs the other
 * way, needs no turning; but policy 3 may leave out one side, so there it is turned round first.
 */
#include "icmp.h"
#include "siphash.h"
#include "walk.h"

struct key4 {
	__be32 source, destination;
	__u32 ports; /* both as they stand, source first */
	__u8 proto;
};

struct key6 {
	__u64 source[2], destination[2]; /* as they stand */
	__u32 label;                     /* as the policy has it: network or host order */
	__u32 ports;
	__u8 proto;
};

#define SIP_WORDS_MAX 9

/* What takes loops to work out: in map memory, see struct walk. */
struct scratch {
	__u64 words[SIP_WORDS_MAX]; /* a key laid out for hashing */
	struct walk walk;
	__u16 pad;
};
_Static_assert(sizeof(struct scratch) == 96, "scratch");

/* --- keys to hashes: struct flow_keys from `basic` on, as 64-bit words ---------------------- */

/* __flow_hash_consistentify() in net/core/flow_dissector.c compares both ports as they lie. */
static __always_inline __u64 sorted_ports(__u32 ports)
{
	__u32 source = ports & 0xffff, destination = ports >> 16;

	return destination < source ? (source << 16) | destination : ports;
}

/* The state after a key's first three words, of which the latter two are 0. */
static __always_inline struct sip sip_begin(const struct config *config, __u64 first)
{
	struct sip s;

	if (first == (__u64)PROTO_TCP << 16)
		return sip_load(config->sip_after_tcp);
	if (first == (__u64)PROTO_UDP << 16)
		return sip_load(config->sip_after_udp);
	s = sip_load(config->sip_start);
	sip_word(&s, first);
	sip_word(&s, 0);
	sip_word(&s, 0);
	return s;
}

/* All 32 bits. A key without protocol and ports begins with the four zero words hashed ahead. */
static __always_inline __u32 hash4(const struct config *config, const struct key4 *key)
{
	__u64 low = key->source, high = key->destination;
	struct sip s;

	if (key->destination < key->source) {
		low = key->destination;
		high = key->source;
	}
	if (!key->proto && !key->ports) {
		s = sip_load(config->sip_after_zero);
	} else {
		s = sip_begin(config, (__u64)key->proto << 16);
		sip_word(&s, sorted_ports(key->ports) << 32);
	}
	sip_word(&s, low << 32);
	sip_word(&s, high);
	return sip_finish(&s, 48);
}

static __always_inline int before6(const __u64 a[2], const __u64 b[2])
{
	if (a[0] != b[0])
		return __builtin_bswap64(a[0]) < __builtin_bswap64(b[0]);
	return __builtin_bswap64(a[1]) < __builtin_bswap64(b[1]);
}

/* The last five words of an IPv6 key: in order, from the middle of a word on, four bytes of padding. */
static __always_inline void address_words6(const struct key6 *key, __u64 words[5])
{
	int swap = before6(key->destination, key->source);
	__u64 low0 = swap ? key->destination[0] : key->source[0];
	__u64 low1 = swap ? key->destination[1] : key->source[1];
	__u64 high0 = swap ? key->source[0] : key->destination[0];
	__u64 high1 = swap ? key->source[1] : key->destination[1];

	words[0] = low0 << 32;
	words[1] = low0 >> 32 | low1 << 32;
	words[2] = low1 >> 32 | high0 << 32;
	words[3] = high0 >> 32 | high1 << 32;
	words[4] = high1 >> 32;
}

static __always_inline __u32 hash6(const struct config *config, const struct key6 *key)
{
	struct sip s = sip_begin(config, (__u64)key->label << 32 | (__u64)key->proto << 16);
	__u64 words[5];

	address_words6(key, words);
	sip_word(&s, sorted_ports(key->ports) << 32);
	sip_word(&s, words[0]);
	sip_word(&s, words[1]);
	sip_word(&s, words[2]);
	sip_word(&s, words[3]);
	sip_word(&s, words[4]);
	return sip_finish(&s, 72);
}

/* --- policies 0 and 1 ----------------------------------------------------------------------- */

/* Both families: 0 where the quoted header is cut, which cannot be: quote_at() looked. */
static __always_inline __u32 hash_simple4(const struct config *config, const struct l3 *l3,
					  __u32 offset)
{
	const struct ipv4_header *ip = l3->start;
	struct key4 key = {};

	if (offset)
		ip = l3_bytes(l3, offset, sizeof(*ip));
	if (!ip)
		return 0;
	key.source = ip->source;
	key.destination = ip->destination;
	if (config->policy4 == 1) {
		struct l4 l4 = ipv4_l4(ip, offset);

		key.proto = l4.proto;
		key.ports = load_ports(l3, &l4);
	}
	return hash4(config, &key);
}

static __always_inline void load_addresses6(struct key6 *key, const struct ipv6_header *ip)
{
	key->source[0] = ((const __u64 *)ip->source)[0];
	key->source[1] = ((const __u64 *)ip->source)[1];
	key->destination[0] = ((const __u64 *)ip->destination)[0];
	key->destination[1] = ((const __u64 *)ip->destination)[1];
}

/* Whether it was enough: extension headers under policy 1 are for hash_deep(). */
static __always_inline int hash_simple6(const struct config *config, const struct l3 *l3,
					__u32 offset, __u32 *hash)
{
	const struct ipv6_header *ip = l3_bytes(l3, offset, sizeof(*ip));
	struct key6 key = {};

	if (!ip)
		return 0;
	load_addresses6(&key, ip);
	key.proto = ip->next_header;
	if (config->policy6 == 1) {
		struct l4 l4 = {.offset = offset + sizeof(*ip), .proto = ip->next_header};

		if (is_extension_header(ip->next_header))
			return 0;
		key.ports = load_ports(l3, &l4);
	} else {
		/* as it stands, but for --flow-label ignore */
		key.label = ip->version_class_label & config->label_mask;
	}
	*hash = hash6(config, &key);
	return 1;
}

/* --- policies 2 and 3, and what takes a walk under policy 1 --------------------------------- */

/* Bits of fib_multipath_hash_fields; those of inner headers are the same, six to the left. */
#define FIELD_SOURCE 0x01
#define FIELD_DESTINATION 0x02
#define FIELD_PROTO 0x04
#define FIELD_LABEL 0x08
#define FIELD_SOURCE_PORT 0x10
#define FIELD_DESTINATION_PORT 0x20
#define FIELDS_MASK 0x3f
#define FIELDS_INNER_SHIFT 6

/* Hashes `count` words one after another: small rather than fast. */
static __always_inline __u32 hash_words(const struct config *config, const __u64 *words,
					__u32 count)
{
	struct sip s = sip_load(config->sip_start);

#pragma nounroll
	for (__u32 i = 0; i < SIP_WORDS_MAX; i++) {
		if (i >= count)
			break;
		sip_word(&s, words[i]);
	}
	return sip_finish(&s, count * 8);
}

/* All ones where the field is chosen, else 0: masks rather than branches, for the verifier's sake. */
static __always_inline __u64 field_mask(__u32 fields, __u32 bit)
{
	return -(__u64)(fields >> bit & 1);
}

/* The fields that a policy chose of an answer are those of the flow with both sides exchanged. */
static __always_inline __u32 turn_fields(__u32 fields)
{
	return (fields & (FIELD_PROTO | FIELD_LABEL)) |
	       (fields & (FIELD_SOURCE | FIELD_SOURCE_PORT)) << 1 |
	       (fields & (FIELD_DESTINATION | FIELD_DESTINATION_PORT)) >> 1;
}

/* The hash over the chosen fields of the packet that the walk is at. */
static __always_inline __u32 hash_fields(const struct config *config, const struct l3 *l3,
					 struct scratch *scratch, __u32 fields)
{
	__u64 source = field_mask(fields, 0), destination = field_mask(fields, 1);
	__u64 port_mask = (field_mask(fields, 4) & 0xffff) | (field_mask(fields, 5) & 0xffff0000);
	volatile struct walk *w = &scratch->walk;
	struct l4 l4 = walk_l4(w);
	__u64 *words = scratch->words;
	__u32 count = 6;

	words[0] = (w->proto & field_mask(fields, 2)) << 16;
	words[1] = words[2] = 0;
	words[3] = sorted_ports(load_ports(l3, &l4) & port_mask) << 32;
	if (w->family == 4) {
		const struct ipv4_header *ip = l3_bytes(l3, w->ip, sizeof(*ip));
		__u32 from, to;

		if (!ip)
			return 0;
		from = ip->source & source;
		to = ip->destination & destination;
		words[4] = (__u64)(to < from ? to : from) << 32;
		words[5] = to < from ? from : to;
	} else {
		const struct ipv6_header *ip = l3_bytes(l3, w->ip, sizeof(*ip));
		struct key6 key;

		if (!ip)
			return 0;
		load_addresses6(&key, ip);
		key.source[0] &= source;
		key.source[1] &= source;
		key.destination[0] &= destination;
		key.destination[1] &= destination;
		words[0] |= (be32(w->label) & field_mask(fields, 3)) << 32;
		address_words6(&key, &words[4]);
		count = 9;
	}
	return hash_words(config, words, count);
}

#define ROTATE_LEFT32(x, bits) (((x) << (bits)) | ((x) >> (32 - (bits))))

/* jhash_2words(a, b, 0): include/linux/jhash.h */
static __always_inline __u32 jhash_2words(__u32 a, __u32 b)
{
	__u32 c = 0xdeadbeef + (2 << 2);

	a += c;
	b += c;
	c ^= b;
	c -= ROTATE_LEFT32(b, 14);
	a ^= c;
	a -= ROTATE_LEFT32(c, 11);
	b ^= a;
	b -= ROTATE_LEFT32(a, 25);
	c ^= b;
	c -= ROTATE_LEFT32(b, 16);
	a ^= c;
	a -= ROTATE_LEFT32(c, 4);
	b ^= a;
	b -= ROTATE_LEFT32(a, 14);
	c ^= b;
	c -= ROTATE_LEFT32(b, 24);
	return c;
}

#define FIELDS_OF_POLICY_1                                                                         \
	(FIELD_SOURCE | FIELD_DESTINATION | FIELD_PROTO | FIELD_SOURCE_PORT | FIELD_DESTINATION_PORT)
#define FIELDS_OF_POLICY_2                                                                         \
	((FIELD_SOURCE | FIELD_DESTINATION | FIELD_PROTO | FIELD_LABEL) << FIELDS_INNER_SHIFT)

/*
 * Any policy for the packet at `offset`. A packet that we cannot follow to its end is for Linux; a
 * quote is cut by nature, so there what it shows has to do.
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
	if (policy == 1)
		fields = FIELDS_OF_POLICY_1;
	if (policy == 2)
		fields = FIELDS_OF_POLICY_2;
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
		if (policy == 2 && w->family == 4)
			chosen = FIELD_SOURCE | FIELD_DESTINATION;
		hash = hash_fields(config, l3, scratch, is_quote ? turn_fields(chosen) : chosen);
		if (!round)
			outer = hash;
		else if (policy == 2 || w->is_encapsulated)
			inner = hash;
	}
	if (policy == 3)
		outer = jhash_2words(outer, inner);
	*hash31 = (policy == 2 ? inner : outer) >> 1;
	return REASON_FORWARDED;
}

#endif
