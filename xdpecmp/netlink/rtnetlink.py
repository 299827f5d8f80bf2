"""The numbers of rtnetlink that more than one module needs; what only one kind of message has is
named by the module that reads it.

Plain numbers, and not pyroute2's, which takes a tenth of a second to import.

Source: include/uapi/linux/rtnetlink.h; of routing daemons FRR's zebra/rt_netlink.h.
"""

from __future__ import annotations

import socket
from enum import IntEnum

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
RTM_NEWNETCONF, RTM_DELNETCONF = 80, 81
RTM_GETNSID = 90
RTM_GETSTATS = 94
RTM_NEWCHAIN, RTM_DELCHAIN = 100, 101
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
RTM_NEWNEXTHOPBUCKET, RTM_GETNEXTHOPBUCKET = 116, 118


class Group(IntEnum):
    """RTNLGRP_*: what events tell of."""

    LINK = 1
    NEIGH = 3
    TC = 4
    IPV4_IFADDR = 5
    IPV4_ROUTE = 7
    IPV4_RULE = 8
    IPV6_IFADDR = 9
    IPV6_ROUTE = 11
    IPV6_RULE = 19
    IPV4_NETCONF = 24
    IPV6_NETCONF = 25
    NEXTHOP = 32


RT_TABLE_DEFAULT, RT_TABLE_MAIN, RT_TABLE_LOCAL = 253, 254, 255
RT_SCOPE_UNIVERSE = 0

RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST = 1, 2, 3, 4, 5
RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 6, 7, 8

RTNH_F_PERVASIVE, RTNH_F_ONLINK = 0x02, 0x04


class Protocol(IntEnum):
    """RTPROT_*: who installed a route or a nexthop object. In lower case the names are those of
    `ip route`."""

    UNSPEC = 0
    REDIRECT = 1
    KERNEL = 2
    BOOT = 3
    STATIC = 4
    GATED = 8
    RA = 9
    MRT = 10
    ZEBRA = 11
    BIRD = 12
    DNROUTED = 13
    XORP = 14
    NTK = 15
    DHCP = 16
    MROUTED = 17
    KEEPALIVED = 18
    BABEL = 42
    OVN = 84
    OPENR = 99
    BGP = 186
    ISIS = 187
    OSPF = 188
    RIP = 189
    RIPNG = 190
    NHRP = 191
    EIGRP = 192
    LDP = 193
    SHARP = 194
    PBR = 195
    ZSTATIC = 196
    OPENFABRIC = 197
    SRTE = 198


ADDRESS_SIZE: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}
"""Bytes of an address, by address family."""


def family_of(address: bytes) -> int:
    """AF_INET or AF_INET6, by the length of a packed address."""
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6
