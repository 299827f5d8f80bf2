/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The decision about one frame, for `xdpecmp explain` and `verify`. VARIANT_EXPLAIN decides by the
 * same code and on the same maps, but records the decision instead of carrying it out and counting
 * it. It runs in test runs only (BPF_PROG_TEST_RUN).
 */
#include "abi.h"
#include "packet.h"

#ifdef VARIANT_EXPLAIN
BPF_F_TABLE("array", u32, struct explanation, explanation, 1, MMAPABLE);

static __always_inline int record(const struct packet *p, const struct decision *d,
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

	return record(&p, &d, reason);
}

int xdpecmp_explain_deep(struct xdp_md *ctx)
{
	struct workspace *space = get_workspace();
	struct decision d = {.hash = EXPLAINED_NOTHING, .nexthop = EXPLAINED_NOTHING};

	if (!space)
		return XDP_ABORTED;
	return record(&space->packet, &d, decide_deep(ctx, space, &d));
}
#endif
