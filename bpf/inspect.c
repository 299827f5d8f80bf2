/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Everything up to the route: what each family asks of a packet before Linux would forward it, in the
 * order in which Linux asks.
 */
#include "packet.h"
#include "parse.h"
#include "walk.h"

/*
 * In generic mode the note that a checksum is unfinished, or that the packet was merged and is to be
 * split, stays with the packet: TCP and UDP then pass only where the egress must not get such. SCTP's
 * CRC few devices finish.
 */
static __always_inline enum reason check_checksum(const struct ingress *ingress,
						  const struct l3 *l3, const struct l4 *l4,
						  u64 addresses, struct packet *p)
{
	if (!checksum_is_partial(l3, l4, addresses))
		return REASON_FORWARDED;
	if ((ingress->flags & INTERFACE_PARTIAL_CHECKSUMS) || l4->proto == PROTO_SCTP)
		return REASON_PARTIAL_CHECKSUM;
	p->is_partial = 1;
	return REASON_FORWARDED;
}

static __always_inline enum reason inspect4(const struct config *config,
					    const struct ingress *ingress, struct l3 *l3,
					    struct packet *p)
{
	struct ipv4_header *ip = l3->start;
	enum reason reason;

	if (config->pass4)
		return config->pass4;
	if ((void *)(ip + 1) > l3->end)
		return REASON_MALFORMED;
	reason = check_ipv4(ip, l3->end - l3->start, &l3->length);
	if (reason)
		return reason;
	if (!(ingress->flags & INTERFACE_FORWARD4))
		return REASON_FORWARDING_OFF;

	p->group = route4(ip->destination);
	if (p->group.kind == GROUP_PASS)
		return p->group.first;
	reason = check_source4(config, ingress, ip->source);
	if (reason)
		return reason;
	if (ip->ttl <= 1)
		return REASON_TTL;
	p->is_fragment = ip->fragment & IPV4_FRAGMENT_MASK;
	if (ingress->flags & (INTERFACE_PARTIAL_CHECKSUMS | INTERFACE_UNFINISHED)) {
		struct l4 l4 = ipv4_l4(ip, 0);

		reason = check_checksum(ingress, l3, &l4, sum_words(&ip->source, 2), p);
		if (reason)
			return reason;
	}
	p->quote = find_quote4(l3, ip);
	return REASON_FORWARDED;
}

/* What comes behind the extension headers; a walk only where there are some. */
static __always_inline enum reason find_l4_6(const struct l3 *l3, const struct ipv6_header *ip,
					     struct l4 *l4)
{
	struct workspace *space;
	volatile struct walk *w;

	l4->offset = sizeof(*ip);
	l4->proto = ip->next_header;
	l4->is_fragment = 0;
	if (!is_extension_header(l4->proto))
		return REASON_FORWARDED;
	space = workspace();
	if (!space)
		return REASON_EXTENSION_HEADER;
	w = &space->scratch.walk;
	start_walk(l3, w, 0, 6);
	walk_extension_headers(l3, w);
	if (w->has_routing || w->is_broken)
		return REASON_EXTENSION_HEADER;
	*l4 = walk_l4(w);
	return REASON_FORWARDED;
}

static __always_inline enum reason inspect6(const struct config *config,
					    const struct ingress *ingress, struct l3 *l3,
					    struct packet *p)
{
	struct ipv6_header *ip = l3->start;
	enum reason reason;
	struct l4 l4;

	if (config->pass6)
		return config->pass6;
	if ((void *)(ip + 1) > l3->end)
		return REASON_MALFORMED;
	reason = check_ipv6(ip, l3->end - l3->start, &l3->length);
	if (reason)
		return reason;
	if (!(ingress->flags & INTERFACE_FORWARD6))
		return REASON_FORWARDING_OFF;

	p->group = route6((const u64 *)ip->destination, p->epoch6);
	if (p->group.kind == GROUP_PASS)
		return p->group.first;
	if (ip->hop_limit <= 1)
		return REASON_TTL;
	reason = find_l4_6(l3, ip, &l4);
	if (reason)
		return reason;
	/* behind an authentication header there may be one; this walk, made for the ports, ends there */
	p->is_fragment = l4.is_fragment | (l4.proto == PROTO_AH);
	if (ingress->flags & (INTERFACE_PARTIAL_CHECKSUMS | INTERFACE_UNFINISHED)) {
		reason = check_checksum(ingress, l3, &l4, sum_words(ip->source, 8), p);
		if (reason)
			return reason;
	}
	p->quote = find_quote6(l3, &l4);
	return REASON_FORWARDED;
}

/* Everything up to the route; `config` is NULL for a packet that met no lease. */
static __always_inline enum reason inspect(struct xdp_md *ctx, struct packet *p, struct l3 *l3,
					   struct config **config)
{
	struct cursor c = {.at = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
	struct ingress ingress;
	enum reason reason;
	u64 mac;

	*config = leased_config(&p->config_slot, &p->epoch6);
	if (!*config)
		return REASON_LEASE_EXPIRED;
	l3->start = c.at;
	reason = parse_link_layer(&c, &p->link);
	if (reason)
		return reason;
	mac = *(u64 *)l3->start & 0xffffffffffff;
	if (p->link.eth_proto != ETHERTYPE_IPV4 && p->link.eth_proto != ETHERTYPE_IPV6)
		return REASON_NON_IP;
	reason = find_ingress(ctx->ingress_ifindex, &p->link, &ingress);
	if (reason)
		return reason;
	if (mac != ingress.mac)
		return REASON_NOT_OUR_MAC;
	p->ingress_ifindex = ingress.ifindex;
	p->ingress_flags = ingress.flags;
	l3->start = c.at;
	l3->end = c.end;
	if (likely(p->link.eth_proto == ETHERTYPE_IPV4)) {
		p->family = 4;
		reason = inspect4(*config, &ingress, l3, p);
	} else {
		p->family = 6;
		reason = inspect6(*config, &ingress, l3, p);
	}
	p->l3_length = l3->length;
	return reason;
}
