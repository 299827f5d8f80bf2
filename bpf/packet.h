/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_PACKET_H
#define XDPECMP_PACKET_H
/*
 * What one step of the data path hands to the next: what is known of a packet, and what was decided
 * about it. Values only; who fills them in is said at each.
 */
#include "abi.h"
#include "icmp.h"
#include "parse.h"
#include "rewrite.h"

/* What admit() found out. */
struct packet {
	struct link_layer link;
	__u32 l3_length;
	__u32 family;
	struct quote quote; /* the packet that an ICMP error is about */
	struct group group;
	__u32 config_slot;
	__u32 epoch6;
	__u32 ingress_ifindex;
	__u32 ingress_flags;
	__u32 is_fragment;
	__u32 is_partial; /* looks CHECKSUM_PARTIAL, as merged packets do too */
};

/* What decide() decided, and all that finish() needs to carry it out. */
struct decision {
	__u32 hash; /* 31 bits; only if the group has several paths */
	__u32 nexthop;
	__u16 device;
	struct egress egress;
};

#endif
