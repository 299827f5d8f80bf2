/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_HASH_SIMPLE_H
#define XDPECMP_HASH_SIMPLE_H
/*
 * Packet -> hash under policies 0 and 1 if no walk through the packet is needed: most packets, and
 * fast. fib_multipath_hash() in net/ipv4/route.c, rt6_multipath_hash() in net/ipv6/route.c.
 *
 * `offset` is 0, or that of the packet which an ICMP error quotes. That needs no reversing, though
 * it went the other way: both directions have one hash. Left to hash_deep.h: policies 2 and 3, and
 * IPv6 extension headers under policy 1.
 */
#include "icmp.h"
#include "key.h"

/* Returns 0 if a quoted header is truncated, which read_quote() has excluded. */
static __always_inline __u32 hash_simple4(const struct config *config, const struct l3 *l3,
					  __u32 offset)
{
	const struct ipv4_header *ip = l3->start;
	struct key4 key = {};

	if (offset)
		ip = get_bytes(l3, offset, sizeof(*ip));
	if (!ip)
		return 0;
	key.source = ip->source;
	key.destination = ip->destination;
	if (config->policy4 == POLICY_L4) {
		struct l4 l4 = find_l4_of_ipv4(ip, offset);

		key.proto = l4.proto;
		key.ports = load_ports(l3, &l4);
	}
	return hash_key4(config, &key);
}

/* Returns 0 if hash_deep() is needed. */
static __always_inline int hash_simple6(const struct config *config, const struct l3 *l3,
					__u32 offset, __u32 *hash)
{
	const struct ipv6_header *ip = get_bytes(l3, offset, sizeof(*ip));
	struct key6 key = {};

	if (!ip)
		return 0;
	load_addresses6(&key, ip);
	key.proto = ip->next_header;
	if (config->policy6 == POLICY_L4) {
		struct l4 l4 = {.offset = offset + sizeof(*ip), .proto = ip->next_header};

		if (is_extension_header(ip->next_header))
			return 0;
		key.ports = load_ports(l3, &l4);
	} else {
		/* all of it, or nothing after `attach --flow-label ignore` */
		key.label = ip->version_class_label & config->label_mask;
	}
	*hash = hash_key6(config, &key);
	return 1;
}

#endif
