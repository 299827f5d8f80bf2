/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_KEY_H
#define XDPECMP_KEY_H
/*
 * Flow key -> 32-bit hash, as Linux hashes `struct flow_keys` from its field `basic` on: addresses
 * and ports put in order, laid out as 64-bit words, by SipHash. fib_multipath_hash_from_keys() in
 * include/net/ip_fib.h, __flow_hash_consistentify() in net/core/flow_dissector.c.
 *
 * Sorting gives both directions of a flow one hash. What goes into a key is the hash policy's
 * affair: hash_simple.h for policies 0 and 1, hash_deep.h for all.
 */
#include "siphash.h"
#include "walk.h"

struct key4 {
	__be32 source, destination;
	__u32 ports; /* both as on the wire, source first */
	__u8 proto;
};

struct key6 {
	__u64 source[2], destination[2]; /* as on the wire */
	__u32 label;                     /* network or host order: the policies differ */
	__u32 ports;
	__u8 proto;
};

/* Bytes of a key, and the place of its fields in the words: in word 0, in word 3. */
#define KEY4_BYTES 48
#define KEY6_BYTES 72
#define KEY_PROTO_SHIFT 16
#define KEY_LABEL_SHIFT 32
#define KEY_PORTS_SHIFT 32

/* __flow_hash_consistentify() compares the ports as numbers in the host's byte order. */
static __always_inline __u64 sort_ports(__u32 ports)
{
	__u32 source = ports & 0xffff, destination = ports >> 16;

	return destination < source ? (source << 16) | destination : ports;
}

/* The state after the first three words of a key: `first`, and two that are always 0. */
static __always_inline struct sip begin_key(const struct config *config, __u64 first)
{
	struct sip s;

	if (first == (__u64)PROTO_TCP << KEY_PROTO_SHIFT)
		return sip_load(config->sip_after_tcp);
	if (first == (__u64)PROTO_UDP << KEY_PROTO_SHIFT)
		return sip_load(config->sip_after_udp);
	s = sip_load(config->sip_start);
	sip_absorb(&s, first);
	sip_absorb(&s, 0);
	sip_absorb(&s, 0);
	return s;
}

/* Without protocol and ports a key begins with four zero words: user space has hashed those. */
static __always_inline __u32 hash_key4(const struct config *config, const struct key4 *key)
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
		s = begin_key(config, (__u64)key->proto << KEY_PROTO_SHIFT);
		sip_absorb(&s, sort_ports(key->ports) << KEY_PORTS_SHIFT);
	}
	sip_absorb(&s, low << 32);
	sip_absorb(&s, high);
	return sip_finish(&s, KEY4_BYTES);
}

/* memcmp(a, b, 16) < 0 */
static __always_inline int is_less6(const __u64 a[2], const __u64 b[2])
{
	if (a[0] != b[0])
		return __builtin_bswap64(a[0]) < __builtin_bswap64(b[0]);
	return __builtin_bswap64(a[1]) < __builtin_bswap64(b[1]);
}

/* The last five words of an IPv6 key: both addresses in order, with four zero bytes at each end. */
static __always_inline void lay_out_addresses6(const struct key6 *key, __u64 words[5])
{
	int swap = is_less6(key->destination, key->source);
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

static __always_inline __u32 hash_key6(const struct config *config, const struct key6 *key)
{
	struct sip s = begin_key(config, (__u64)key->label << KEY_LABEL_SHIFT |
						 (__u64)key->proto << KEY_PROTO_SHIFT);
	__u64 words[5];

	lay_out_addresses6(key, words);
	sip_absorb(&s, sort_ports(key->ports) << KEY_PORTS_SHIFT);
	sip_absorb(&s, words[0]);
	sip_absorb(&s, words[1]);
	sip_absorb(&s, words[2]);
	sip_absorb(&s, words[3]);
	sip_absorb(&s, words[4]);
	return sip_finish(&s, KEY6_BYTES);
}

static __always_inline void load_addresses6(struct key6 *key, const struct ipv6_header *ip)
{
	key->source[0] = ((const __u64 *)ip->source)[0];
	key->source[1] = ((const __u64 *)ip->source)[1];
	key->destination[0] = ((const __u64 *)ip->destination)[0];
	key->destination[1] = ((const __u64 *)ip->destination)[1];
}

#endif
