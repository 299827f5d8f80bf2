/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Group and hash -> next hop, as fib_select_multipath() in net/ipv4/fib_semantics.c and
 * nexthop_select_path() in net/ipv4/nexthop.c choose it; and whether that next hop can take the
 * packet. If it cannot, the packet passes to Linux: no other next hop is tried here.
 */
#include "abi.h"
#include "packet.h"
#include "select.h"

static __always_inline enum reason select_by_bound(const struct group *group, u32 hash,
						   u32 *nexthop)
{
	struct search search = {.first = group->first, .count = group->count};
	struct path *path;

	for (int i = 0; i < SEARCH_STEPS && search.count > 1; i++) {
		u32 probe = choose_probe(&search);

		path = paths.lookup(&probe);
		if (!path)
			return REASON_ROUTE_UNSUPPORTED;
		narrow_search(&search, path->bound, hash);
	}
	path = paths.lookup(&search.first);
	if (!path)
		return REASON_ROUTE_UNSUPPORTED;
	*nexthop = path->nexthop;
	return REASON_FORWARDED;
}

/*
 * nexthop_select_path_res() in net/ipv4/nexthop.c. Linux moves idle buckets, and does not see
 * packets that are forwarded here. So the first packet of a bucket in each period of 2^report_shift
 * jiffies passes: Linux chooses the same bucket for it, and keeps that. ICMP errors never pass for
 * this, since Linux may choose another bucket for them. used_jiffies tells the agent which buckets
 * are idle.
 */
static __always_inline enum reason select_by_bucket(const struct packet *p, u32 hash, u32 *nexthop)
{
	u32 index = p->group.first + choose_bucket(hash, p->group.count);
	struct bucket *bucket = buckets.lookup(&index);

	if (!bucket)
		return REASON_ROUTE_UNSUPPORTED;
	*nexthop = *(volatile u32 *)&bucket->nexthop;
#ifndef VARIANT_EXPLAIN /* explaining a packet is no use of the bucket */
	u32 now = bpf_jiffies64(), used = bucket->used_jiffies, shift = p->group.report_shift;

	if (shift && p->quote.error)
		return REASON_FORWARDED;
	if (used != now)
		bucket->used_jiffies = now;
	if (shift && (now ^ used) >> (shift & 31))
		return REASON_BUCKET_USE;
#endif
	return REASON_FORWARDED;
}

static __always_inline enum reason select_path(const struct packet *p, struct decision *d)
{
	if (p->group.kind == GROUP_RESILIENT)
		return select_by_bucket(p, d->hash, &d->nexthop);
	return select_by_bound(&p->group, d->hash, &d->nexthop);
}

/* Whether the chosen next hop can take this packet now; fills in d->egress and d->device. */
static __always_inline enum reason check_egress(const struct packet *p, struct decision *d)
{
	u32 id = d->nexthop;
	struct nexthop *nexthop = nexthops.lookup(&id);
	enum reason reason;
	u64 *words; /* numbered as in struct nexthop */

	if (!nexthop)
		return REASON_ROUTE_UNSUPPORTED;
	words = (u64 *)nexthop;
	d->egress.neighbour_word = *(volatile u64 *)&words[1];
	d->egress.device_word = *(volatile u64 *)&words[2];
	reason = (u8)(d->egress.neighbour_word >> ABOVE_MAC);
	if (reason == REASON_EGRESS_NO_XDP && (p->ingress_flags & INTERFACE_GENERIC))
		reason = REASON_FORWARDED;
	if (reason)
		return reason;
	if (p->l3_length > d->egress.device_word >> ABOVE_MAC)
		return REASON_MTU;
	/* ICMP errors are never merged, and do not follow their flow if they pass */
	if ((nexthop->flags & NEXTHOP_NO_OFFLOADS) &&
	    (p->is_partial || ((p->ingress_flags & INTERFACE_MERGES_UNSEEN) && !p->quote.error)))
		return REASON_PARTIAL_CHECKSUM;
	if (nexthop->ifindex == p->ingress_ifindex &&
	    (p->ingress_flags & INTERFACE_SEND_REDIRECTS))
		return REASON_REDIRECT;
	d->device = nexthop->device;
	d->egress.tags = words[3];
	return REASON_FORWARDED;
}
