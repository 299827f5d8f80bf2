/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From the frame to the next hop. The hash is reckoned at once where that is easy; where it takes a
 * walk through the packet, xdpecmp_deep() does it.
 */
#include "key.h"
#include "packet.h"

/* The hash where it is easy, which is where speed is wanted. Whether it was. */
static __always_inline int hash_simple(const struct config *config, const struct l3 *l3,
				       const struct packet *p, struct decision *d)
{
	u32 offset = p->quote.offset, hash = 0;

	if ((p->family == 4 ? config->policy4 : config->policy6) > 1)
		return 0;
	if (p->family == 4)
		hash = hash_simple4(config, l3, offset);
	else if (!hash_simple6(config, l3, offset, &hash))
		return 0;
	d->hash = hash >> 1;
	return 1;
}

/* Hands over to xdpecmp_deep(), which has a verifier's budget of its own; returns if it can't. */
static __always_inline enum reason go_deeper(struct xdp_md *ctx, const struct packet *p)
{
	struct workspace *space = workspace();

	if (space) {
		space->packet = *p;
		programs.call(ctx, 0);
	}
	return REASON_POLICY_UNSUPPORTED;
}

/*
 * Where connections are tracked Linux reassembles first: nf_defrag_ipv4 and _ipv6. It then hashes what
 * no fragment shows.
 */
static __always_inline u32 fragments_of(u32 family)
{
	return family == 4 ? FRAGMENTS_OF_IPV4 : FRAGMENTS_OF_IPV6;
}

static __always_inline enum reason decide(struct xdp_md *ctx, struct packet *p,
					  struct decision *d)
{
	struct l3 l3 = {};
	struct config *config;
	enum reason reason = inspect(ctx, p, &l3, &config);

	if (reason || !config)
		return reason;
	if (p->group.kind == GROUP_SINGLE) {
		d->nexthop = p->group.first;
		return resolve(p, d);
	}
	reason = p->family == 4 ? config->pass_multipath4 : config->pass_multipath6;
	if (reason)
		return reason;
	if (p->is_fragment && (config->pass_fragments & fragments_of(p->family)))
		return REASON_FRAGMENT;
	if (!hash_simple(config, &l3, p, d))
		return go_deeper(ctx, p);
	reason = select_path(p, d);
	return reason ? reason : resolve(p, d);
}

/* The same from the hash on, where that takes a walk. */
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
	return reason ? reason : resolve(p, d);
}
