/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_PACKET_H
#define XDPECMP_PACKET_H
/*
 * What the steps hand on: what is known of a packet, and what was decided about it.
 */
#include "abi.h"
#include "icmp.h"
#include "parse.h"
#include "rewrite.h"

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
	__u32 is_fragment;
	__u32 is_partial; /* its checksum looks unfinished, as that of merged packets does too */
};

/* What was decided about it, and all that carrying it out takes. */
struct decision {
	__u32 hash; /* 31 bits; only where the group has several paths */
	__u32 nexthop;
	__u16 device;
	struct egress egress;
};

#endif
