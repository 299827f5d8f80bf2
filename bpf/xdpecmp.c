/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Linux multipath routing at XDP speed: parse -> route -> key -> hash -> select -> rewrite -> count.
 *
 * Three promises: the same next hop as Linux, ICMP errors follow their flow, and what is not plainly
 * forwardable is passed to Linux with a counted reason.
 *
 * Headers are functions over values. What touches maps is in the .c files, joined to one text before
 * they are compiled (compiler.py), since bcc rewrites map accesses in the main source alone.
 */
#include "maps.c"
#include "ingress.c"
#include "routes.c"
#include "nexthops.c"
#include "inspect.c"
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

/* Carries the decision out and counts: the one way out. */
static __always_inline int finish(struct xdp_md *ctx, const struct packet *p,
				  const struct decision *d, enum reason reason)
{
	u32 bytes;

	/* The slot of a device that has just gone is empty; Linux has another route by now. Asked
	 * first, since no refusal may change what Linux gets: where to is heeded only with the verdict. */
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
 * Each build has one variant of the entry points, since compiling is most of what attaching takes.
 * VARIANT_MAIN is what runs on the interfaces.
 */
#ifdef VARIANT_MAIN
int xdpecmp(struct xdp_md *ctx)
{
	struct packet p = {};
	struct decision d = {};
	enum reason reason = decide(ctx, &p, &d);

	return finish(ctx, &p, &d, reason);
}

/* For the agent, by test run: what bpf_jiffies64() says now, in the first eight bytes. */
int xdpecmp_clock(struct xdp_md *ctx)
{
	u64 *out = (void *)(long)ctx->data;

	if ((void *)(out + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	*out = bpf_jiffies64();
	return XDP_PASS;
}
#endif

/* VARIANT_DEEP goes on where go_deeper() left; only built where the hash policy can ask for it. */
#ifdef VARIANT_DEEP
int xdpecmp_deep(struct xdp_md *ctx)
{
	struct workspace *space = workspace();
	struct decision d = {};

	if (!space)
		return XDP_PASS;
	return finish(ctx, &space->packet, &d, decide_deep(ctx, space, &d));
}
#endif

#include "explain.c"
