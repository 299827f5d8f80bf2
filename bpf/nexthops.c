/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A group and a hash -> the next hop, as fib_select_multipath() in net/ipv4/fib_semantics.c and
 * nexthop_select_path() in net/ipv4/nexthop.c choose it; and whether that can take the packet.
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
		u32 probe = search_probe(&search);

		path = paths.lookup(&probe);
		if (!path)
			return REASON_ROUTE_UNSUPPORTED;
		search_narrow(&search, path->bound, hash);
	}
	path = paths.lookup(&search.first);
	if (!path)
		return REASON_ROUTE_UNSUPPORTED;
	*nexthop = path->nexthop;
	return REASON_FORWARDED;
}

/*
 * nexthop_select_path_res() in net/ipv4/nexthop.c. Linux moves buckets that it takes for idle, and sees
 * no packet that is forwarded here. So the first packet of a bucket in each period of 2^report_shift
 * jiffies passes: Linux chooses that very bucket for it and knows that it is in use. That of an ICMP
 * error may be another one to Linux. The time of use tells the agent too which buckets are idle.
 */
static __always_inline enum reason select_by_bucket(const struct packet *p, u32 hash, u32 *nexthop)
{
	u32 index = p->group.first + bucket_of(hash, p->group.count);
	struct bucket *bucket = buckets.lookup(&index);

	if (!bucket)
		return REASON_ROUTE_UNSUPPORTED;
	*nexthop = *(volatile u32 *)&bucket->nexthop;
#ifndef VARIANT_EXPLAIN /* to ask is not to use */
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

/* Whether the chosen next hop can take this packet now, and by which header. */
static __always_inline enum reason resolve(const struct packet *p, struct decision *d)
{
	u32 id = d->nexthop;
	struct nexthop *nexthop = nexthops.lookup(&id);
	enum reason reason;
	u64 *words;

	if (!nexthop)
		return REASON_ROUTE_UNSUPPORTED;
	words = (u64 *)nexthop;
	d->egress.neighbour_word = *(volatile u64 *)&words[1];
	d->egress.device_word = *(volatile u64 *)&words[2];
	reason = (u8)(d->egress.neighbour_word >> 48);
	if (reason == REASON_EGRESS_NO_XDP && (p->ingress_flags & INTERFACE_GENERIC))
		reason = REASON_FORWARDED;
	if (reason)
		return reason;
	if (p->l3_length > d->egress.device_word >> 48)
		return REASON_MTU;
	/* nobody merges ICMP errors, and what passes does not follow its flow */
	if ((nexthop->flags & NEXTHOP_WHOLE_ONLY) &&
	    (p->is_partial || ((p->ingress_flags & INTERFACE_MERGES) && !p->quote.error)))
		return REASON_PARTIAL_CHECKSUM;
	if (nexthop->ifindex == p->ingress_ifindex &&
	    (p->ingress_flags & INTERFACE_SEND_REDIRECTS))
		return REASON_REDIRECT;
	d->device = nexthop->device;
	d->egress.tags = words[3];
	return REASON_FORWARDED;
}
