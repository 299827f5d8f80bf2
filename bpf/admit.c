/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether a packet may be forwarded at all, before the choice among paths: the checks that Linux
 * makes, in its order, and the route. Returns REASON_FORWARDED or the reason to pass it to Linux.
 * Checks of single headers are in parse.h; whether the chosen next hop can take the packet is in
 * nexthops.c.
 */
#include "packet.h"
#include "parse.h"
#include "walk.h"

/*
 * In generic mode CHECKSUM_PARTIAL, and the mark of a merged packet, stay with the skb: TCP and UDP
 * then pass only if the egress device must not get such packets, which check_egress() decides. SCTP
 * always passes, since few devices compute its CRC.
 */
static __always_inline enum reason check_partial(const struct ingress *ingress,
						 const struct l3 *l3, const struct l4 *l4,
						 u64 addresses, struct packet *p)
{
	if (!is_checksum_partial(l3, l4, addresses))
		return REASON_FORWARDED;
	if ((ingress->flags & INTERFACE_LOSES_PARTIAL) || l4->proto == PROTO_SCTP)
		return REASON_PARTIAL_CHECKSUM;
	p->is_partial = 1;
	return REASON_FORWARDED;
}

static __always_inline enum reason admit4(const struct config *config,
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

	p->group = look_up4(ip->destination);
	if (p->group.kind == GROUP_PASS)
		return p->group.first;
	reason = check_source4(config, ingress, ip->source);
	if (reason)
		return reason;
	if (ip->ttl <= 1)
		return REASON_TTL;
	p->is_fragment = ip->fragment & IPV4_FRAGMENT_MASK;
	if (ingress->flags & (INTERFACE_LOSES_PARTIAL | INTERFACE_KEEPS_PARTIAL)) {
		struct l4 l4 = find_l4_of_ipv4(ip, 0);

		reason = check_partial(ingress, l3, &l4, sum_words(&ip->source, 2), p);
		if (reason)
			return reason;
	}
	p->quote = find_quote4(l3, ip);
	return REASON_FORWARDED;
}

/* What follows the extension headers; only if there are any does it take a walk. */
static __always_inline enum reason find_l4_of_ipv6(const struct l3 *l3,
						   const struct ipv6_header *ip, struct l4 *l4)
{
	struct workspace *space;
	volatile struct walk *w;

	l4->offset = sizeof(*ip);
	l4->proto = ip->next_header;
	l4->is_fragment = 0;
	if (!is_extension_header(l4->proto))
		return REASON_FORWARDED;
	space = get_workspace();
	if (!space)
		return REASON_EXTENSION_HEADER;
	w = &space->scratch.walk;
	start_walk(l3, w, 0, 6);
	walk_extension_headers(l3, w);
	if (w->has_routing || w->is_broken)
		return REASON_EXTENSION_HEADER;
	*l4 = get_l4(w);
	return REASON_FORWARDED;
}

static __always_inline enum reason admit6(const struct config *config,
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

	p->group = look_up6((const u64 *)ip->destination, p->epoch6);
	if (p->group.kind == GROUP_PASS)
		return p->group.first;
	if (ip->hop_limit <= 1)
		return REASON_TTL;
	reason = find_l4_of_ipv6(l3, ip, &l4);
	if (reason)
		return reason;
	/* the walk ends at an authentication header, and a fragment header may follow that */
	p->is_fragment = l4.is_fragment | (l4.proto == PROTO_AH);
	if (ingress->flags & (INTERFACE_LOSES_PARTIAL | INTERFACE_KEEPS_PARTIAL)) {
		reason = check_partial(ingress, l3, &l4, sum_words(ip->source, 8), p);
		if (reason)
			return reason;
	}
	p->quote = find_quote6(l3, &l4);
	return REASON_FORWARDED;
}

/* Fills in `p` and `l3`. *config is NULL if the lease has run out. */
static __always_inline enum reason admit(struct xdp_md *ctx, struct packet *p, struct l3 *l3,
					 struct config **config)
{
	struct cursor c = {.at = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
	struct ingress ingress;
	enum reason reason;
	u64 mac;

	*config = load_config(&p->config_slot, &p->epoch6);
	if (!*config)
		return REASON_LEASE_EXPIRED;
	l3->start = c.at;
	reason = parse_link_layer(&c, &p->link);
	if (reason)
		return reason;
	mac = *(u64 *)l3->start & MAC_MASK;
	if (p->link.eth_proto != ETHERTYPE_IPV4 && p->link.eth_proto != ETHERTYPE_IPV6)
		return REASON_NON_IP;
	reason = find_ingress(ctx->ingress_ifindex, &p->link, &ingress);
	if (reason)
		return reason;
	if (mac != ingress.mac) {
		reason = find_macvlan(mac, &ingress);
		if (reason)
			return reason;
	}
	p->ingress_ifindex = ingress.ifindex;
	p->ingress_flags = ingress.flags;
	l3->start = c.at;
	l3->end = c.end;
	if (likely(p->link.eth_proto == ETHERTYPE_IPV4)) {
		p->family = 4;
		reason = admit4(*config, &ingress, l3, p);
	} else {
		p->family = 6;
		reason = admit6(*config, &ingress, l3, p);
	}
	p->l3_length = l3->length;
	return reason;
}
