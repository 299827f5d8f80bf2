/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An address -> the group of next hops that Linux has a route to it by: tables indexed by the address
 * or a cache of destinations stand before the tries. And what Linux asks of the source address.
 */
#include "abi.h"
#include "parse.h"

/* Reads the group at once: it may flip to another any time. An id of no group is no route. */
static __always_inline struct group load_group(const u32 *id)
{
	struct group group = {.first = REASON_NO_ROUTE, .kind = GROUP_PASS};
	u32 index;
	u64 *word;

	if (!id)
		return group;
	index = *id;
	word = (u64 *)groups.lookup(&index);
	if (!word)
		return group;
	*(u64 *)&group = *(volatile u64 *)word;
	return group;
}

/* The group that the direct tables have for an address; 0: the trie has to be asked. */
static __always_inline u32 direct_group(__be32 address)
{
	u32 index = address & 0xff;
	struct direct *block = direct16.lookup(&index);
	u32 group = 0;

	if (block)
		group = *(volatile u16 *)&block->group[address >> 8 & 0xff];
	if (group)
		return group;
	index = be16(address);
	block = direct24.lookup(&index);
	if (block)
		group = *(volatile u16 *)&block->group[address >> 16 & 0xff];
	if (!(group & DIRECT_BLOCK))
		return group;
	index = group & ~DIRECT_BLOCK;
	block = direct32.lookup(&index);
	return block ? *(volatile u16 *)&block->group[address >> 24] : 0;
}

static __always_inline struct group route4(__be32 address)
{
	struct route4_key key = {.prefixlen = 32, .address = address};
	u32 id = direct_group(address);

	return load_group(id ? &id : routes4.lookup(&key));
}

/* The entry of `groups` for an address, as the trie has it. */
static __always_inline u32 trie_group6(const u64 *address)
{
	/* by words, which the trie then reads; a copy by bytes takes longer than the look-up */
	struct {
		u32 pad;
		struct route6_key key;
	} aligned = {.key.prefixlen = 128};
	u64 *words = (u64 *)aligned.key.address;
	u32 *group;

	words[0] = address[0];
	words[1] = address[1];
	group = routes6.lookup(&aligned.key);
	return group ? *group : REASON_NO_ROUTE;
}

/*
 * `epoch` was read before the trie is, and the agent counts it up after it changed the trie: so what
 * is kept under an epoch can't be older than it.
 */
static __always_inline struct group route6(const u64 *address, u32 epoch)
{
	u64 mixed = (address[0] ^ (address[1] << 32 | address[1] >> 32)) * 0x9e3779b97f4a7c15ULL;
	u32 index = mixed >> 40 & (DESTINATIONS_MAX - 1);
	struct destination *known = destinations.lookup(&index);
	u32 group;

	if (known && known->epoch == epoch && known->address[0] == address[0] &&
	    known->address[1] == address[1])
		return load_group(&known->group);
	group = trie_group6(address);
	if (known) {
		known->address[0] = address[0];
		known->address[1] = address[1];
		known->group = group;
		known->epoch = epoch;
	}
	return load_group(&group);
}

static __always_inline u32 nexthop_ifindex(u32 id)
{
	struct nexthop *nexthop = nexthops.lookup(&id);

	return nexthop ? nexthop->ifindex : 0;
}

#define STRICT_CHECK_PATHS 16

/* Whether one of the group's paths leaves by this interface: fib_info_nh_uses_dev(). */
static __always_inline int uses_interface(const struct group *group, u32 ifindex)
{
	if (group->kind == GROUP_SINGLE)
		return nexthop_ifindex(group->first) == ifindex;
	if (group->kind == GROUP_RESILIENT)
		return 0; /* its next hops are scattered over many buckets: Linux will see */
	for (u32 i = 0; i < STRICT_CHECK_PATHS; i++) {
		u32 index = group->first + i;
		struct path *path;

		if (i >= group->count)
			break;
		path = paths.lookup(&index);
		if (path && nexthop_ifindex(path->nexthop) == ifindex)
			return 1;
	}
	return 0; /* or among the paths not looked at: Linux will see */
}

/*
 * fib_validate_source() in net/ipv4/fib_frontend.c. With rp_filter off Linux still refuses our own
 * addresses as a source, and sometimes broadcast ones; a Bloom filter over them spares nearly every
 * packet the look-up.
 */
static __always_inline enum reason check_source4(const struct config *config,
						 const struct ingress *ingress, __be32 source)
{
	u32 bit = (source * 0x9e3779b1U) >> 23;
	struct group group;

	if (!ingress->rp_filter &&
	    !(config->local4_filter[(bit >> 6) & (LOCAL4_FILTER_WORDS - 1)] >> (bit & 63) & 1))
		return REASON_FORWARDED;
	group = route4(source);
	if (group.kind == GROUP_PASS) {
		if (group.first == REASON_ROUTE_LOCAL || group.first == REASON_ROUTE_SPECIAL)
			return REASON_MARTIAN_SOURCE;
		return ingress->rp_filter ? REASON_RP_FILTER : REASON_FORWARDED;
	}
	if (ingress->rp_filter == 1 && !uses_interface(&group, ingress->ifindex))
		return REASON_RP_FILTER;
	return REASON_FORWARDED;
}
