"""What cannot be read of one thing does not stop the others, and passes to Linux.

A kernel stands in that tells things as no kernel so far, or that changes all the time.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

from xdpecmp.errors import DumpInterrupted, KernelRefused, MalformedMessage
from xdpecmp.model.values import Neighbour, RouteKind
from xdpecmp.netlink import (
    addresses,
    elsewhere,
    ethtool,
    features,
    kernel,
    links,
    neighbours,
    nexthops,
    rules,
    sysctl,
    wire,
)
from xdpecmp.netlink.routes import parse_route
from xdpecmp.netlink.wire import attribute

MAC = bytes.fromhex("020000000001")


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


class Telling:
    """Stands in for `wire.Socket`: dumps these, and answers single questions."""

    def __init__(
        self, *messages: bytes, answers: Callable[[bytes], bytes] | None = None, torn: bool = False
    ) -> None:
        self.messages, self.answers, self.is_torn = messages, answers, torn

    def dump(self, _kind: int, _body: bytes, _what: str, torn: bool = False) -> list[bytes]:
        if self.is_torn and not torn:
            raise DumpInterrupted("the kernel's tables changed")
        return list(self.messages)

    def ask(self, _kind: int, body: bytes, _what: str) -> bytes:
        assert self.answers
        return self.answers(body)


def link(ifindex: int, *more: bytes) -> bytes:
    header = struct.pack("=BxHiII", 0, 1, ifindex, 0x10001, 0)
    return header + attribute(3, b"eth%d\0" % ifindex) + attribute(1, MAC) + b"".join(more)


BROKEN_MTU = attribute(4, bytes(3))


def read_links(connection: Telling, known: tuple[int, ...] = ()) -> set[int]:
    found = links.read_links(connection, {}, lambda _: ethtool.Features(), known)  # type: ignore[arg-type]
    return set(found)


def test_a_link() -> None:
    assert read_links(Telling(link(1), link(2, BROKEN_MTU), link(3))) == {1, 3}


def test_links_that_a_torn_dump_leaves_out() -> None:
    """Asked for by themselves, they are there or not."""

    def answer(body: bytes) -> bytes:
        (ifindex,) = struct.unpack_from("=i", body, 4)
        if ifindex == 5:
            raise wire.refused("device #5", 19)
        return link(ifindex)

    assert read_links(Telling(link(1), answers=answer, torn=True), (1, 4, 5)) == {1, 4}


def test_a_neighbour() -> None:
    def message(last: int, *more: bytes) -> bytes:
        header = struct.pack("=BxxxiHBB", socket.AF_INET, 3, 2, 0, 0)
        return header + attribute(1, bytes([10, 0, 0, last])) + b"".join(more)

    broken = message(2, attribute(15, bytes(3)))
    found = neighbours.read_neighbours(Telling(message(1), broken, message(3)))  # type: ignore[arg-type]
    assert {address[3] for address, _ in found} == {1, 3}


def test_neighbours_that_a_dump_leaves_out() -> None:
    """Asked for by themselves, they are there, are not, or their device is not."""
    mac = attribute(2, MAC)

    def message(last: int) -> bytes:
        header = struct.pack("=BxxxiHBB", socket.AF_INET, 3, 2, 0, 0)
        return header + attribute(1, bytes([10, 0, 0, last])) + mac

    def answer(body: bytes) -> bytes:
        last = body[-1]
        if last in (3, 4):
            raise wire.refused("neighbour", 2 if last == 3 else 19)
        return message(last)

    known = {
        (bytes([10, 0, 0, last]), 3): Neighbour(bytes([10, 0, 0, last]), 3, MAC, state)
        for last, state in ((1, 2), (2, 2), (3, 2), (4, 2), (5, 0x20))
    }
    telling = Telling(message(1), answers=answer)
    found = neighbours.read_neighbours(telling, known)  # type: ignore[arg-type]
    assert {address[3] for address, _ in found} == {1, 2}


def nexthop(nhid: int, *attrs: bytes) -> bytes:
    return bytes([socket.AF_INET]) + bytes(7) + attribute(1, u32(nhid)) + b"".join(attrs)


def test_a_nexthop_object() -> None:
    """Its groups pass too."""
    good = nexthop(1, attribute(5, u32(7)), attribute(6, bytes(4)))
    broken = nexthop(2, attribute(5, u32(7)), attribute(6, bytes(5)))
    nameless = bytes(8)
    group = nexthop(10, attribute(2, struct.pack("=IHHIHH", 1, 0, 0, 2, 0, 0)))
    for torn in (False, True):
        telling = Telling(good, broken, nameless, group, torn=torn)
        found = nexthops.read_nexthops(telling)  # type: ignore[arg-type]
        assert {nhid: each.kind for nhid, each in found.items()} == {
            1: RouteKind.UNICAST,
            2: RouteKind.UNSUPPORTED,
            10: RouteKind.UNSUPPORTED,
        }


def test_a_policy_rule() -> None:
    """The family passes, as with rules of one's own."""
    assert rules.read_custom_rules(Telling(bytes(3))) == (True, True)  # type: ignore[arg-type]
    assert rules.read_custom_rules(Telling(torn=True)) == (True, True)  # type: ignore[arg-type]


TEN = attribute(15, u32(254)) + attribute(1, bytes([10, 0, 0, 0]))


def route(*attrs: bytes, bits: int = 8) -> bytes:
    return struct.pack("=BBBBBBBBI", socket.AF_INET, bits, 0, 0, 254, 0, 0, 1, 0) + b"".join(attrs)


@pytest.mark.parametrize(
    "broken",
    [
        attribute(5, bytes(5)),  # RTA_GATEWAY
        attribute(4, bytes(3)),  # RTA_OIF
        attribute(9, struct.pack("=HBBi", 7, 0, 0, 1)),  # RTA_MULTIPATH
        attribute(30, bytes(3)),  # RTA_NH_ID
        struct.pack("=HH", 3, 8),  # an attribute that is none
    ],
)
def test_a_route(broken: bytes) -> None:
    """It is there, and passes: without it its packets would go by a shorter prefix."""
    found = parse_route(route(TEN, attribute(6, u32(7)), broken))
    assert found is not None
    assert (str(found.prefix), found.metric, found.kind, found.paths, found.nhid) == (
        "10.0.0.0/8", 7, RouteKind.UNSUPPORTED, (), 0,
    )  # fmt: skip


def test_a_route_to_nobody_knows_where() -> None:
    with pytest.raises(MalformedMessage):
        parse_route(route(attribute(4, bytes(3))))
    found = parse_route(route(attribute(4, bytes(3)), bits=0))
    assert found is not None, "a default route names no destination"
    assert found.kind is RouteKind.UNSUPPORTED


def test_a_sysctl_of_an_interface_that_has_just_gone(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it then gives nothing at all."""
    monkeypatch.setattr(sysctl, "_ROOT", str(tmp_path))
    with open(f"{tmp_path}/forwarding", "w"):
        pass
    assert sysctl._read("forwarding", absent=7) == 7


def test_features_that_cannot_be_read_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of devices that came since nothing is known, so nothing is redirected to them."""
    made = object.__new__(kernel.Kernel)
    made._route = Telling(link(1), link(2))  # type: ignore[assignment]
    made._generic = made._netdev = made._control = None  # type: ignore[assignment]
    made._known_links, made._transmits = set(), None

    def refuse(*_: object) -> dict[int, bool]:
        raise KernelRefused("XDP features: Out of memory", 12)

    monkeypatch.setattr(ethtool, "features", lambda *_: ethtool.Features())
    monkeypatch.setattr(addresses, "read_addresses4", lambda _: {})
    monkeypatch.setattr(elsewhere, "_others", lambda _: [])
    made._lookout = elsewhere.Lookout(-1)
    monkeypatch.setattr(features, "read_transmits", refuse)
    with pytest.raises(KernelRefused):
        made.links()
    monkeypatch.setattr(features, "read_transmits", lambda *_: {1: True})
    made.links()
    monkeypatch.setattr(features, "read_transmits", refuse)
    assert [each.can_transmit_xdp for each in made.links().values()] == [True, False]


class Torn(wire.Socket):
    """A socket whose every dump is interrupted."""

    def __init__(self) -> None:
        self._sequence = 0
        self.dumps = 0

    def _send(self, _kind: int, _flags: int, _body: bytes) -> None:
        self.dumps += 1

    def _receive(self, _what: str) -> bytes:
        message = struct.pack("=IHHII", 20, 24, 0x10, 1, 0) + u32(self.dumps)
        return message + struct.pack("=IHHIIi", 20, 3, 0x10, 1, 0, 0)


def test_a_dump_that_is_always_interrupted() -> None:
    """Taken as it comes by who knows what to make of it."""
    with pytest.raises(DumpInterrupted):
        Torn().dump(26, b"", "things")
    torn = Torn()
    assert torn.dump(26, b"", "things", torn=True) == [u32(torn.dumps)]
    assert torn.dumps < 8
