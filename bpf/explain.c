/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VARIANT_EXPLAIN decides by the very same code on the same maps, and writes down what it decided
 * instead of carrying it out and counting it. For test runs of `xdpecmp explain` and `verify`.
 */
#include "abi.h"
#include "packet.h"

#ifdef VARIANT_EXPLAIN
BPF_F_TABLE("array", u32, struct explanation, explanation, 1, MMAPABLE);

static __always_inline int write_down(const struct packet *p, const struct decision *d,
				      enum reason reason)
{
	u32 zero = 0;
	struct explanation *e = explanation.lookup(&zero);

	if (!e)
		return XDP_ABORTED;
	e->reason = reason;
	e->family = p->family;
	e->ingress_ifindex = p->ingress_ifindex;
	e->l3_offset = p->link.l3_offset;
	e->config_slot = p->config_slot;
	e->hash = d->hash;
	e->nexthop = d->nexthop;
	e->icmp_error = p->quote.error;
	e->quote_offset = p->quote.offset;
	e->group = p->group;
	return XDP_PASS;
}

int xdpecmp_explain(struct xdp_md *ctx)
{
	struct packet p = {};
	struct decision d = {.hash = EXPLAINED_NOTHING, .nexthop = EXPLAINED_NOTHING};
	enum reason reason = decide(ctx, &p, &d);

	return write_down(&p, &d, reason);
}

int xdpecmp_explain_deep(struct xdp_md *ctx)
{
	struct workspace *space = workspace();
	struct decision d = {.hash = EXPLAINED_NOTHING, .nexthop = EXPLAINED_NOTHING};

	if (!space)
		return XDP_ABORTED;
	return write_down(&space->packet, &d, decide_deep(ctx, space, &d));
}
#endif
