/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_PROTOCOLS_H
#define XDPECMP_PROTOCOLS_H
/*
 * What packets are made of: protocol numbers, and the layout of headers. The only place for both;
 * numbers as assigned by IANA and IEEE, in the byte order of the field they are compared with.
 *
 * Only what more than one file needs, or what has a number of its own. Reading headers is parse.h's
 * and walk.h's task.
 */
#include <linux/types.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "SipHash key layout");
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define be16(x) __builtin_bswap16(x)
#define be32(x) __builtin_bswap32(x)

/* --- link layer ----------------------------------------------------------------------------- */

#define ETHERTYPE_IPV4 be16(0x0800)
#define ETHERTYPE_IPV6 be16(0x86dd)
#define TPID_8021Q be16(0x8100)
#define TPID_8021AD be16(0x88a8)
#define VLAN_VID_MASK 0x0fff
#define L3_OFFSET_MAX 22 /* Ethernet and two tags */

/* A MAC address in the low 48 bits of an 8-byte word, as on the wire; something else above it. */
#define MAC_MASK 0xffffffffffff
#define ABOVE_MAC 48

struct ethernet_header {
	__u8 destination[6];
	__u8 source[6];
	__be16 proto;
};

struct vlan_tag {
	__be16 tci;
	__be16 proto; /* of what follows */
};

/* --- IP ------------------------------------------------------------------------------------- */

#define PROTO_ICMP 1
#define PROTO_IPIP 4
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_DCCP 33
#define PROTO_IPV6 41
#define PROTO_GRE 47
#define PROTO_ESP 50
#define PROTO_AH 51
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136
#define NEXTHDR_HOP_BY_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_DESTINATION 60

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment; /* flags and offset */
	__u8 ttl;
	__u8 protocol;
	__sum16 checksum;
	__be32 source;
	__be32 destination;
};
#define IPV4_VERSION_IHL 0x45 /* version 4, no options */
#define IPV4_IHL_MASK 0x0f    /* length of the header in 32-bit words */
#define IPV4_IHL_MIN 5
#define IPV4_OFFSET_MASK be16(0x1fff)
#define IPV4_FRAGMENT_MASK be16(0x3fff) /* more-fragments flag or an offset */
#define IPV4_LOOPBACK 127               /* first byte of 127/8 */
#define IPV4_MULTICAST 224              /* first byte of 224/4; reserved addresses above it */
#define IPV4_LINK_LOCAL be16(0xa9fe)    /* 169.254/16 */

struct ipv6_header {
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};
#define IPV6_VERSION_MASK be32(0xf0000000)
#define IPV6_VERSION be32(0x60000000)
#define IPV6_LABEL_MASK be32(0x000fffff)
#define IPV6_MULTICAST 0xff    /* first byte of ff00::/8 */
#define IPV6_LINK_LOCAL 0xfe80 /* fe80::/10 */
#define IPV6_LINK_LOCAL_MASK 0xffc0

/* The beginning of all extension headers (RFC 8200); a fragment header has no length. */
struct extension_header {
	__u8 next_header;
	__u8 length; /* in units of eight bytes, minus one */
};
#define FRAGMENT_HEADER_BYTES 8

/* RFC 4302, section 2.2 */
struct ah_header {
	__u8 next_header;
	__u8 length; /* in 32-bit words, minus two */
	__be16 reserved;
	__be32 spi;
};

/* --- tunnels -------------------------------------------------------------------------------- */

/* RFC 2784 and 2890: each flag stands for four more bytes. */
struct gre_header {
	__be16 flags;
	__be16 proto;
};
#define GRE_CHECKSUM be16(0x8000)
#define GRE_ROUTING be16(0x4000)
#define GRE_KEY be16(0x2000)
#define GRE_SEQUENCE be16(0x1000)
#define GRE_VERSION_MASK be16(0x0007)
#define GRE_OPTION_BYTES 4

#define PORT_VXLAN be16(4789)       /* RFC 7348 */
#define PORT_VXLAN_LINUX be16(8472) /* Linux's default, older than the RFC */
#define PORT_GENEVE be16(6081)      /* RFC 8926 */

/* --- layer 4 -------------------------------------------------------------------------------- */

struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};
#define ICMPV4_DEST_UNREACH 3

struct udp_header {
	__be16 source;
	__be16 destination;
	__be16 length;
	__sum16 checksum; /* 0: none */
};

#define TCP_CHECKSUM_OFFSET 16
#define UDP_CHECKSUM_OFFSET 6
#define SCTP_CHECKSUM_OFFSET 8

#endif
