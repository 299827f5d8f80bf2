/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What xdpecmp is measured against: a small forwarder that asks the kernel for the next hop of each
 * packet, with the helper bpf_fib_lookup(). It follows xdp-forward of xdp-tools (GPL-2.0, after
 * samples/bpf/xdp_fwd_kern.c in Linux): untagged IPv4 without options and IPv6, a full FIB look-up,
 * TTL or hop limit, MACs, redirect through a devmap that is keyed by ifindex. Like its model it
 * checks no checksum, counts nothing and leaves what it does not understand to Linux.
 *
 * Beside it the floor, `return XDP_TX`: what a test run costs when the program does nothing.
 */
#define AF_INET 2
#define AF_INET6 10
#define be16(x) __builtin_bswap16(x)
#define ETHERTYPE_IPV4 be16(0x0800)
#define ETHERTYPE_IPV6 be16(0x86dd)
#define IPV6_FLOWINFO_MASK __builtin_bswap32(0x0fffffff)

struct ethernet_header {
	u8 destination[6];
	u8 source[6];
	__be16 proto;
};

struct ipv4_header {
	u8 version_ihl;
	u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	u8 ttl;
	u8 protocol;
	__sum16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6_header {
	__be32 version_class_label;
	__be16 payload_length;
	u8 next_header;
	u8 hop_limit;
	u32 source[4];
	u32 destination[4];
};

BPF_DEVMAP(transmit, 64); /* ifindex -> the same ifindex */

static __always_inline void decrease_ttl(struct ipv4_header *ip)
{
	u32 sum = (u32)ip->checksum + be16(0x0100);

	ip->checksum = sum + (sum >= 0xffff);
	ip->ttl--;
}

int reference(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct bpf_fib_lookup fib = {};
	struct ethernet_header *eth = data;
	struct ipv4_header *ip = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);
	__be16 proto;

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	proto = eth->proto;
	if (proto == ETHERTYPE_IPV4) {
		if ((void *)(ip + 1) > end || ip->version_ihl != 0x45 || ip->ttl <= 1)
			return XDP_PASS;
		fib.family = AF_INET;
		fib.tos = ip->tos;
		fib.l4_protocol = ip->protocol;
		fib.tot_len = be16(ip->total_length);
		fib.ipv4_src = ip->source;
		fib.ipv4_dst = ip->destination;
	} else if (proto == ETHERTYPE_IPV6) {
		if ((void *)(ip6 + 1) > end || ip6->hop_limit <= 1)
			return XDP_PASS;
		fib.family = AF_INET6;
		fib.flowinfo = ip6->version_class_label & IPV6_FLOWINFO_MASK;
		fib.l4_protocol = ip6->next_header;
		fib.tot_len = be16(ip6->payload_length);
		__builtin_memcpy(fib.ipv6_src, ip6->source, sizeof(ip6->source));
		__builtin_memcpy(fib.ipv6_dst, ip6->destination, sizeof(ip6->destination));
	} else {
		return XDP_PASS;
	}
	fib.ifindex = ctx->ingress_ifindex;

	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	if (proto == ETHERTYPE_IPV4)
		decrease_ttl(ip);
	else
		ip6->hop_limit--;
	__builtin_memcpy(eth->destination, fib.dmac, sizeof(eth->destination));
	__builtin_memcpy(eth->source, fib.smac, sizeof(eth->source));
	return transmit.redirect_map(fib.ifindex, XDP_PASS);
}

int floor_tx(struct xdp_md *ctx)
{
	return XDP_TX;
}

/* Which compiler libbcc holds; told by the test run's verdict. */
int clang_version(struct xdp_md *ctx)
{
	return __clang_major__ * 10000 + __clang_minor__ * 100 + __clang_patchlevel__;
}
