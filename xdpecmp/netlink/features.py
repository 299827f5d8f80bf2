"""Features of devices: which run XDP programs in their driver, which can transmit redirected
frames, which strip VLAN tags, which segment and finish what was merged or left unfinished.

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
_ETHTOOL_GSTRINGS = 0x1B
_ETHTOOL_GSSET_INFO = 0x37
_ETHTOOL_GFEATURES = 0x3A
_ETH_SS_FEATURES = 4
_ETH_GSTRING_LEN = 32
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


SEGMENTS_ALL = (
    "tx-scatter-gather",
    "tx-checksum-ip-generic",
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-accecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "tx-sctp-segmentation",
    "tx-gso-list",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
)
"""The features that packets merged by GRO or by a sender can ask for. Where this kernel does not
know one, it makes no such packets. Source: netdev_features_strings in net/ethtool/common.c."""
_MERGES_LISTS = "rx-gro-list"
_OFFLOADS_RECEIVED = "rx-checksum"


class Offloads(NamedTuple):
    """What a device does with packets, as `ethtool -k` shows it."""

    segments_all: bool
    merges_lists: bool
    offloads_received: bool = False


class OffloadReader:
    """Reads the offloads of devices of one namespace."""

    def __init__(self, control: socket.socket) -> None:
        """`control`: any socket of the namespace."""
        self._control = control
        self._names: list[str] = []

    def __call__(self, name: str) -> Offloads:
        """Those of a device. Of one that has just gone the worst."""
        if not self._names:
            self._names = _feature_names(self._control, name)
        words = (len(self._names) + 31) // 32
        active = _features(self._control, name, words) if words else None
        if active is None:
            return Offloads(segments_all=False, merges_lists=True, offloads_received=True)
        on = {name for bit, name in enumerate(self._names) if active >> bit & 1}
        wanted = {name for name in SEGMENTS_ALL if name in self._names}
        return Offloads(wanted <= on, _MERGES_LISTS in on, _OFFLOADS_RECEIVED in on)


def _feature_names(control: socket.socket, name: str) -> list[str]:
    """By number; the same for all devices of this kernel. Empty where the device has just gone.

    Source: ethtool_get_sset_info(), ethtool_get_strings() in net/ethtool/ioctl.c.
    """
    info = (ctypes.c_uint32 * 5)(_ETHTOOL_GSSET_INFO, 0, 1 << _ETH_SS_FEATURES, 0, 0)
    if not _call(control, name, info):
        return []
    count = info[4]
    size = 3 + count * _ETH_GSTRING_LEN // 4
    strings = (ctypes.c_uint32 * size)(_ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, count)
    if not _call(control, name, strings):
        return []
    block = bytes(strings)[12:]
    each = (block[at : at + _ETH_GSTRING_LEN] for at in range(0, len(block), _ETH_GSTRING_LEN))
    return [text.split(b"\0")[0].decode() for text in each]


def _features(control: socket.socket, name: str, words: int) -> int | None:
    """The bits of the features that are active. Source: ethtool_get_features() in
    net/ethtool/ioctl.c."""
    request = (ctypes.c_uint32 * (2 + 4 * words))(_ETHTOOL_GFEATURES, words)
    if not _call(control, name, request):
        return None
    # of each word: available, requested, active, never changed
    return sum(request[2 + 4 * word + 2] << 32 * word for word in range(words))


def _ask(control: socket.socket, name: str, command: int) -> int | None:
    """The kernel's struct ethtool_value; None without one."""
    value = (ctypes.c_uint32 * 2)(command, 0)
    return value[1] if _call(control, name, value) else None


def _call(control: socket.socket, name: str, argument: ctypes.Array[ctypes.c_uint32]) -> bool:
    """Have the kernel fill in the argument. False where there is no such driver function, or the
    device has just gone."""
    request = _IFREQ.pack(os.fsencode(name), ctypes.addressof(argument))
    try:
        fcntl.ioctl(control, _SIOCETHTOOL, request)
    except OSError:
        return False
    return True


def read_channels(control: socket.socket, name: str) -> tuple[int, int]:
    """Combined channels of a device: how many are in use, and the most that it can have (`ethtool
    -l NAME`); zeros where its driver has none. pyroute2 before 0.8 has no such call.

    `control`: any socket of the device's namespace.
    """
    value = (ctypes.c_uint32 * 9)(_ETHTOOL_GCHANNELS)
    return (value[8], value[4]) if _call(control, name, value) else (0, 0)
