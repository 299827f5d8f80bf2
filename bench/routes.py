"""Routing tables as large as the Internet's: made with numpy, told to the kernel in bulk.

`ip -batch` takes half a minute for a million routes. Here every message of a table has the same
layout, so one numpy record array is the byte stream that goes to the kernel.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.netns import Namespace

from .router import BenchError, Router, gateway

PAIRS = 64
"""Different pairs of next hops in a table: a router has many routes, but few neighbours."""

_SHARES4 = dict(
    zip(
        range(16, 30),
        (1.4, 0.9, 1.5, 2.6, 4.6, 5.2, 11.2, 10.3, 60.3, 0.4, 0.4, 0.4, 0.4, 0.4),
        strict=True,
    )
)
"""Per cent of each prefix length: about as in the Internet's table, and a few longer ones as there
are within a network."""
_SHARES6 = {29: 3, 32: 13, 36: 4, 40: 12, 44: 12, 46: 4, 48: 48, 56: 4}

_RTM_NEWROUTE, _RTM_NEWNEXTHOP, _NLMSG_ERROR = 24, 104, 2
_REQUEST, _ACK, _REPLACE, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_RTA_DST, _RTA_GATEWAY, _RTA_MULTIPATH = 1, 5, 9
_NHA_ID, _NHA_GROUP = 1, 2
_MAIN, _STATIC, _UNICAST = 254, 4, 1
_SO_SNDBUFFORCE = 32
_CHUNK = 2000
_TIMEOUT_SECONDS = 60.0
_TRIES = 4


@dataclass(frozen=True)
class Table:
    """Prefixes without duplicates: `addresses` are rows of 4 or 16 bytes, as on the wire."""

    family: int
    addresses: Any
    lengths: Any
    pairs: Any
    """Which pair of next hops each route has."""

    def __len__(self) -> int:
        return len(self.lengths)

    def part(self, which: Any) -> Table:
        """Some of the routes: a slice, numbers or a mask."""
        return Table(self.family, self.addresses[which], self.lengths[which], self.pairs[which])

    def destinations(self, count: int, seed: int = 1) -> Any:
        """Addresses for packets: routes drawn at random and a random host in each."""
        rng = np.random.default_rng(seed)
        chosen = rng.integers(0, len(self), count)
        noise = rng.integers(0, 256, (count, self.addresses.shape[1]), dtype=np.uint8)
        mask = _masks(self.lengths[chosen], self.addresses.shape[1])
        return self.addresses[chosen] | (noise & ~mask)

    def hosts(self) -> tuple[Any, Any]:
        """For each IPv4 route an address that goes by it and by no longer one: the addresses, and
        the numbers of the routes. Routes that longer ones cover almost whole are left out."""
        rng = np.random.default_rng(2)
        mask, found = _masks(self.lengths, 4), self.addresses.copy()
        open_ = np.arange(len(self))
        for _ in range(_TRIES):
            noise = rng.integers(0, 256, (len(open_), 4), dtype=np.uint8)
            found[open_] = self.addresses[open_] | (noise & ~mask[open_])
            open_ = open_[self._is_covered(found[open_], self.lengths[open_])]
        kept = np.ones(len(self), bool)
        kept[open_] = False
        return found[kept], np.flatnonzero(kept)

    def _is_covered(self, addresses: Any, lengths: Any) -> Any:
        """Which of these addresses belong to a route longer than this."""
        covered = np.zeros(len(addresses), bool)
        keys = _keys(self.addresses, self.lengths)
        for length in np.unique(self.lengths):
            same = np.full(len(addresses), length, np.uint8)
            mine = _keys(addresses & _masks(same, addresses.shape[1]), same)
            covered |= np.isin(mine, keys[self.lengths == length]) & (lengths < length)
        return covered


def make_table(family: int, count: int, seed: int = 1) -> Table:
    """`count` random prefixes: IPv4 from 11/8 to 189/8, IPv6 from 2400::/6, which leaves those of
    bench/router.py alone. A table of one is a single wide route, for all destinations."""
    rng = np.random.default_rng(seed)
    width = 4 if family == 4 else 16
    shares = _SHARES4 if family == 4 else _SHARES6
    if count == 1:
        shares = {min(shares): 1}
    wanted = int(count * 1.5) + 16  # some will turn out equal
    odds = np.array([*shares.values()])
    lengths = rng.choice(np.array([*shares], np.uint8), wanted, p=odds / odds.sum())
    addresses = rng.integers(0, 256, (wanted, width), dtype=np.uint8)
    if family == 4:
        addresses[:, 0] = rng.integers(11, 190, wanted)
        addresses[addresses[:, 0] == 127, 0] = 126
        addresses[addresses[:, 0] == 169, 0] = 168
    else:
        addresses[:, 0] = rng.integers(0x24, 0x28, wanted)
    addresses &= _masks(lengths, width)
    _, different = np.unique(_keys(addresses, lengths), return_index=True)
    if len(different) < count:
        raise BenchError(f"only {len(different):,} different prefixes of {count:,}")
    keep = rng.permutation(different)[:count]
    return Table(family, addresses[keep], lengths[keep], rng.integers(0, PAIRS, count))


def _keys(addresses: Any, lengths: Any) -> Any:
    """A number for each prefix of up to 63 bits, in the order of addresses: the prefix and, behind
    it, a bit that says where it ends."""
    wide = np.zeros((len(addresses), 8), np.uint8)
    wide[:, : addresses.shape[1]] = addresses[:, :8]
    ends = np.uint64(1) << (np.uint64(63) - lengths.astype(np.uint64))
    return wide.view(">u8")[:, 0].astype(np.uint64) | ends


def _masks(lengths: Any, width: int) -> Any:
    """Network masks, a row of bytes each."""
    bits = lengths.astype(np.int16)[:, None] - 8 * np.arange(width)[None, :]
    return (0xFF00 >> np.clip(bits, 0, 8) & 0xFF).astype(np.uint8)


# --- to the kernel --------------------------------------------------------------------------------


_HEADER = [("size", "<u4"), ("kind", "<u2"), ("flags", "<u2"), ("seq", "<u4"), ("pid", "<u4")]


def group_message(group: int, members: Sequence[int]) -> Any:
    """RTM_NEWNEXTHOP: these nexthop objects make up that group from now on, alike in weight
    (include/uapi/linux/nexthop.h)."""
    member = np.dtype([("id", "<u4"), ("weight", "u1"), ("reserved", "u1", 3)])
    layout = [
        *_HEADER,
        *[("family", "u1"), ("scope", "u1"), ("protocol", "u1"), ("reserved", "u1")],
        *[("nh_flags", "<u4"), ("id_length", "<u2"), ("id_type", "<u2"), ("id", "<u4")],
        *[("members_length", "<u2"), ("members_type", "<u2"), ("members", member, len(members))],
    ]
    found = np.zeros(1, layout)
    found["size"], found["kind"] = found.itemsize, _RTM_NEWNEXTHOP
    found["flags"] = _REQUEST | _CREATE | _REPLACE
    found["id_length"], found["id_type"], found["id"] = 8, _NHA_ID, group
    found["members_length"] = 4 + len(members) * member.itemsize
    found["members_type"] = _NHA_GROUP
    found["members"]["id"] = members
    return found


def _layout(width: int) -> Any:
    """RTM_NEWROUTE with a destination and two next hops: include/uapi/linux/rtnetlink.h."""
    hop = np.dtype(
        [
            *[("length", "<u2"), ("flags", "u1"), ("hops", "u1"), ("ifindex", "<i4")],
            *[("gateway_length", "<u2"), ("gateway_type", "<u2"), ("gateway", "u1", width)],
        ]
    )
    return np.dtype(
        [
            *_HEADER,
            *[("family", "u1"), ("dst_len", "u1"), ("src_len", "u1"), ("tos", "u1")],
            *[("table", "u1"), ("protocol", "u1"), ("scope", "u1"), ("type", "u1")],
            *[("rtm_flags", "<u4"), ("dst_length", "<u2"), ("dst_type", "<u2")],
            *[("dst", "u1", width), ("paths_length", "<u2"), ("paths_type", "<u2")],
            ("paths", hop, 2),
        ]
    )


def messages(
    table: Table,
    egresses: Sequence[int],
    replace: bool = False,
    shift: int = 0,
    weights: Sequence[int] = (1, 1),
) -> Any:
    """One message a route. `shift` turns each to so many pairs of next hops further on."""
    width = table.addresses.shape[1]
    found = np.zeros(len(table), _layout(width))
    found["size"], found["kind"] = found.itemsize, _RTM_NEWROUTE
    found["flags"] = _REQUEST | _CREATE | (_REPLACE if replace else _EXCLUSIVE)
    found["family"] = socket.AF_INET if table.family == 4 else socket.AF_INET6
    found["dst_len"], found["dst"] = table.lengths, table.addresses
    found["table"], found["protocol"], found["type"] = _MAIN, _STATIC, _UNICAST
    found["dst_length"], found["dst_type"] = 4 + width, _RTA_DST
    paths = found["paths"]
    found["paths_length"], found["paths_type"] = 4 + 2 * paths.dtype.itemsize, _RTA_MULTIPATH
    paths["length"] = paths.dtype.itemsize
    paths["gateway_length"], paths["gateway_type"] = 4 + width, _RTA_GATEWAY
    paths["ifindex"], paths["hops"] = egresses, np.array(weights) - 1
    pairs = (table.pairs + shift)[:, None] * 2 + np.arange(2)
    paths["gateway"] = _gateways(table.family, int(pairs.max()) + 1)[pairs]
    return found


def _gateways(family: int, count: int) -> Any:
    packed = [ipaddress.ip_address(gateway(family, n)).packed for n in range(count)]
    return np.frombuffer(b"".join(packed), np.uint8).reshape(count, -1)


class Feeder:
    """A netlink socket of a namespace that takes messages in bulk."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.enter():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._socket.bind((0, 0))
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 4 << 20)

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def feed(self, found: Any) -> None:
        """Send them all and wait until the kernel has carried out the last one. Raises BenchError
        where it refused one."""
        found["seq"] = np.arange(len(found))
        for start in range(0, len(found), _CHUNK):
            part = found[start : start + _CHUNK]
            part["flags"][-1] |= _ACK
            self._socket.send(part.tobytes())
            self._await(start + len(part) - 1)

    def _await(self, last: int) -> None:
        while True:
            answer = self._socket.recv(1 << 16)
            at = 0
            while at < len(answer):
                size, kind, _, seq = struct.unpack_from("=IHHI", answer, at)
                if kind == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", answer, at + 16)
                    if code:
                        raise BenchError(f"the kernel refuses message {seq:,}: error {-code}")
                    if seq == last:
                        return
                at += (size + 3) & ~3


def add_routes(inside: Router, table: Table, weights: Sequence[int] = (1, 1)) -> None:
    """The whole table into the router's kernel."""
    with Feeder(inside.namespace) as feeder:
        found = messages(table, inside.egresses, weights=weights)
        feeder.feed(found[np.argsort(_keys(table.addresses, table.lengths))])
