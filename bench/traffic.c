/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets end to end: a generator, run as a test run with live frames, that sends by a device; and
 * what stands at the other ends. All count, per CPU.
 *
 * Frames are recycled with whatever the receivers wrote into them, so each is written again, whole
 * headers: one of 65,536 flows after another, told apart by source address and port.
 */
#include "checksum.h"

#define FLOWS 65536
#define TTL 64
#define PAYLOAD 22

BPF_ARRAY(out, u32, 1);      /* which of the devices to send by */
BPF_DEVMAP(devices, DEVICES);
BPF_PERCPU_ARRAY(sent, u64, 1);
BPF_PERCPU_ARRAY(received, u64, INTERFACES); /* by ifindex */

static __always_inline void write_link_layer(struct ethernet_header *eth, __be16 proto)
{
	__u16 *words = (__u16 *)eth;

	*(__u32 *)&words[0] = 0x00000002; /* 02:00:00:00:00:10, the router's, as in router.py */
	words[2] = 0x1000;
	*(__u32 *)&words[3] = 0x00000002;
	words[5] = 0x0100;
	eth->proto = proto;
}

static __always_inline void write_udp(struct udp_header *udp, __u32 flow)
{
	udp->source = flow;
	udp->destination = be16(443);
	udp->length = be16(sizeof(*udp) + PAYLOAD);
	udp->checksum = 0xffff; /* 0 says that there is none: a tunnel's, perhaps (is_checksum_partial()) */
}

static __always_inline int send(void)
{
	u32 zero = 0;
	u32 *slot = out.lookup(&zero);

	return slot ? devices.redirect_map(*slot, XDP_ABORTED) : XDP_ABORTED;
}

static __always_inline __u32 next_flow(void)
{
	u32 zero = 0;
	u64 *count = sent.lookup(&zero);

	return count ? (*count)++ % FLOWS : 0;
}

int generate4(struct xdp_md *ctx)
{
	struct ethernet_header *eth = (void *)(long)ctx->data;
	struct ipv4_header *ip = (void *)(eth + 1);
	struct udp_header *udp = (void *)(ip + 1);
	__u32 flow = next_flow();

	if ((void *)(udp + 1) + PAYLOAD > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	write_link_layer(eth, ETHERTYPE_IPV4);
	ip->version_ihl = 0x45;
	ip->tos = 0;
	ip->total_length = be16(sizeof(*ip) + sizeof(*udp) + PAYLOAD);
	ip->id = 0;
	ip->fragment = be16(0x4000);
	ip->ttl = TTL;
	ip->protocol = PROTO_UDP;
	ip->checksum = 0;
	ip->source = be32(0xac100000) | flow << 16; /* 172.16/16 */
	ip->destination = DESTINATION4;
	ip->checksum = ~fold_sum((__u64)((__u32 *)ip)[0] + ((__u32 *)ip)[1] + ((__u32 *)ip)[2] +
				 ((__u32 *)ip)[3] + ((__u32 *)ip)[4]);
	write_udp(udp, flow);
	return send();
}

int generate6(struct xdp_md *ctx)
{
	struct ethernet_header *eth = (void *)(long)ctx->data;
	struct ipv6_header *ip = (void *)(eth + 1);
	struct udp_header *udp = (void *)(ip + 1);
	__u32 flow = next_flow();

	if ((void *)(udp + 1) + PAYLOAD > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	write_link_layer(eth, ETHERTYPE_IPV6);
	ip->version_class_label = be32(0x60000000);
	ip->payload_length = be16(sizeof(*udp) + PAYLOAD);
	ip->next_header = PROTO_UDP;
	ip->hop_limit = TTL;
	((__u64 *)ip->source)[0] = SOURCE6;
	((__u64 *)ip->source)[1] = (__u64)flow << 48;
	((__u64 *)ip->destination)[0] = DESTINATION6_HIGH;
	((__u64 *)ip->destination)[1] = DESTINATION6_LOW;
	write_udp(udp, flow);
	return send();
}

/* At the router's ingress or behind the router. */
int count_and_drop(struct xdp_md *ctx)
{
	u32 slot = ctx->ingress_ifindex % INTERFACES;
	u64 *count = received.lookup(&slot);

	if (count)
		(*count)++;
	return XDP_DROP;
}
