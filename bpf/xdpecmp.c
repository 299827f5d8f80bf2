/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Linux multipath routing at XDP speed: parse -> route -> key -> hash -> select -> rewrite -> count.
 *
 * Three promises: the same next hop as Linux, ICMP errors follow their flow, and what is not plainly
 * forwardable is passed to Linux with a counted reason.
 *
 * The only file that touches maps, since bcc rewrites map accesses in the main source alone; the
 * headers are functions over values. The loader gives sizes and the directory of the pins by -D.
 */
#include "abi.h"
#include "key.h"
#include "parse.h"
#include "rewrite.h"
#include "select.h"

#define MMAPABLE (1U << 10)
#define NO_PREALLOC 1

BPF_TABLE_PINNED("array", u32, struct control, control, 1, PIN_DIR "/control", MMAPABLE);
BPF_TABLE_PINNED("array", u32, struct config, config, 2, PIN_DIR "/config", MMAPABLE);
BPF_TABLE_PINNED("array", u32, struct interface, interfaces, INTERFACES_MAX, PIN_DIR "/interfaces",
		 MMAPABLE);
BPF_TABLE_PINNED("hash", struct vlan_key, u32, vlans, VLANS_MAX, PIN_DIR "/vlans");
BPF_TABLE_PINNED("lpm_trie", struct route4_key, u32, routes4, ROUTES4_MAX, PIN_DIR "/routes4",
		 NO_PREALLOC);
BPF_TABLE_PINNED("lpm_trie", struct route6_key, u32, routes6, ROUTES6_MAX, PIN_DIR "/routes6",
		 NO_PREALLOC);
BPF_TABLE_PINNED("array", u32, struct group, groups, GROUPS_MAX, PIN_DIR "/groups", MMAPABLE);
BPF_TABLE_PINNED("array", u32, struct path, paths, PATHS_MAX, PIN_DIR "/paths", MMAPABLE);
BPF_TABLE_PINNED("array", u32, struct nexthop, nexthops, NEXTHOPS_MAX, PIN_DIR "/nexthops",
		 MMAPABLE);
BPF_XDP_REDIRECT_MAP("devmap:" PIN_DIR "/devices", int, devices, DEVICES_MAX);
BPF_TABLE_PINNED("percpu_array", u32, struct traffic, path_stats, NEXTHOPS_MAX,
		 PIN_DIR "/path_stats");
BPF_TABLE_PINNED("percpu_array", u32, u64, reason_stats, STAT_COUNT, PIN_DIR "/reason_stats");

/* What was decided about a packet, and all that carrying it out takes. */
struct decision {
	struct link_layer link;
	__u32 l3_length;
	__u32 icmp_error; /* enum icmp_error */
	__u32 nexthop;
	__u16 device;
	struct egress egress;
};

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

/* --- where it came in ------------------------------------------------------------------------- */

/* The configuration in force, or NULL once the agent's lease has run out. */
static __always_inline struct config *leased_config(void)
{
	u32 zero = 0, slot;
	struct control *c = control.lookup(&zero);

	if (!c || bpf_jiffies64() >= *(volatile u64 *)&c->lease_jiffies)
		return NULL;
	slot = *(volatile u32 *)&c->config_slot;
	return config.lookup(&slot);
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

/* --- routes ----------------------------------------------------------------------------------- */

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

static __always_inline struct group route4(__be32 address)
{
	struct route4_key key = {.prefixlen = 32, .address = address};

	return load_group(routes4.lookup(&key));
}

static __always_inline struct group route6(const __u8 *address)
{
	struct route6_key key = {.prefixlen = 128};

	__builtin_memcpy(key.address, address, sizeof(key.address));
	return load_group(routes6.lookup(&key));
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

/* --- select ----------------------------------------------------------------------------------- */

static __always_inline enum reason select_path(const struct group *group, u32 hash, u32 *nexthop)
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

/* Whether the chosen next hop can take this packet now, and by which header. */
static __always_inline enum reason resolve(const struct ingress *ingress, struct decision *d)
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
	if (reason == REASON_EGRESS_NO_XDP && (ingress->flags & INTERFACE_GENERIC))
		reason = REASON_FORWARDED;
	if (reason)
		return reason;
	if (d->l3_length > d->egress.device_word >> 48)
		return REASON_MTU;
	if (nexthop->ifindex == ingress->ifindex && (ingress->flags & INTERFACE_SEND_REDIRECTS))
		return REASON_REDIRECT;
	d->device = nexthop->device;
	d->egress.outer_tpid = nexthop->outer_tpid;
	d->egress.outer_tci = nexthop->outer_tci;
	d->egress.inner_tpid = nexthop->inner_tpid;
	d->egress.inner_tci = nexthop->inner_tci;
	return REASON_FORWARDED;
}

/* --- one decision for each family -------------------------------------------------------------- */

static __always_inline enum reason decide4(const struct config *config,
					   const struct ingress *ingress, struct cursor *c,
					   struct decision *d)
{
	struct ipv4_header *ip = c->at;
	struct l3 l3 = {.start = ip, .end = c->end};
	struct group group;
	struct quote quote;
	enum reason reason;

	if (config->pass4)
		return config->pass4;
	if ((void *)(ip + 1) > c->end)
		return REASON_MALFORMED;
	reason = check_ipv4(ip, c->end - c->at, &l3.length);
	if (reason)
		return reason;
	d->l3_length = l3.length;
	if (!(ingress->flags & INTERFACE_FORWARD4))
		return REASON_FORWARDING_OFF;

	group = route4(ip->destination);
	if (group.kind == GROUP_PASS)
		return group.first;
	reason = check_source4(config, ingress, ip->source);
	if (reason)
		return reason;
	if (ip->ttl <= 1)
		return REASON_TTL;

	if (ingress->flags & INTERFACE_PARTIAL_CHECKSUMS) {
		struct l4 l4 = ipv4_l4(ip, 0);

		if (checksum_is_partial(&l3, &l4, sum_addresses(&ip->source, 2)))
			return REASON_PARTIAL_CHECKSUM;
	}

	quote = find_quote4(&l3, ip);
	d->icmp_error = quote.error;
	if (group.kind == GROUP_SINGLE) {
		d->nexthop = group.first;
	} else {
		struct key4 key;

		if (config->pass_multipath4)
			return config->pass_multipath4;
		key = make_key4(&l3, quote.offset, config->policy4);
		reason = select_path(&group, hash4(config, &key), &d->nexthop);
		if (reason)
			return reason;
	}
	return resolve(ingress, d);
}

static __always_inline enum reason decide6(const struct config *config,
					   const struct ingress *ingress, struct cursor *c,
					   struct decision *d)
{
	struct ipv6_header *ip = c->at;
	struct l3 l3 = {.start = ip, .end = c->end};
	struct group group;
	struct quote quote;
	enum reason reason;
	struct l4 l4;

	if (config->pass6)
		return config->pass6;
	if ((void *)(ip + 1) > c->end)
		return REASON_MALFORMED;
	reason = check_ipv6(ip, c->end - c->at, &l3.length);
	if (reason)
		return reason;
	d->l3_length = l3.length;
	if (!(ingress->flags & INTERFACE_FORWARD6))
		return REASON_FORWARDING_OFF;

	group = route6(ip->destination);
	if (group.kind == GROUP_PASS)
		return group.first;
	if (ip->hop_limit <= 1)
		return REASON_TTL;

	l4 = ipv6_l4(&l3, ip, 0);
	if (l4.for_linux)
		return REASON_EXTENSION_HEADER;
	if ((ingress->flags & INTERFACE_PARTIAL_CHECKSUMS) &&
	    checksum_is_partial(&l3, &l4, sum_addresses(ip->source, 8)))
		return REASON_PARTIAL_CHECKSUM;
	quote = find_quote6(&l3, &l4);
	d->icmp_error = quote.error;
	if (group.kind == GROUP_SINGLE) {
		d->nexthop = group.first;
	} else {
		struct key6 key;

		if (config->pass_multipath6)
			return config->pass_multipath6;
		key = make_key6(&l3, quote.offset, config->policy6);
		reason = select_path(&group, hash6(config, &key), &d->nexthop);
		if (reason)
			return reason;
	}
	return resolve(ingress, d);
}

static __always_inline enum reason decide(struct xdp_md *ctx, struct decision *d)
{
	struct cursor c = {.at = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
	struct config *config = leased_config();
	struct ingress ingress;
	enum reason reason;
	u64 *eth = c.at;

	if (!config)
		return REASON_LEASE_EXPIRED;
	reason = parse_link_layer(&c, &d->link);
	if (reason)
		return reason;
	if (d->link.eth_proto != ETHERTYPE_IPV4 && d->link.eth_proto != ETHERTYPE_IPV6)
		return REASON_NON_IP;
	reason = find_ingress(ctx->ingress_ifindex, &d->link, &ingress);
	if (reason)
		return reason;
	if ((*eth & 0xffffffffffff) != ingress.mac)
		return REASON_NOT_OUR_MAC;
	if (d->link.eth_proto == ETHERTYPE_IPV4)
		return decide4(config, &ingress, &c, d);
	return decide6(config, &ingress, &c, d);
}

/* --- entry points ------------------------------------------------------------------------------ */

/* Carries the decision out. A refusal in here leaves the packet fit for Linux. */
static __always_inline enum reason carry_out(struct xdp_md *ctx, const struct decision *d)
{
	enum reason reason = resize(ctx, &d->link, d->l3_length, &d->egress);

	return reason ? reason : rewrite(ctx, d->link.eth_proto, &d->egress);
}

int xdpecmp(struct xdp_md *ctx)
{
	struct decision d = {};
	enum reason reason = decide(ctx, &d);

	if (!reason)
		reason = carry_out(ctx, &d);
	if (reason) {
		count_stat(reason);
		return XDP_PASS;
	}
	count_traffic(d.nexthop, ctx->data_end - ctx->data);
	if (d.icmp_error != ICMP_ERROR_BASE)
		count_stat(d.icmp_error);
	return devices.redirect_map(d.device, XDP_PASS);
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
