"""Which features of a device are on, by the names of `ethtool -k`'s kernel strings, and what that
means for XDP.

Source: ethtool_get_features(), ethtool_get_strings() in net/ethtool/ioctl.c; features are numbered
by each kernel and named by netdev_features_strings in net/ethtool/common.c.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import NamedTuple

SIOCETHTOOL = 0x8946
"""include/uapi/linux/sockios.h."""
GSTRINGS, GSSET_INFO, _GFEATURES, _GCHANNELS = 0x1B, 0x37, 0x3A, 0x3C
"""ETHTOOL_*: include/uapi/linux/ethtool.h, as all here."""
_ETH_SS_FEATURES = 4
STRING_SIZE = 32
"""ETH_GSTRING_LEN."""
_BLOCK = struct.Struct("=IIII")
"""struct ethtool_get_features_block: available, requested, active, never changed; 32 features."""
_CHANNELS = struct.Struct("=8I")
"""ethtool_channels behind its command: the most rx, tx, other, combined; then those in use."""
IFREQ = struct.Struct("16sQ16x")
"""struct ifreq: name of the device, pointer to the request."""

_HIDE_RECEIVED = frozenset({"rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"})
_HIDE_SENT = frozenset({"tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"})
_MERGING = frozenset({"rx-lro", "rx-gro-hw"})
_MERGES_LISTS = "rx-gro-list"
_OFFLOADS_RECEIVED = "rx-checksum"

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
"""The features that packets merged by GRO or by a sender can ask for. If this kernel does not
know one, it makes no such packets."""


class Features(NamedTuple):
    """What a device does with packets. Of one that does not tell, or has just gone, the worst is
    taken for true, hidden tags apart: those it may not have."""

    on: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    """All that this kernel knows."""
    told: bool = True

    @property
    def hides_received(self) -> bool:
        """Whether it takes VLAN tags (802.1Q, 802.1ad) off received frames."""
        return bool(self.on & _HIDE_RECEIVED)

    @property
    def hides_sent(self) -> bool:
        """Whether it gets tags beside the frames that it is to send. A veth leaves them there: its
        other end receives them so."""
        return bool(self.on & _HIDE_SENT)

    @property
    def segments_all(self) -> bool:
        """Whether it finishes checksums and splits whatever can have been merged."""
        return self.told and self.known & frozenset(SEGMENTS_ALL) <= self.on

    @property
    def merges_lists(self) -> bool:
        """Whether it merges received packets into lists, which only that list's owner can split."""
        return not self.told or _MERGES_LISTS in self.on

    @property
    def offloads_received(self) -> bool:
        """Whether what it receives comes with word of its checksum."""
        return not self.told or _OFFLOADS_RECEIVED in self.on

    @property
    def merges(self) -> frozenset[str]:
        """Which of LRO and GRO in hardware, or by the hypervisor, are on. What it delivers then may
        be larger than the MTU, and XDP sees it so. (GRO by the kernel comes after an XDP program in
        the driver, and is left out on a device with a generic one: netif_elide_gro().)"""
        return self.on & _MERGING if self.told else _MERGING


def features(control: socket.socket, name: str) -> Features:
    """Those of a device. `control`: any socket of the device's namespace."""
    names = _names(control, name)
    words = (len(names) + 31) // 32
    answer = None
    if words:
        answer = _ask(control, name, struct.pack("=II", _GFEATURES, words), words * _BLOCK.size)
    if answer is None:
        return Features(told=False)
    active = [_BLOCK.unpack_from(answer, word * _BLOCK.size)[2] for word in range(words)]
    on = {feature for bit, feature in enumerate(names) if active[bit // 32] >> bit % 32 & 1}
    return Features(frozenset(on), frozenset(names))


def read_channels(control: socket.socket, name: str) -> tuple[int, int]:
    """Combined channels of a device: how many are in use, and the most that it can have (`ethtool
    -l NAME`); zeros if its driver has none. pyroute2 before 0.8 has no such call.

    `control`: any socket of the device's namespace.
    """
    answer = _ask(control, name, struct.pack("=I", _GCHANNELS), _CHANNELS.size)
    if answer is None:
        return 0, 0
    _, _, _, most, _, _, _, combined = _CHANNELS.unpack(answer)
    return combined, most


_known: list[str] = []


def _names(control: socket.socket, name: str) -> list[str]:
    """What the running kernel calls its features; the same for all devices."""
    if not _known:
        request = struct.pack("=IIQ", GSSET_INFO, 0, 1 << _ETH_SS_FEATURES)
        answer = _ask(control, name, request, 4)
        if answer is not None:
            count = int.from_bytes(answer, "little")
            request = struct.pack("=III", GSTRINGS, _ETH_SS_FEATURES, count)
            answer = _ask(control, name, request, count * STRING_SIZE) or b""
            _known.extend(
                answer[start : start + STRING_SIZE].split(b"\0")[0].decode(errors="replace")
                for start in range(0, len(answer), STRING_SIZE)
            )
    return _known


def _ask(control: socket.socket, name: str, request: bytes, size: int) -> bytes | None:
    """The bytes that the kernel writes behind the request; None without such a device."""
    buffer = ctypes.create_string_buffer(request + bytes(size), len(request) + size)
    ifreq = IFREQ.pack(os.fsencode(name), ctypes.addressof(buffer))
    try:
        fcntl.ioctl(control, SIOCETHTOOL, ifreq)
    except OSError:
        return None
    return buffer.raw[len(request) :]
