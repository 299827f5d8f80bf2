"""Which features of a device are on, by the names of `ethtool -k`'s kernel strings.

Source: ethtool_get_features(), ethtool_get_strings() in net/ethtool/ioctl.c.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSSET_INFO, _GFEATURES = 0x1B, 0x37, 0x3A
_ETH_SS_FEATURES = 4
_ETH_GSTRING_LEN = 32
_BLOCK = struct.Struct("=IIII")
"""struct ethtool_get_features_block: available, requested, active, never changed; 32 features."""
_IFREQ = struct.Struct("16sQ16x")

HIDE_RECEIVED = frozenset({"rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"})
"""A device with one of these takes VLAN tags (802.1Q, 802.1ad) off received frames."""

HIDE_SENT = frozenset({"tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"})
"""A device with one of these gets tags beside the frames that it is to send. A veth leaves them
there: its other end receives them so."""


def features_on(control: socket.socket, name: str) -> frozenset[str]:
    """Names of the features that are on; empty where the device has just gone.

    `control`: any socket of the device's namespace.
    """
    names = _names(control, name)
    words = (len(names) + 31) // 32
    answer = _ask(control, name, struct.pack("=II", _GFEATURES, words), words * _BLOCK.size)
    if answer is None:
        return frozenset()
    active = [_BLOCK.unpack_from(answer, word * _BLOCK.size)[2] for word in range(words)]
    return frozenset(
        feature for bit, feature in enumerate(names) if active[bit // 32] >> bit % 32 & 1
    )


_known: list[str] = []


def _names(control: socket.socket, name: str) -> list[str]:
    """What the running kernel calls its features; the same for all devices."""
    if not _known:
        request = struct.pack("=IIQ", _GSSET_INFO, 0, 1 << _ETH_SS_FEATURES)
        answer = _ask(control, name, request, 4)
        if answer is not None:
            count = int.from_bytes(answer, "little")
            request = struct.pack("=III", _GSTRINGS, _ETH_SS_FEATURES, count)
            answer = _ask(control, name, request, count * _ETH_GSTRING_LEN) or b""
            _known.extend(
                answer[start : start + _ETH_GSTRING_LEN].split(b"\0")[0].decode()
                for start in range(0, len(answer), _ETH_GSTRING_LEN)
            )
    return _known


def _ask(control: socket.socket, name: str, request: bytes, size: int) -> bytes | None:
    """The bytes that the kernel writes behind the request; None without such a device."""
    buffer = ctypes.create_string_buffer(request + bytes(size), len(request) + size)
    ifreq = _IFREQ.pack(os.fsencode(name), ctypes.addressof(buffer))
    try:
        fcntl.ioctl(control, _SIOCETHTOOL, ifreq)
    except OSError:
        return None
    return buffer.raw[len(request) :]
