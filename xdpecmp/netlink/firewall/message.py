"""What messages of all netfilter subsystems begin with.

Source: include/uapi/linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import ctypes
import socket
import struct

NETLINK_NETFILTER = 12

NFPROTO_UNSPEC, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_ARP = 0, 1, 2, 3
NFPROTO_NETDEV, NFPROTO_BRIDGE, NFPROTO_IPV6 = 5, 7, 10

NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_INET_FORWARD = 0, 1, 2
NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_INGRESS = 3, 4, 5
NF_NETDEV_INGRESS, NF_NETDEV_EGRESS = 0, 1
NF_BR_NUMHOOKS = 6
"""Hooks: include/uapi/linux/netfilter.h, netfilter_bridge.h."""
OFF_THE_WAY = frozenset({NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT})
"""Those that forwarded packets do not pass."""

_HEADER = struct.Struct("=BBH")
"""nfgenmsg: family, version, resource."""
HEADER_SIZE = _HEADER.size


def header(family: int) -> bytes:
    """For a request."""
    return _HEADER.pack(family, 0, 0)


_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter: opcode, instructions to skip if it holds and if not, constant."""
_ELEMENT_EVENTS = (
    (0x30, 0, 0, 5),  # subsystem (high byte of nlmsg_type): nftables
    (0x15, 0, 13, 10),
    (0x30, 0, 0, 4),  # NFT_MSG_NEWSETELEM, DELSETELEM, NEWGEN
    (0x15, 2, 0, 12),
    (0x15, 1, 0, 14),
    (0x15, 0, 9, 15),
    (0x30, 0, 0, 1),  # nlmsg_len, which is all of the datagram
    (0x64, 0, 0, 8),
    (0x07, 0, 0, 0),
    (0x30, 0, 0, 0),
    (0x4C, 0, 0, 0),
    (0x07, 0, 0, 0),
    (0x80, 0, 0, 0),
    (0x1D, 0, 1, 0),
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)
"""A filter in classic BPF: drops datagrams of one message on elements of sets or the generation."""


def skip_elements(connection: socket.socket) -> None:
    """Have the kernel keep events to itself which say that elements of sets came or went, one at a
    time as fail2ban does it: thousands a second would wake the reader for nothing."""
    code = b"".join(_INSTRUCTION.pack(*each) for each in _ELEMENT_EVENTS)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(_ELEMENT_EVENTS), ctypes.addressof(buffer))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
