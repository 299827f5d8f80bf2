/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Linux multipath routing at XDP speed: parse -> route -> key -> hash -> select -> rewrite -> count.
 *
 * Three promises: the same next hop as Linux, ICMP errors follow their flow, and what is not plainly
 * forwardable is passed to Linux with a counted reason.
 *
 * The only file that touches maps, since bcc rewrites map accesses in the main source alone; the
 * headers are functions over values. Sizes come by -D (abi.py); bcc's maps themselves go with the
 * compiler, and the loader makes others of the same kind (image.py).
 */
#include "abi.h"
#include "icmp.h"
#include "key.h"
#include "parse.h"
#include "rewrite.h"
#include "select.h"
#include "walk.h"

#define MMAPABLE (1U << 10)
#define NO_PREALLOC 1

BPF_F_TABLE("array", u32, struct control, control, 1, MMAPABLE);
BPF_F_TABLE("array", u32, struct config, config, 2, MMAPABLE);
BPF_F_TABLE("array", u32, struct interface, interfaces, INTERFACES_MAX, MMAPABLE);
BPF_TABLE("hash", struct vlan_key, u32, vlans, VLANS_MAX);
BPF_F_TABLE("array", u32, struct direct, direct16, DIRECT16_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct direct, direct24, DIRECT24_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct direct, direct32, DIRECT32_MAX, MMAPABLE);
BPF_F_TABLE("lpm_trie", struct route4_key, u32, routes4, ROUTES4_MAX, NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct route6_key, u32, routes6, ROUTES6_MAX, NO_PREALLOC);
BPF_F_TABLE("array", u32, struct group, groups, GROUPS_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct path, paths, PATHS_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct bucket, buckets, BUCKETS_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct nexthop, nexthops, NEXTHOPS_MAX, MMAPABLE);
BPF_DEVMAP(devices, DEVICES_MAX);
BPF_TABLE("percpu_array", u32, struct traffic, path_stats, PATH_STATS_MAX);
BPF_TABLE("percpu_array", u32, u64, reason_stats, STAT_COUNT);

/*
 * IPv6 destinations that this CPU looked up in the trie lately, and what was found while control's
 * epoch6 was as it is here: a change of the trie makes all of it void at once.
 */
struct destination {
	u64 address[2];
	u32 group;
	u32 epoch;
};
BPF_TABLE("percpu_array", u32, struct destination, destinations, DESTINATIONS_MAX);

/* What is known of a packet once it was inspected. */
struct packet {
	struct link_layer link;
	__u32 l3_length;
	__u32 family;
	struct quote quote; /* what an ICMP error is about */
	struct group group;
	__u32 config_slot;
	__u32 epoch6;
	__u32 ingress_ifindex;
	__u32 ingress_flags;
	__u32 is_partial; /* its checksum looks unfinished, and generic mode may leave that so */
};

/* What was decided about it, and all that carrying it out takes. */
struct decision {
	__u32 hash; /* 31 bits; only where the group has several paths */
	__u32 nexthop;
	__u16 device;
	struct egress egress;
};

/* For packets that need more than a register or two; one a CPU, no packet interrupts another. */
struct workspace {
	struct scratch scratch;
	struct packet packet; /* handed over to xdpecmp_deep() */
};
/* Of each generation its own: during an upgrade no old program calls a new one. See program.py. */
BPF_TABLE("percpu_array", u32, struct workspace, workspaces, 1);
BPF_PROG_ARRAY(programs, 1);

static __always_inline struct workspace *workspace(void)
{
	u32 zero = 0;

	return workspaces.lookup(&zero);
}

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

/* --- where it came in ----------------------------------------------------------------------- */

/* The configuration in force, or NULL once the agent's lease has run out. */
static __always_inline struct config *leased_config(u32 *slot, u32 *epoch6)
{
	u32 zero = 0;
	struct control *c = control.lookup(&zero);

	if (!c || bpf_jiffies64() >= *(volatile u64 *)&c->lease_jiffies)
		return NULL;
	*slot = *(volatile u32 *)&c->config_slot;
	*epoch6 = *(volatile u32 *)&c->epoch6;
	return config.lookup(slot);
}

/* One interface as read at one moment; `word` holds what must agree. */
struct ingress {
	u32 ifindex;
	u64 mac;
	u8 flags;
	u8 rp_filter;
};

static __always_inline enum reason find_ingress(u32 ifindex, const struct link_layer *link,
						struct ingress *ingress)
{
	struct interface *interface;
	u32 slot;
	u64 word;

	if (link->outer_tpid) {
		struct vlan_key key = {
			.ifindex = ifindex,
			.outer_tpid = link->outer_tpid,
			.outer_vid = be16(link->outer_tci) & VLAN_VID_MASK,
			.inner_tpid = link->inner_tpid,
			.inner_vid = be16(link->inner_tci) & VLAN_VID_MASK,
		};
		u32 *logical = vlans.lookup(&key);

		if (!logical)
			return REASON_INTERFACE;
		ifindex = *logical;
	}
	slot = ifindex & (INTERFACES_MAX - 1);
	interface = interfaces.lookup(&slot);
	if (!interface || *(volatile u32 *)&interface->ifindex != ifindex)
		return REASON_INTERFACE;
	word = *(volatile u64 *)interface;
	ingress->ifindex = ifindex;
	ingress->mac = word & 0xffffffffffff;
	ingress->flags = word >> 48;
	ingress->rp_filter = word >> 56;
	return REASON_FORWARDED;
}

/* --- routes --------------------------------------------------------------------------------- */

/* Reads the group at once: it may flip to another any time. An id of no group is no route. */
static __always_inline struct group load_group(const u32 *id)
{
	struct group group = {.first = REASON_NO_ROUTE, .kind = GROUP_PASS};
	u32 index;
	u64 *word;

	if (!id)
		return group;
	index = *id;
	word = (u64 *)groups.lookup(&index);
	if (!word)
		return group;
	*(u64 *)&group = *(volatile u64 *)word;
	return group;
}

/* The group that the direct tables have for an address; 0: the trie has to be asked. */
static __always_inline u32 direct_group(__be32 address)
{
	u32 index = address & 0xff;
	struct direct *block = direct16.lookup(&index);
	u32 group = 0;

	if (block)
		group = *(volatile u16 *)&block->group[address >> 8 & 0xff];
	if (group)
		return group;
	index = be16(address);
	block = direct24.lookup(&index);
	if (block)
		group = *(volatile u16 *)&block->group[address >> 16 & 0xff];
	if (!(group & DIRECT_BLOCK))
		return group;
	index = group & ~DIRECT_BLOCK;
	block = direct32.lookup(&index);
	return block ? *(volatile u16 *)&block->group[address >> 24] : 0;
}

static __always_inline struct group route4(__be32 address)
{
	struct route4_key key = {.prefixlen = 32, .address = address};
	u32 id = direct_group(address);

	return load_group(id ? &id : routes4.lookup(&key));
}

/* The entry of `groups` for an address, as the trie has it. */
static __always_inline u32 trie_group6(const u64 *address)
{
	/* by words, which the trie then reads; a copy by bytes takes longer than the look-up */
	struct {
		u32 pad;
		struct route6_key key;
	} aligned = {.key.prefixlen = 128};
	u64 *words = (u64 *)aligned.key.address;
	u32 *group;

	words[0] = address[0];
	words[1] = address[1];
	group = routes6.lookup(&aligned.key);
	return group ? *group : REASON_NO_ROUTE;
}

/*
 * `epoch` was read before the trie is, and the agent counts it up after it changed the trie: so what
 * is kept under an epoch can't be older than it.
 */
static __always_inline struct group route6(const u64 *address, u32 epoch)
{
	u64 mixed = (address[0] ^ (address[1] << 32 | address[1] >> 32)) * 0x9e3779b97f4a7c15ULL;
	u32 index = mixed >> 40 & (DESTINATIONS_MAX - 1);
	struct destination *known = destinations.lookup(&index);
	u32 group;

	if (known && known->epoch == epoch && known->address[0] == address[0] &&
	    known->address[1] == address[1])
		return load_group(&known->group);
	group = trie_group6(address);
	if (known) {
		known->address[0] = address[0];
		known->address[1] = address[1];
		known->group = group;
		known->epoch = epoch;
	}
	return load_group(&group);
}

static __always_inline u32 nexthop_ifindex(u32 id)
{
	struct nexthop *nexthop = nexthops.lookup(&id);

	return nexthop ? nexthop->ifindex : 0;
}

#define STRICT_CHECK_PATHS 16

/* Whether one of the group's paths leaves by this interface: fib_info_nh_uses_dev(). */
static __always_inline int uses_interface(const struct group *group, u32 ifindex)
{
	if (group->kind == GROUP_SINGLE)
		return nexthop_ifindex(group->first) == ifindex;
	if (group->kind == GROUP_RESILIENT)
		return 0; /* its next hops are scattered over many buckets: Linux will see */
	for (u32 i = 0; i < STRICT_CHECK_PATHS; i++) {
		u32 index = group->first + i;
		struct path *path;

		if (i >= group->count)
			break;
		path = paths.lookup(&index);
		if (path && nexthop_ifindex(path->nexthop) == ifindex)
			return 1;
	}
	return 0; /* or among the paths not looked at: Linux will see */
}

/*
 * fib_validate_source() in net/ipv4/fib_frontend.c. With rp_filter off Linux still refuses our own
 * addresses as a source; a Bloom filter over them spares nearly every packet the look-up.
 */
static __always_inline enum reason check_source4(const struct config *config,
						 const struct ingress *ingress, __be32 source)
{
	u32 bit = (source * 0x9e3779b1U) >> 23;
	struct group group;

	if (!ingress->rp_filter &&
	    !(config->local4_filter[(bit >> 6) & (LOCAL4_FILTER_WORDS - 1)] >> (bit & 63) & 1))
		return REASON_FORWARDED;
	group = route4(source);
	if (group.kind == GROUP_PASS) {
		if (group.first == REASON_ROUTE_LOCAL || group.first == REASON_ROUTE_SPECIAL)
			return REASON_MARTIAN_SOURCE;
		return ingress->rp_filter ? REASON_RP_FILTER : REASON_FORWARDED;
	}
	if (ingress->rp_filter == 1 && !uses_interface(&group, ingress->ifindex))
		return REASON_RP_FILTER;
	return REASON_FORWARDED;
}

/* --- select --------------------------------------------------------------------------------- */

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

/* nexthop_select_path_res() in net/ipv4/nexthop.c; the time tells the agent which ones are idle. */
static __always_inline enum reason select_by_bucket(const struct group *group, u32 hash,
						    u32 *nexthop)
{
	u32 index = group->first + bucket_of(hash, group->count);
	struct bucket *bucket = buckets.lookup(&index);

	if (!bucket)
		return REASON_ROUTE_UNSUPPORTED;
#ifndef VARIANT_EXPLAIN /* to ask is not to use */
	u32 now = bpf_jiffies64();

	if (bucket->used_jiffies != now)
		bucket->used_jiffies = now;
#endif
	*nexthop = *(volatile u32 *)&bucket->nexthop;
	return REASON_FORWARDED;
}

static __always_inline enum reason select_path(const struct packet *p, struct decision *d)
{
	if (p->group.kind == GROUP_RESILIENT)
		return select_by_bucket(&p->group, d->hash, &d->nexthop);
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
	if (p->is_partial && (nexthop->flags & NEXTHOP_FINISHES_NOTHING))
		return REASON_PARTIAL_CHECKSUM;
	if (nexthop->ifindex == p->ingress_ifindex &&
	    (p->ingress_flags & INTERFACE_SEND_REDIRECTS))
		return REASON_REDIRECT;
	d->device = nexthop->device;
	d->egress.tags = words[3];
	return REASON_FORWARDED;
}

/* --- what each family asks of a packet, and its route --------------------------------------- */

/*
 * In generic mode the note that a checksum is unfinished stays with the packet: TCP and UDP then
 * pass only where the egress finishes nothing. SCTP's CRC few devices finish.
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
	if (ingress->flags & (INTERFACE_PARTIAL_CHECKSUMS | INTERFACE_UNFINISHED)) {
		reason = check_checksum(ingress, l3, &l4, sum_words(ip->source, 8), p);
		if (reason)
			return reason;
	}
	p->quote = find_quote6(l3, &l4);
	return REASON_FORWARDED;
}

/* --- from the frame to the next hop --------------------------------------------------------- */

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

/* --- entry points --------------------------------------------------------------------------- */

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

/*
 * VARIANT_EXPLAIN decides by the very same code on the same maps, and writes down what it decided
 * instead of carrying it out and counting it. For test runs of `xdpecmp explain` and `verify`.
 */
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
