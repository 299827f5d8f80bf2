/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Frame -> next hop: the order of all steps up to the decision. The hash is computed here if that
 * is simple; if it takes a walk through the packet, xdpecmp_deep() goes on from there. Nothing is
 * carried out or counted here: finish() does that.
 */
#include "hash_deep.h"
#include "hash_simple.h"
#include "packet.h"

/* Returns 0 if the deep program is needed. */
static __always_inline int hash_simple(const struct config *config, const struct l3 *l3,
				       const struct packet *p, struct decision *d)
{
	u32 offset = p->quote.offset, hash = 0;

	if ((p->family == 4 ? config->policy4 : config->policy6) > POLICY_L4)
		return 0;
	if (p->family == 4)
		hash = hash_simple4(config, l3, offset);
	else if (!hash_simple6(config, l3, offset, &hash))
		return 0;
	d->hash = hash >> 1;
	return 1;
}

/* Calls xdpecmp_deep(), which has its own budget in the verifier. Returns only if there is none. */
static __always_inline enum reason call_deep(struct xdp_md *ctx, const struct packet *p)
{
	struct workspace *space = get_workspace();

	if (space) {
		space->packet = *p;
		programs.call(ctx, DEEP_PROGRAM);
	}
	return REASON_POLICY_UNSUPPORTED;
}

/*
 * With connection tracking Linux reassembles first (nf_defrag_ipv4, nf_defrag_ipv6), and hashes
 * ports that no fragment shows.
 */
static __always_inline u32 fragments_flag(u32 family)
{
	return family == 4 ? FRAGMENTS_OF_IPV4 : FRAGMENTS_OF_IPV6;
}

static __always_inline enum reason decide(struct xdp_md *ctx, struct packet *p,
					  struct decision *d)
{
	struct l3 l3 = {};
	struct config *config;
	enum reason reason = admit(ctx, p, &l3, &config);

	if (reason || !config)
		return reason;
	if (p->group.kind == GROUP_SINGLE) {
		d->nexthop = p->group.first;
		return check_egress(p, d);
	}
	reason = p->family == 4 ? config->pass_multipath4 : config->pass_multipath6;
	if (reason)
		return reason;
	if (p->is_fragment && (config->pass_fragments & fragments_flag(p->family)))
		return REASON_FRAGMENT;
	if (!hash_simple(config, &l3, p, d))
		return call_deep(ctx, p);
	reason = select_path(p, d);
	return reason ? reason : check_egress(p, d);
}

/* Goes on from call_deep(): hash, path, egress. */
static __always_inline enum reason decide_deep(struct xdp_md *ctx, struct workspace *space,
					       struct decision *d)
{
	struct packet *p = &space->packet;
	void *data = (void *)(long)ctx->data;
	struct l3 l3 = {.end = (void *)(long)ctx->data_end, .length = p->l3_length};
	u32 slot = p->config_slot, offset = p->link.l3_offset;
	struct config *c = config.lookup(&slot);
	enum reason reason;

	if (!c || offset > L3_OFFSET_MAX)
		return REASON_POLICY_UNSUPPORTED;
	l3.start = data + offset;
	reason = hash_deep(c, &l3, p->quote.offset, p->family, &space->scratch, &d->hash);
	if (!reason)
		reason = select_path(p, d);
	return reason ? reason : check_egress(p, d);
}
