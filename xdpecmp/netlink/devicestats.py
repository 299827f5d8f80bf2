"""What devices count: frames that they did not send, and what their drivers say of XDP.

Source: rtnl_stats_fill() in net/core/rtnetlink.c, include/uapi/linux/if_link.h; ethtool_get_stats()
in net/ethtool/ioctl.c. What drivers count has no common names: those with "xdp" in them are looked
through for words of failure.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from . import wire
from .ethtool import GSSET_INFO, GSTRINGS, IFREQ, SIOCETHTOOL, STRING_SIZE
from .rtnetlink import RTM_GETSTATS

_STATS_HEADER = struct.Struct("=BBHII")
"""if_stats_msg: family, two pads, ifindex, filter mask."""
_IFLA_STATS_LINK_64 = 1
_LINK_64 = struct.Struct("=8Q")
"""The beginning of rtnl_link_stats64: rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors,
tx_errors, rx_dropped, tx_dropped."""

_GSTATS = 0x1D
_ETH_SS_STATS = 1

_FAILURE = re.compile(r"drop|err|full|exception")
_SENT_BY_VETH = re.compile(r"tx_queue_\d+_xdp_xmit$")
_REDIRECTS_REFUSED_BY_VETH = re.compile(r"rx_queue_\d+_drops$")
"""veth_xdp_rcv_one() in drivers/net/veth.c counts a redirect that failed there."""


@dataclass(frozen=True, slots=True)
class DeviceCounters:
    """Of one device, since it exists."""

    name: str
    tx_dropped: int
    tx_errors: int
    xdp_drops: int
    """What the driver counts of frames that XDP programs had and that went nowhere."""
    xdp_sent: int | None
    """Frames redirected to it that it took; None if the driver does not count just that."""


def read_unsent(connection: wire.Socket) -> dict[int, tuple[int, int]]:
    """By ifindex: tx_dropped and tx_errors."""
    request = _STATS_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 1 << (_IFLA_STATS_LINK_64 - 1))
    found = {}
    for message in connection.dump(RTM_GETSTATS, request, "device statistics"):
        *_, ifindex, _ = _STATS_HEADER.unpack_from(message)
        values = wire.attribute_map(message, _STATS_HEADER.size, len(message))
        if _IFLA_STATS_LINK_64 in values:
            *_, tx_errors, _, tx_dropped = _LINK_64.unpack_from(values[_IFLA_STATS_LINK_64])
            found[ifindex] = tx_dropped, tx_errors
    return found


def read_driver(control: socket.socket, name: str) -> dict[str, int]:
    """The statistics of `ethtool -S`; {} if the driver has none, or the device has just gone.

    `control`: any socket of the device's namespace.
    """
    asked = ctypes.create_string_buffer(struct.pack("=IIQI", GSSET_INFO, 0, 1 << _ETH_SS_STATS, 0))
    if not _ask(control, name, asked):
        return {}
    _, _, mask, count = struct.unpack_from("=IIQI", asked)
    if not mask or not count:
        return {}
    # with space to spare: a device may get more queues meanwhile
    space = 2 * count + 64
    names = ctypes.create_string_buffer(
        struct.pack("=III", GSTRINGS, _ETH_SS_STATS, count), 12 + space * STRING_SIZE
    )
    values = ctypes.create_string_buffer(struct.pack("=II", _GSTATS, count), 8 + space * 8)
    if not (_ask(control, name, names) and _ask(control, name, values)):
        return {}
    told = min(struct.unpack_from("=I", names, 8)[0], struct.unpack_from("=I", values, 4)[0], space)
    texts = [names.raw[12 + i * STRING_SIZE :][:STRING_SIZE].split(b"\0")[0] for i in range(told)]
    numbers = struct.unpack_from(f"={told}Q", values, 8)
    return {
        text.decode(errors="replace"): value for text, value in zip(texts, numbers, strict=True)
    }


def _ask(control: socket.socket, name: str, buffer: ctypes.Array[ctypes.c_char]) -> bool:
    request = IFREQ.pack(os.fsencode(name), ctypes.addressof(buffer))
    try:
        fcntl.ioctl(control, SIOCETHTOOL, request)
    except OSError:
        return False
    return True


def xdp_drops(statistics: Mapping[str, int], is_veth: bool) -> int:
    """What a driver counts of XDP's failures. What it counts by queue and in all counts once."""
    by_stem: dict[str, dict[bool, int]] = defaultdict(lambda: {True: 0, False: 0})
    for name, value in statistics.items():
        failed = "xdp" in name and _FAILURE.search(name)
        if failed or (is_veth and _REDIRECTS_REFUSED_BY_VETH.match(name)):
            stem = re.sub(r"(_?queue)?_?\d+", "", name)
            by_stem[stem][stem == name] += value
    return sum(max(counts.values()) for counts in by_stem.values())


def xdp_sent(statistics: Mapping[str, int], is_veth: bool) -> int | None:
    """Frames redirected to a device that it took: a veth counts exactly those."""
    found = [value for name, value in statistics.items() if _SENT_BY_VETH.match(name)]
    return sum(found) if found and is_veth else None
