/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Linux multipath routing at XDP speed:
 * parse -> admit -> look up -> key -> hash -> select -> rewrite -> redirect.
 *
 * Promises: the same next hop as Linux, ICMP errors follow their flow, and anything that cannot
 * safely be forwarded is passed to Linux with a counted reason.
 *
 * Headers are functions over values. Code that uses maps is in the .c files, which compiler.py
 * joins to one text, since bcc rewrites map accesses in the main source file only. Here are the
 * entry points, and the single exit that counts.
 */
#include "maps.c"
#include "ingress.c"
#include "lookup.c"
#include "nexthops.c"
#include "admit.c"
#include "decide.c"

static __always_inline void count_stat(u32 index)
{
	u64 *packets = reason_stats.lookup(&index);

	if (packets)
		*packets += 1;
}

static __always_inline void count_traffic(u32 nexthop, u32 bytes)
{
	struct traffic *traffic = path_stats.lookup(&nexthop);

	if (traffic) {
		traffic->packets += 1;
		traffic->bytes += bytes;
	}
}

/* Carries the decision out and counts: the single exit. */
static __always_inline int finish(struct xdp_md *ctx, const struct packet *p,
				  const struct decision *d, enum reason reason)
{
	u32 bytes;

	/* The slot of a device that has just been deleted is empty, and Linux has another route by now.
	 * This comes first: if the packet passes, Linux must get it unchanged. The target set here
	 * has no effect unless the verdict is XDP_REDIRECT. */
	if (!reason && devices.redirect_map(d->device, XDP_PASS) != XDP_REDIRECT)
		reason = REASON_EGRESS_DOWN;
	if (!reason)
		reason = resize(ctx, &p->link, p->l3_length, &d->egress);
	if (!reason)
		reason = rewrite(ctx, p->link.eth_proto, &d->egress);
	if (reason) {
		count_stat(reason);
		return XDP_PASS;
	}
	bytes = ctx->data_end - ctx->data;
	count_traffic(d->nexthop, bytes);
	if (p->quote.error)
		count_stat(p->quote.error);
	return XDP_REDIRECT;
}

/*
 * Each build has the entry points of one variant only, since compiling takes most of the time of an
 * attach. VARIANT_MAIN runs on the interfaces.
 */
#ifdef VARIANT_MAIN
int xdpecmp(struct xdp_md *ctx)
{
	struct packet p = {};
	struct decision d = {};
	enum reason reason = decide(ctx, &p, &d);

	return finish(ctx, &p, &d, reason);
}

/* For the agent, in a test run: writes bpf_jiffies64() to the first eight bytes of the frame. */
int xdpecmp_clock(struct xdp_md *ctx)
{
	u64 *out = (void *)(long)ctx->data;

	if ((void *)(out + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	*out = bpf_jiffies64();
	return XDP_PASS;
}
#endif

/* VARIANT_DEEP is what call_deep() calls; only built if the hash policy can need it. */
#ifdef VARIANT_DEEP
int xdpecmp_deep(struct xdp_md *ctx)
{
	struct workspace *space = get_workspace();
	struct decision d = {};

	if (!space)
		return XDP_PASS;
	return finish(ctx, &space->packet, &d, decide_deep(ctx, space, &d));
}
#endif

#include "explain.c"
