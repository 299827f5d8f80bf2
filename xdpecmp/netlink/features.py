"""Features of devices: which run XDP programs in their driver, which can transmit redirected
frames, which strip VLAN tags, which finish checksums.

Redirecting to a device without ndo_xdp_xmit loses the frame without a trace, and so does a veth
whose peer has neither GRO nor an XDP program. The generic netlink family "netdev" (since Linux
6.3) tells.

Source: Documentation/netlink/specs/netdev.yaml, include/uapi/linux/netdev.h, genetlink.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from errno import ENOENT
from typing import NamedTuple

from ..errors import KernelRefused, MalformedMessage
from . import wire

_GENL_ID_CTRL = 16
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2
_CTRL_ATTR_MCAST_GROUPS = 7
_CTRL_ATTR_MCAST_GRP_NAME = 1
_CTRL_ATTR_MCAST_GRP_ID = 2

_NETDEV_CMD_DEV_GET = 1
_NETDEV_A_DEV_IFINDEX = 1
_NETDEV_A_DEV_XDP_FEATURES = 3
_NETDEV_XDP_ACT_BASIC = 1
_NETDEV_XDP_ACT_NDO_XMIT = 4

_HEADER = struct.Struct("=BBH")
"""genlmsghdr: command, version, reserved."""


class Family(NamedTuple):
    """Where the kernel keeps "netdev": its message type, and the number of its group "mgmt"."""

    message_type: int
    group: int


def find_family(connection: wire.Socket) -> Family | None:
    """Look the family up; None if this kernel has none (before 6.3)."""
    name = wire.attribute(_CTRL_ATTR_FAMILY_NAME, b"netdev\0")
    request = _HEADER.pack(_CTRL_CMD_GETFAMILY, 1, 0) + name
    try:
        answer = connection.ask(_GENL_ID_CTRL, request, "netlink family netdev")
    except KernelRefused as error:
        if error.errno == ENOENT:
            return None
        raise
    found = wire.attribute_map(answer, _HEADER.size, len(answer))
    groups = found.get(_CTRL_ATTR_MCAST_GROUPS, b"")
    group = 0
    for _, start, end in wire.attributes(groups, 0, len(groups)):
        inner = wire.attribute_map(groups, start, end)
        if inner.get(_CTRL_ATTR_MCAST_GRP_NAME, b"").rstrip(b"\0") == b"mgmt":
            group = wire.number(inner.get(_CTRL_ATTR_MCAST_GRP_ID, bytes(4)))
    return Family(wire.number(found.get(_CTRL_ATTR_FAMILY_ID, bytes(2))), group)


def _parse(message: bytes) -> tuple[int, int]:
    """Ifindex of a NETDEV_CMD_DEV_GET answer, and its NETDEV_XDP_ACT_* bits."""
    if len(message) < _HEADER.size:
        raise MalformedMessage(f"generic netlink message of {len(message)} bytes")
    found = wire.attribute_map(message, _HEADER.size, len(message))
    ifindex = wire.number(found.get(_NETDEV_A_DEV_IFINDEX, bytes(4)))
    return ifindex, wire.number(found.get(_NETDEV_A_DEV_XDP_FEATURES, bytes(8)))


def parse_features(message: bytes) -> tuple[int, bool]:
    """Ifindex of a NETDEV_CMD_DEV_GET answer, and whether NETDEV_XDP_ACT_NDO_XMIT is there."""
    ifindex, features = _parse(message)
    return ifindex, bool(features & _NETDEV_XDP_ACT_NDO_XMIT)


def _dump(connection: wire.Socket, family: Family) -> list[bytes]:
    request = _HEADER.pack(_NETDEV_CMD_DEV_GET, 1, 0)
    return connection.dump(family.message_type, request, "XDP features")


def read_transmits(connection: wire.Socket, family: Family | None) -> dict[int, bool] | None:
    """By ifindex, whether frames may be redirected there; None if the kernel cannot tell."""
    if family is None:
        return None
    return dict(parse_features(answer) for answer in _dump(connection, family))


def read_native(connection: wire.Socket, family: Family | None) -> dict[int, bool]:
    """By ifindex, whether the driver runs XDP programs itself, be one attached or not; {} if the
    kernel cannot tell."""
    if family is None:
        return {}
    parsed = (_parse(answer) for answer in _dump(connection, family))
    return {ifindex: bool(features & _NETDEV_XDP_ACT_BASIC) for ifindex, features in parsed}


_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM = 0x16
_ETHTOOL_GFLAGS = 0x25
_ETHTOOL_GCHANNELS = 0x3C
_ETH_FLAG_RXVLAN = 1 << 8
_IFREQ = struct.Struct("16sQ16x")


def strips_tags(control: socket.socket, name: str) -> bool:
    """Whether a device takes VLAN tags off what it receives (`ethtool -K NAME rxvlan on`).

    `control`: any socket of the device's namespace. False where the driver has no say.
    Source: ethtool_get_value() in net/ethtool/ioctl.c.
    """
    return bool((_ask(control, name, _ETHTOOL_GFLAGS) or 0) & _ETH_FLAG_RXVLAN)


def finishes_checksums(control: socket.socket, name: str) -> bool:
    """Whether a device finishes checksums that are left to it (`ethtool -K NAME tx on`).

    `control`: any socket of the device's namespace. True where it has just gone.
    Source: ethtool_get_one_feature() in net/ethtool/ioctl.c.
    """
    return _ask(control, name, _ETHTOOL_GTXCSUM) != 0


def _ask(control: socket.socket, name: str, command: int) -> int | None:
    """The kernel's struct ethtool_value; None without one."""
    found = _ask_all(control, name, command, 1)
    return found[0] if found else None


def read_channels(control: socket.socket, name: str) -> tuple[int, int]:
    """Combined channels of a device: how many are in use, and the most that it can have (`ethtool
    -l NAME`); zeros where its driver has none. pyroute2 before 0.8 has no such call.

    `control`: any socket of the device's namespace.
    """
    found = _ask_all(control, name, _ETHTOOL_GCHANNELS, 8)
    return (found[7], found[3]) if found else (0, 0)


def _ask_all(control: socket.socket, name: str, command: int, count: int) -> list[int] | None:
    """An ethtool struct's numbers behind its command; None where there is no answer."""
    value = (ctypes.c_uint32 * (1 + count))(command)
    request = _IFREQ.pack(os.fsencode(name), ctypes.addressof(value))
    try:
        fcntl.ioctl(control, _SIOCETHTOOL, request)
    except OSError:  # no such driver function, or the device has just gone
        return None
    return value[1:]
