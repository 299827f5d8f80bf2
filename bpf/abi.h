/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_ABI_H
#define XDPECMP_ABI_H
/*
 * What the program and the control plane share: every struct and number that both see.
 *
 * The control plane writes while packets flow, so nothing here may ever be seen half-written. Two
 * rules give that without a lock:
 *   - what takes several words is written to a slot that nothing refers to yet, and then one
 *     aligned 4- or 8-byte word is stored that refers to it;
 *   - if fields change in place, those that must agree share one 8-byte word, and no word depends
 *     on another.
 * Byte order: addresses, ports, MACs, VLAN TCIs are as on the wire; everything else is the host's.
 */
#include <linux/types.h>

/* The verdict, see reasons.def: XDP_REDIRECT for FORWARDED, XDP_PASS for all others. */
enum reason {
#define X(name, text, advice) REASON_##name,
#include "reasons.def"
#undef X
	REASON_COUNT
};

/*
 * reason_stats counts verdicts by reason and, after them, forwarded ICMP errors by type: type T at
 * ICMPV4_STAT_BASE + T, for the types in icmp_errors.def. "Fragmentation needed" is a code of type
 * 3, and counted separately: it has ICMP_STAT_FRAG_NEEDED_SHIFT added.
 */
#define ICMPV4_STAT_BASE 64
#define ICMPV6_STAT_BASE 128
#define ICMPV4_FRAG_NEEDED 4
#define ICMP_STAT_FRAG_NEEDED_SHIFT 32
#define STAT_COUNT 192
/*
 * After them, as many again: what programs with another layout of the maps had counted before an
 * upgrade, stored once by `attach`. No counter is ever set back, so sums only grow.
 */
#define STAT_ENTRIES 384
_Static_assert(REASON_COUNT <= ICMPV4_STAT_BASE, "reasons");

/* control[0]: what the agent stores most often; no field depends on another. */
struct control {
	__u64 lease_jiffies; /* the program works while bpf_jiffies64() is below this */
	__u32 config_slot;   /* the entry of `config` in force */
	__u32 nexthops_used; /* entries of `nexthops` from this one on were never used */
	__u32 epoch6;        /* incremented after each change of routes6; see look_up6(). Never 0 */
	__u32 pad;
	__u64 behind_jiffies; /* for readers: the maps hold all changes up to then; 0: up to date */
};
_Static_assert(sizeof(struct control) == 32, "control");

/* Bits of local4_filter: (address * MULTIPLIER) >> SHIFT, modulo 2^32. */
#define LOCAL4_FILTER_WORDS 8
#define LOCAL4_FILTER_MULTIPLIER 0x9e3779b1
#define LOCAL4_FILTER_SHIFT 23

#define FRAGMENTS_OF_IPV4 0x01
#define FRAGMENTS_OF_IPV6 0x02

/* fib_multipath_hash_policy: Documentation/networking/ip-sysctl.rst. Numbers are the sysctl's. */
enum hash_policy {
	POLICY_L3,       /* addresses; for IPv6 with flow label and next header */
	POLICY_L4,       /* addresses, ports, protocol */
	POLICY_INNER_L3, /* as POLICY_L3, of the innermost IP header */
	POLICY_CUSTOM,   /* the fields that fib_multipath_hash_fields names, outer and inner */
};

/*
 * config[slot]: settings of the whole network namespace. Written to the slot that is not in force,
 * then control's config_slot is stored. pass4 and pass6 change in place when the agent falls
 * behind, and when it has caught up.
 */
struct config {
	__u64 sip_start[4];      /* SipHash state v0..v3 for the kernel's key, nothing hashed yet */
	__u64 sip_after_zero[4]; /* after four zero words: IPv4 keys of POLICY_L3 begin so */
	__u64 sip_after_tcp[4];  /* after three words: keys of TCP without flow label begin so */
	__u64 sip_after_udp[4];  /* likewise UDP */
	__u64 local4_filter[LOCAL4_FILTER_WORDS]; /* Bloom filter: own addresses, broadcast ones */
	__u8 policy4;            /* enum hash_policy: net.ipv4.fib_multipath_hash_policy */
	__u8 policy6;            /* likewise IPv6 */
	__u8 pass4;              /* enum reason: not FORWARDED = pass all IPv4 */
	__u8 pass6;              /* likewise IPv6 */
	__u8 pass_multipath4;    /* enum reason: not FORWARDED = pass IPv4 multipath routes only */
	__u8 pass_multipath6;    /* likewise IPv6 */
	__u8 key_origin;         /* for readers: Origin in model/hashkey.py; 0 = no key */
	__u8 pass_fragments;     /* FRAGMENTS_OF_*: pass fragments on multipath routes */
	__u32 seed;              /* for readers: what the key is made of; 0 = a secret, or no key */
	__u32 label_mask;        /* bits of the flow label that POLICY_L3 hashes, wire order */
	__u32 fields4;           /* net.ipv4.fib_multipath_hash_fields, for POLICY_CUSTOM */
	__u32 fields6;           /* likewise IPv6 */
	/* for readers: why OWN_SEED (Cause in compile/ownseed.py), and the device concerned */
	__u32 own_seed_cause4, own_seed_ifindex4;
	__u32 own_seed_cause6, own_seed_ifindex6;
};
_Static_assert(sizeof(struct config) == 232, "config");

#define INTERFACE_FORWARD4 0x01
#define INTERFACE_FORWARD6 0x02
#define INTERFACE_GENERIC 0x04        /* generic XDP: redirects work on every device */
#define INTERFACE_SEND_REDIRECTS 0x08 /* Linux sends redirects for what leaves where it came in */
#define INTERFACE_LOSES_PARTIAL 0x10  /* native XDP on a veth or tap: CHECKSUM_PARTIAL gets lost */
#define INTERFACE_KEEPS_PARTIAL 0x20  /* generic XDP: CHECKSUM_PARTIAL stays; NEXTHOP_NO_OFFLOADS */
#define INTERFACE_MERGES_UNSEEN 0x40  /* packets from there may be merged, without a mark */

/*
 * interfaces[ifindex % INTERFACES_MAX]: one ingress interface. To Linux, packets that a link of a
 * bond receives come in by the bond; of all other interfaces `logical` is `ifindex`. VLAN devices
 * and macvlans are found by tag or MAC address only, and their `ifindex` has INDIRECT_INGRESS: a
 * program attached to such a device itself would not see the tags.
 */
#define INDIRECT_INGRESS 0x80000000
struct interface {
	__u8 mac[6];
	__u8 flags;
	__u8 rp_filter; /* 0 off, 1 strict, 2 loose: the greater of `all` and the interface's */
	__u32 ifindex;  /* 0 = free; stored last, in one word with `logical` */
	__u32 logical;  /* the device by which its packets come in, to Linux */
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

/* Key of macs: the address of a macvlan, and the device below it, an interface's `logical`. */
struct mac_key {
	__u64 mac; /* its six bytes as on the wire, then two of 0 */
	__u32 ifindex;
	__u32 pad;
};
_Static_assert(sizeof(struct mac_key) == 16, "mac_key");

/*
 * Tables in front of the IPv4 trie (DIR-24-8: Gupta, Lin, McKeown 1998). The group of the address
 * a.b.c.d is direct16[a].group[b]. If that is 0, it is direct24[a.b].group[c]. If that has
 * DIRECT_BLOCK, it is direct32[the rest].group[d]. If the last one is 0, only the trie knows: 0 is
 * always right, and slow.
 */
#define DIRECT_BLOCK 0x8000 /* ids of groups are below this */
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

/* groups[id]: what a route leads to. One 8-byte word, so it changes at once. */
struct group {
	__u32 first;
	__u16 count;
	__u8 kind;
	__u8 report_shift; /* resilient: a packet a bucket passes each 2^this jiffies; 0: never */
};
_Static_assert(sizeof(struct group) == 8, "group");

/* paths[]: those of one group are adjacent, bounds ascending. */
struct path {
	__u32 bound;   /* the greatest hash that takes this path; 31 bits */
	__u16 nexthop; /* index into nexthops and path_stats */
	__u16 weight;  /* for readers: minus one, as rtnh_hops */
};
_Static_assert(sizeof(struct path) == 8, "path");

/* buckets[]: one bucket of a resilient group; one 8-byte word. */
struct bucket {
	__u32 nexthop;      /* stored by the agent */
	__u32 used_jiffies; /* stored by the program: time of the last packet, low 32 bits */
};
_Static_assert(sizeof(struct bucket) == 8, "bucket");

/* nexthops[id]: an adjacency. (via, ifindex) keeps its id. Each 8-byte word changes alone. */
struct nexthop {
	/* word 0: where to; never changes while the slot is in use */
	__u32 ifindex; /* the device of the route, a VLAN device too */
	__u16 device;  /* index into devices: the device that transmits */
	__u16 flags;   /* NEXTHOP_*; these may change */
	/* word 1: the neighbour */
	__u8 neighbour_mac[6];
	__u8 reason; /* enum reason: FORWARDED = usable, else why packets pass */
	__u8 family; /* of `via`: 4, 6, or 0 if there is none (directly connected) */
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
 * The device must not get merged packets (GRO, GSO), nor CHECKSUM_PARTIAL. Generic XDP hands
 * packets to the driver without splitting and completing them as Linux does: generic_xdp_tx() lacks
 * validate_xmit_skb(), both in net/core/dev.c. See compile/offloads.py.
 */
#define NEXTHOP_NO_OFFLOADS 0x1

/* path_stats[nexthop], per CPU. The last entry belongs to no next hop: see STAT_ENTRIES. */
struct traffic {
	__u64 packets;
	__u64 bytes; /* of the frame sent, with Ethernet header, without FCS */
};
_Static_assert(sizeof(struct traffic) == 16, "traffic");

/*
 * explanation[0]: what xdpecmp_explain() decided about the last frame it was run on. It decides by
 * the same code as xdpecmp(), but neither carries the decision out nor counts it.
 */
#define EXPLAINED_NOTHING 0xffffffff /* as `hash` or `nexthop`: there is none */
struct explanation {
	__u32 reason;          /* enum reason */
	__u32 family;          /* 4, 6; 0: refused before that was known */
	__u32 ingress_ifindex; /* `logical` of the ingress; 0 likewise */
	__u32 l3_offset;       /* of the IP header in the frame */
	__u32 config_slot;     /* the entry of `config` that was in force */
	__u32 hash;            /* 31 bits, or EXPLAINED_NOTHING */
	__u32 nexthop;         /* the chosen one, usable or not, or EXPLAINED_NOTHING */
	__u32 icmp_error;      /* the error's counter in reason_stats; 0: no ICMP error */
	__u32 quote_offset;    /* from the IP header to the quoted one, or 0 */
	__u32 pad;
	struct group group;    /* GROUP_PASS with FORWARDED: the route was not looked up */
};
_Static_assert(sizeof(struct explanation) == 48, "explanation");

#endif
