/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Address -> group, by longest prefix match; and what Linux checks of the source address by the
 * same look-up. In front of the IPv4 trie there are tables indexed by the address, in front of the
 * IPv6 one a cache of recent destinations: both only say what the trie would, sooner. The maps hold
 * every route that may match; one that only Linux handles leads to a group that passes.
 */
#include "abi.h"
#include "parse.h"

#define RP_FILTER_STRICT 1
#define HASH_MULTIPLIER_64 0x9e3779b97f4a7c15ULL /* 2^64 by the golden ratio: Fibonacci hashing */
#define DESTINATION_HASH_SHIFT 40

/* The group in one load, since it may change at any time. An id beyond the map means: no route. */
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

/* What the direct tables say (struct direct); 0: ask the trie. */
static __always_inline u32 look_up_direct(__be32 address)
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

static __always_inline struct group look_up4(__be32 address)
{
	struct route4_key key = {.prefixlen = 32, .address = address};
	u32 id = look_up_direct(address);

	return load_group(id ? &id : routes4.lookup(&key));
}

/* The id of a group. A reason is one too: groups[reason] passes with that reason. */
static __always_inline u32 look_up_trie6(const u64 *address)
{
	/* copied by words: byte by byte takes longer than the look-up */
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
 * `epoch` was read before the trie, and the agent increments it after it changed the trie: so an
 * entry is never older than its epoch.
 */
static __always_inline struct group look_up6(const u64 *address, u32 epoch)
{
	u64 mixed = (address[0] ^ (address[1] << 32 | address[1] >> 32)) * HASH_MULTIPLIER_64;
	u32 index = mixed >> DESTINATION_HASH_SHIFT & (DESTINATIONS_MAX - 1);
	struct destination *known = destinations.lookup(&index);
	u32 group;

	if (known && known->epoch == epoch && known->address[0] == address[0] &&
	    known->address[1] == address[1])
		return load_group(&known->group);
	group = look_up_trie6(address);
	if (known) {
		known->address[0] = address[0];
		known->address[1] = address[1];
		known->group = group;
		known->epoch = epoch;
	}
	return load_group(&group);
}

static __always_inline u32 load_ifindex(u32 id)
{
	struct nexthop *nexthop = nexthops.lookup(&id);

	return nexthop ? nexthop->ifindex : 0;
}

#define STRICT_CHECK_PATHS 16 /* that uses_interface() looks at */

/* Whether one of the group's paths leaves by this interface: fib_info_nh_uses_dev(). 0 in doubt. */
static __always_inline int uses_interface(const struct group *group, u32 ifindex)
{
	if (group->kind == GROUP_SINGLE)
		return load_ifindex(group->first) == ifindex;
	if (group->kind == GROUP_RESILIENT)
		return 0; /* its next hops are spread over many buckets: Linux checks */
	for (u32 i = 0; i < STRICT_CHECK_PATHS; i++) {
		u32 index = group->first + i;
		struct path *path;

		if (i >= group->count)
			break;
		path = paths.lookup(&index);
		if (path && load_ifindex(path->nexthop) == ifindex)
			return 1;
	}
	return 0; /* none, or one beyond those looked at: Linux checks */
}

/*
 * fib_validate_source() in net/ipv4/fib_frontend.c. Even with rp_filter off, Linux refuses the
 * host's own addresses as a source, and sometimes broadcast ones; with a Bloom filter over them
 * nearly every packet needs no second look-up.
 */
static __always_inline enum reason check_source4(const struct config *config,
						 const struct ingress *ingress, __be32 source)
{
	u32 bit = (source * LOCAL4_FILTER_MULTIPLIER) >> LOCAL4_FILTER_SHIFT;
	struct group group;

	if (!ingress->rp_filter &&
	    !(config->local4_filter[(bit >> 6) & (LOCAL4_FILTER_WORDS - 1)] >> (bit & 63) & 1))
		return REASON_FORWARDED;
	group = look_up4(source);
	if (group.kind == GROUP_PASS) {
		if (group.first == REASON_ROUTE_LOCAL || group.first == REASON_ROUTE_SPECIAL)
			return REASON_MARTIAN_SOURCE;
		return ingress->rp_filter ? REASON_RP_FILTER : REASON_FORWARDED;
	}
	if (ingress->rp_filter == RP_FILTER_STRICT && !uses_interface(&group, ingress->ifindex))
		return REASON_RP_FILTER;
	return REASON_FORWARDED;
}
