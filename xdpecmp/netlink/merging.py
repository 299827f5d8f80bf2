"""Whether a device itself merges what it receives: LRO, or GRO in hardware or by the hypervisor.

What it delivers then may be larger than the MTU, and XDP sees it so. GRO by the kernel comes after
an XDP program in the driver, and is left out on a device with a generic one (netif_elide_gro() in
include/linux/netdevice.h).

Source: net/ethtool/ioctl.c, include/uapi/linux/ethtool.h; features are numbered by each kernel and
named by its string set.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

_SIOCETHTOOL = 0x8946
_ETHTOOL_GSTRINGS = 0x1B
_ETHTOOL_GSSET_INFO = 0x37
_ETHTOOL_GFEATURES = 0x3A
_ETH_SS_FEATURES = 4
_ETH_GSTRING_LEN = 32
_IFREQ = struct.Struct("16sQ16x")
_BLOCK = struct.Struct("=IIII")
"""ethtool_get_features_block: available, requested, active, never changed."""

_MERGING = ("rx-lro", "rx-gro-hw")

_numbers: dict[str, int] = {}
"""Of _MERGING in this kernel; asked once."""


def merges(control: socket.socket, name: str) -> frozenset[str]:
    """Which of "rx-lro" and "rx-gro-hw" are on; both if the kernel does not tell.

    `control`: any socket of the device's namespace.
    """
    try:
        if not _numbers:
            names = _feature_names(control, name)
            _numbers.update({each: names.index(each) for each in _MERGING})
        blocks = 1 + max(_numbers.values()) // 32
        answer = _ask(control, name, struct.pack("=II", _ETHTOOL_GFEATURES, blocks), 16 * blocks)
    except (OSError, ValueError):
        return frozenset(_MERGING)
    active = [_BLOCK.unpack_from(answer, 8 + 16 * block)[2] for block in range(blocks)]
    return frozenset(
        each for each, number in _numbers.items() if active[number // 32] >> number % 32 & 1
    )


def _feature_names(control: socket.socket, name: str) -> list[str]:
    request = struct.pack("=IIQ", _ETHTOOL_GSSET_INFO, 0, 1 << _ETH_SS_FEATURES)
    (count,) = struct.unpack_from("=I", _ask(control, name, request, 4), len(request))
    request = struct.pack("=III", _ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, count)
    strings = _ask(control, name, request, count * _ETH_GSTRING_LEN)[len(request) :]
    rows = [strings[at : at + _ETH_GSTRING_LEN] for at in range(0, len(strings), _ETH_GSTRING_LEN)]
    return [row.split(b"\0")[0].decode(errors="replace") for row in rows]


def _ask(control: socket.socket, name: str, request: bytes, answer: int) -> bytes:
    """The kernel's struct; `answer`: bytes that it writes behind the request."""
    buffer = ctypes.create_string_buffer(request, len(request) + answer)
    fcntl.ioctl(control, _SIOCETHTOOL, _IFREQ.pack(os.fsencode(name), ctypes.addressof(buffer)))
    return buffer.raw
