/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_ABI_H
#define XDPECMP_ABI_H
/*
 * What the program and the control plane share: every struct and number that both see.
 *
 * The control plane writes while packets flow, so nothing here may ever be seen half-written. Two
 * rules give that without a lock:
 *   - what takes several words is written to a slot that nobody points to yet, and then one
 *     aligned 4- or 8-byte word is stored that points to it;
 *   - where fields change in place, those that must agree share one 8-byte word, and words that
 *     do not share one mean something each on its own.
 * Byte order: addresses, ports, MACs, VLAN TCIs are as on the wire; all else is the host's.
 */
#include <linux/types.h>

/* Why: see reasons.def. Every reason but FORWARDED means XDP_PASS. */
enum reason {
#define X(name, text, advice) REASON_##name,
#include "reasons.def"
#undef X
	REASON_COUNT
};

/*
 * reason_stats counts verdicts by reason and, behind them, forwarded ICMP errors by type: that of
 * type T at ICMPV4_STAT_BASE + T, for the types of icmp_errors.def. "Fragmentation needed" is a code
 * of type 3, and the one that matters most: it has ICMP_STAT_FRAG_NEEDED_SHIFT added.
 */
#define ICMPV4_STAT_BASE 64
#define ICMPV6_STAT_BASE 128
#define ICMPV4_FRAG_NEEDED 4
#define ICMP_STAT_FRAG_NEEDED_SHIFT 32
#define STAT_COUNT 192
/*
 * Behind them, as many again: what programs with another layout of the maps had counted before this
 * one took over, stored once by `attach`. Nothing here is ever set back, so sums only grow.
 */
#define STAT_ENTRIES 384
_Static_assert(REASON_COUNT <= ICMPV4_STAT_BASE, "reasons");

/* control[0]: what the agent stores most often, each field by itself. */
struct control {
	__u64 lease_jiffies; /* the program works while bpf_jiffies64() is below this */
	__u32 config_slot;   /* the entry of `config` in force */
	__u32 nexthops_used; /* entries of `nexthops` from this one on were never used */
	__u32 epoch6;        /* counts up after each change of routes6; see route6(). Never 0 */
	__u32 pad;
	__u64 behind_jiffies; /* for readers: what happened by then is in the maps; 0: nothing waits long */
};
_Static_assert(sizeof(struct control) == 32, "control");

#define LOCAL4_FILTER_WORDS 8

#define FRAGMENTS_OF_IPV4 0x01
#define FRAGMENTS_OF_IPV6 0x02

/*
 * config[slot]: what holds for the whole network namespace. Written whole, then pointed to; pass4 and
 * pass6 change in place when the agent falls behind, and when it has caught up.
 */
struct config {
	__u64 sip_start[4];      /* SipHash state v0..v3 for the kernel's key, nothing hashed yet */
	__u64 sip_after_zero[4]; /* the same after four zero words: how each IPv4 policy 0 key begins */
	__u64 sip_after_tcp[4];  /* after the three words that keys of TCP without flow label begin with */
	__u64 sip_after_udp[4];  /* likewise UDP */
	__u64 local4_filter[LOCAL4_FILTER_WORDS]; /* Bloom filter over own addresses and broadcast ones */
	__u8 policy4;            /* net.ipv4.fib_multipath_hash_policy */
	__u8 policy6;            /* net.ipv6.fib_multipath_hash_policy */
	__u8 pass4;              /* enum reason: not FORWARDED = pass all IPv4 */
	__u8 pass6;              /* likewise IPv6 */
	__u8 pass_multipath4;    /* enum reason: not FORWARDED = pass IPv4 multipath routes only */
	__u8 pass_multipath6;    /* likewise IPv6 */
	__u8 own_seed;           /* for readers: 1 = the seed is ours, Linux keeps its own to itself */
	__u8 pass_fragments;     /* FRAGMENTS_OF_*: pass those of multipath routes */
	__u32 seed;              /* net.ipv4.fib_multipath_hash_seed or ours; 0 = not known */
	__u32 label_mask;        /* which bits of the IPv6 flow label count under policy 0, wire order */
	__u32 fields4;           /* net.ipv4.fib_multipath_hash_fields, for policy 3 */
	__u32 fields6;           /* likewise IPv6 */
	/* for readers: why OWN_SEED (Cause in xdpecmp/compile/ownseed.py), and the device it is about */
	__u32 parting4, parting4_ifindex;
	__u32 parting6, parting6_ifindex;
};
_Static_assert(sizeof(struct config) == 232, "config");

#define INTERFACE_FORWARD4 0x01
#define INTERFACE_FORWARD6 0x02
#define INTERFACE_GENERIC 0x04        /* generic XDP: redirects work on every device */
#define INTERFACE_SEND_REDIRECTS 0x08 /* Linux sends a redirect for what leaves where it came in */
#define INTERFACE_PARTIAL_CHECKSUMS 0x10 /* native XDP on a veth or tap: see checksum_is_partial() */
#define INTERFACE_UNFINISHED 0x20        /* generic XDP: see NEXTHOP_WHOLE_ONLY */
#define INTERFACE_MERGES 0x40            /* what comes in there may be merged without a mark */

/*
 * interfaces[ifindex % INTERFACES_MAX]: one ingress interface. What a link of a bond receives comes in
 * by the bond, as Linux has it; of all others `logical` is `ifindex`. VLAN devices and macvlans are
 * found by tag or MAC address alone, and their `ifindex` has INDIRECT_INGRESS: a program that runs on
 * such a device itself cannot see the tags of what it gets.
 */
#define INDIRECT_INGRESS 0x80000000
struct interface {
	__u8 mac[6];
	__u8 flags;
	__u8 rp_filter; /* 0 off, 1 strict, 2 loose: the greater of `all` and the interface's */
	__u32 ifindex;  /* 0 = free; stored last, in one word with the next */
	__u32 logical;  /* the device that Linux has its packets come in by */
};
_Static_assert(sizeof(struct interface) == 16, "interface");

/* Key of vlans: the tags of a frame, outermost first, as 802.1Q VLAN ids in host order; 0 = none.
 * The value, as that of macs: the `ifindex` of an interface, with INDIRECT_INGRESS. */
struct vlan_key {
	__u32 ifindex; /* the device the frame came in on */
	__u16 outer_tpid; /* as on the wire */
	__u16 outer_vid;
	__u16 inner_tpid;
	__u16 inner_vid;
};
_Static_assert(sizeof(struct vlan_key) == 12, "vlan_key");

/* Key of macs: the address of a macvlan, and the device (an `interface`'s `logical`) it stands on. */
struct mac_key {
	__u64 mac; /* as its first six bytes stand on the wire */
	__u32 ifindex;
	__u32 pad;
};
_Static_assert(sizeof(struct mac_key) == 16, "mac_key");

/*
 * IPv4 addresses index these before the trie is asked (DIR-24-8: Gupta, Lin, McKeown 1998). For the
 * address a.b.c.d direct16[a].group[b] says what the trie would or, where that is 0,
 * direct24[a.b].group[c] or, where that has DIRECT_BLOCK, direct32[the rest].group[d]. Where the last
 * one is 0, only the trie knows: 0 is always right, and slow.
 */
#define DIRECT_BLOCK 0x8000 /* and above: no entry of groups */
struct direct {
	__u16 group[256];
};
_Static_assert(sizeof(struct direct) == 512, "direct");

/* Keys of the LPM tries. */
struct route4_key {
	__u32 prefixlen;
	__be32 address;
};
struct route6_key {
	__u32 prefixlen;
	__u8 address[16];
};
_Static_assert(sizeof(struct route4_key) == 8, "route4_key");
_Static_assert(sizeof(struct route6_key) == 20, "route6_key");

enum group_kind {
	GROUP_PASS,      /* `first` is an enum reason */
	GROUP_SINGLE,    /* `first` is a next hop */
	GROUP_THRESHOLD, /* paths[first .. first+count-1] by hash-threshold, RFC 2992 */
	GROUP_RESILIENT, /* buckets[first + hash mod count] */
};

/* groups[id]: what a route leads to. One 8-byte word, so it flips at once. */
struct group {
	__u32 first;
	__u16 count;
	__u8 kind;
	__u8 report_shift; /* resilient: a packet a bucket passes each 2^this jiffies; 0: none does */
};
_Static_assert(sizeof(struct group) == 8, "group");

/* paths[]: ascending bounds of one group lie side by side. */
struct path {
	__u32 bound;   /* takes hashes up to and including this one; 31 bits */
	__u16 nexthop; /* index into nexthops and path_stats */
	__u16 weight;  /* minus one, as rtnh_hops has it; for `routes` */
};
_Static_assert(sizeof(struct path) == 8, "path");

/* buckets[]: one bucket of a resilient group; one 8-byte word. */
struct bucket {
	__u32 nexthop;      /* stored by the agent */
	__u32 used_jiffies; /* stored by the program: when it last took a packet, low 32 bits */
};
_Static_assert(sizeof(struct bucket) == 8, "bucket");

/* nexthops[id]: an adjacency, for good that of (via, ifindex). Each 8-byte word changes alone. */
struct nexthop {
	/* word 0: where to; never changes while the slot is in use */
	__u32 ifindex; /* the device of the route, a VLAN device too */
	__u16 device;  /* slot in the devmap: the device that really transmits */
	__u16 flags;   /* NEXTHOP_*; these may change */
	/* word 1: the neighbour */
	__u8 neighbour_mac[6];
	__u8 reason; /* enum reason: FORWARDED = usable, else why packets pass */
	__u8 family; /* of `via`: 4, 6, or 0 where there is none (directly connected) */
	/* word 2: the egress device */
	__u8 device_mac[6];
	__u16 mtu; /* bytes of the L3 packet; larger MTUs are stored as 65535 */
	/* word 3: tags to push, outermost first; TPID 0 = none */
	__be16 outer_tpid, outer_tci;
	__be16 inner_tpid, inner_tci;
	/* words 4 and 5: for readers only */
	__u8 via[16]; /* IPv4 in the first four */
	/*
	 * What path_stats[id] counted before the slot became this next hop's, to be subtracted modulo
	 * 2^64: the counters themselves are never set back. Stored before the slot is in use.
	 */
	__u64 base_packets, base_bytes;
};
_Static_assert(sizeof(struct nexthop) == 64, "nexthop");

/*
 * The device must not get packets that are merged (GRO, GSO) or whose checksum is unfinished. Generic
 * XDP hands packets to drivers without what Linux's own way does for such: generic_xdp_tx(),
 * validate_xmit_skb() in net/core/dev.c. See compile/offloads.py.
 */
#define NEXTHOP_WHOLE_ONLY 0x1

/* path_stats[nexthop], per CPU. The last entry is no next hop's: see STAT_ENTRIES. */
struct traffic {
	__u64 packets;
	__u64 bytes; /* of the frame as it leaves, Ethernet header included, FCS not */
};
_Static_assert(sizeof(struct traffic) == 16, "traffic");

/*
 * explanation[0]: what xdpecmp_explain() decided about the last frame it was run on. Everything up to
 * the decision is the program's own code; only carrying it out and counting it is left out.
 */
#define EXPLAINED_NOTHING 0xffffffff /* as `hash` or `nexthop`: it did not come to that */
struct explanation {
	__u32 reason;          /* enum reason */
	__u32 family;          /* 4, 6; 0: refused before that was looked at */
	__u32 ingress_ifindex; /* as Linux sees it, a VLAN device perhaps; 0 likewise */
	__u32 l3_offset;       /* where the IP header begins */
	__u32 config_slot;     /* the entry of `config` that it went by */
	__u32 hash;            /* 31 bits, or EXPLAINED_NOTHING */
	__u32 nexthop;         /* the chosen one, usable or not, or EXPLAINED_NOTHING */
	__u32 icmp_error;      /* the error's counter in reason_stats; 0: no ICMP error */
	__u32 quote_offset;    /* from the IP header to the quoted one, or 0 */
	__u32 pad;
	struct group group;    /* pass for FORWARDED: the route was not looked up */
};
_Static_assert(sizeof(struct explanation) == 48, "explanation");

#endif
