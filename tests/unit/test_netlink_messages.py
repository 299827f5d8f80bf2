"""Links, neighbours, rules, features and events from hand-built messages; netlink's own answers."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpecmp.errors import KernelRefused, MalformedMessage, NoSuchInterface, NotPermitted
from xdpecmp.model.nexthoptable import BucketUpdate, NexthopUpdate, Single
from xdpecmp.model.values import (
    Link,
    Neighbour,
    NeighbourUpdate,
    Prefix,
    Route,
    RouteKind,
    RouteUpdate,
)
from xdpecmp.netlink import links, wire
from xdpecmp.netlink.features import parse_features
from xdpecmp.netlink.links import parse_link
from xdpecmp.netlink.monitor import ANYWHERE, Changes, Classifier, Updates
from xdpecmp.netlink.neighbours import parse_neighbour
from xdpecmp.netlink.rules import plain_rule
from xdpecmp.netlink.wire import attribute

MAC = bytes.fromhex("020000000001")


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def link(*attrs: bytes, hardware: int = 1, flags: int = 0x10001) -> Link:
    return parse_link(struct.pack("=BxHiII", 0, hardware, 3, flags, 0) + b"".join(attrs))


def test_link() -> None:
    assert link(
        attribute(3, b"eth0.5\0"),
        attribute(1, MAC),
        attribute(4, u32(9000)),
        attribute(10, u32(9)),
        attribute(18, attribute(1, b"veth\0")),
        attribute(5, u32(2)),  # a veth's IFLA_LINK is its peer: not something below it
    ) == Link(3, "eth0.5", MAC, 9000, True, kind="veth", master=9, peer_index=2)


def test_vlan_link() -> None:
    data = attribute(1, struct.pack("=H", 100)) + attribute(5, b"\x88\xa8")
    vlan = attribute(18, attribute(1, b"vlan\0") + attribute(2, data))
    found = link(attribute(5, u32(2)), vlan)
    assert (found.kind, found.lower, found.vlan_id, found.vlan_protocol) == (
        "vlan", 2, 100, 0x88A8,
    )  # fmt: skip
    assert not found.sets_priority
    mapped = data + attribute(3, attribute(1, struct.pack("=II", 0, 3)))
    vlan_with_map = attribute(18, attribute(1, b"vlan\0") + attribute(2, mapped))
    assert link(vlan_with_map).sets_priority
    # IFLA_LINK_NETNSID: the device below is in another namespace, its index means nothing here
    assert link(attribute(5, u32(2)), attribute(37, u32(0)), vlan).lower == 0


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("macvlan", attribute(1, u32(1)), "private"),
        ("macvtap", attribute(1, u32(8)), "passthru"),
        ("macvlan", attribute(1, u32(16)), "source"),
        ("macvlan", attribute(1, u32(32)), ""),  # one that we do not know
        ("bond", attribute(1, b"\x01"), "active-backup"),
        ("bond", attribute(1, b"\x06"), "balance-alb"),
        ("ipvlan", attribute(1, b"\x00\x00"), ""),
    ],
)
def test_modes(kind: str, data: bytes, expected: str) -> None:
    info = attribute(1, kind.encode() + b"\0") + attribute(2, data)
    found = link(attribute(5, u32(2)), attribute(18, info))
    assert (found.kind, found.mode, found.lower) == (kind, expected, 2)


def test_hsr_receives_by_several_ports() -> None:
    data = attribute(1, u32(7)) + attribute(2, u32(8)) + attribute(7, b"\0")
    info = attribute(1, b"hsr\0") + attribute(2, data)
    assert link(attribute(18, info)).ports == (7, 8)


def bridge_message(ifindex: int, master: int, *flags: int) -> bytes:
    vlans = b"".join(attribute(2, struct.pack("=HH", each, 5)) for each in flags)
    header = struct.pack("=BxHiII", socket.AF_BRIDGE, 0, ifindex, 0, 0)
    return header + attribute(10, u32(master)) + (attribute(26, vlans) if flags else b"")


@pytest.mark.parametrize(
    ("flags", "untagged"), [((), True), ((6,), True), ((4, 12, 20), True), ((6, 0), False)]
)
def test_vlans_that_come_up_to_a_bridge(flags: tuple[int, ...], untagged: bool) -> None:
    """4 is BRIDGE_VLAN_INFO_UNTAGGED; without VLANs nothing comes up."""
    assert links.parse_bridge_vlans(bridge_message(7, 7, *flags)) == (7, untagged)


@pytest.mark.parametrize(("master", "changes"), [(7, Changes(links=True)), (8, Changes())])
def test_events_of_a_bridge_itself(master: int, changes: Changes) -> None:
    """Not of its ports, which announce their state all the time."""
    assert classify(message(16, bridge_message(7, master))) == changes


@pytest.mark.parametrize(
    ("kind", "state", "delivers"), [("bond", 0, True), ("bond", 1, False), ("bridge", 0, False)]
)
def test_a_link_of_a_bond_says_whether_it_is_in_use(kind: str, state: int, delivers: bool) -> None:
    data = attribute(1, bytes([state])) + attribute(2, b"\0")
    info = attribute(1, b"veth\0") + attribute(4, kind.encode() + b"\0") + attribute(5, data)
    assert link(attribute(18, info)).delivers is delivers
    assert not link(attribute(18, attribute(4, b"bond\0"))).delivers


@pytest.mark.parametrize(
    ("flags", "up"), [(0x10001, True), (0x1, False), (0x10000, False), (0, False)]
)
def test_link_up_means_admin_and_carrier(flags: int, up: bool) -> None:
    assert link(flags=flags).up is up


def test_only_ethernet_has_a_mac() -> None:
    assert link(attribute(1, bytes(6)), hardware=772).mac == b""  # loopback
    assert link(attribute(1, bytes(20)), hardware=32).mac == b""  # InfiniBand


@pytest.mark.parametrize(
    ("block", "mode", "program"),
    [
        (attribute(2, b"\0"), "", 0),
        (attribute(2, b"\1") + attribute(4, u32(7)) + attribute(5, u32(7)), "native", 7),
        (attribute(2, b"\2") + attribute(4, u32(8)) + attribute(6, u32(8)), "generic", 8),
        (attribute(2, b"\4") + attribute(6, u32(8)) + attribute(5, u32(9)), "native", 9),
    ],
    ids=["none", "native", "generic", "several"],
)
def test_link_xdp(block: bytes, mode: str, program: int) -> None:
    found = link(attribute(43, block))
    assert (found.xdp_mode, found.xdp_prog_id) == (mode, program)


def neighbour(*attrs: bytes, family: int = socket.AF_INET, flags: int = 0) -> bytes:
    return struct.pack("=BxxxiHBB", family, 3, 0x02, flags, 1) + b"".join(attrs)


def test_neighbour() -> None:
    to = attribute(1, bytes(4))
    assert parse_neighbour(neighbour(to, attribute(2, MAC), attribute(15, u32(1)), flags=0x10)) == (
        Neighbour(bytes(4), 3, MAC, 0x02, managed=True), 0x10,
    )  # fmt: skip
    assert parse_neighbour(neighbour(to)) == (Neighbour(bytes(4), 3, b"", 0x02), 0)
    assert parse_neighbour(neighbour(to, flags=0x08)) is None  # proxy
    assert parse_neighbour(neighbour(family=socket.AF_BRIDGE)) is None
    with pytest.raises(MalformedMessage):
        parse_neighbour(neighbour(attribute(1, bytes(16))))


def rule(*attrs: bytes, bits: int = 0, tos: int = 0, action: int = 1, flags: int = 0) -> bytes:
    header = struct.pack("=BBBBBxxBI", socket.AF_INET, 0, bits, tos, 254, action, flags)
    return header + b"".join(attrs)


MAIN = (attribute(6, u32(32766)), attribute(15, u32(254)), attribute(14, u32(0xFFFFFFFF)))


def test_plain_rule() -> None:
    assert plain_rule(rule(*MAIN, attribute(21, b"\2"))) == (32766, 254)
    assert plain_rule(rule()) == (0, 254)


@pytest.mark.parametrize(
    "message",
    [
        rule(*MAIN, attribute(10, u32(1))),
        rule(*MAIN, attribute(3, b"eth0\0")),
        rule(*MAIN, attribute(19, b"\1")),
        rule(*MAIN[:2], attribute(14, u32(0))),
        rule(*MAIN, bits=8),
        rule(*MAIN, tos=8),
        rule(*MAIN, action=6),
        rule(*MAIN, flags=2),
        rule(*MAIN, attribute(99, b"")),
    ],
    ids=["mark", "iif", "l3mdev", "suppress", "from", "tos", "blackhole", "not", "unknown"],
)
def test_rules_that_pick_packets(message: bytes) -> None:
    assert plain_rule(message) is None


def test_features() -> None:
    def answer(bits: int) -> bytes:
        features = attribute(1, u32(3)) + attribute(3, struct.pack("=Q", bits))
        return struct.pack("=BBH", 1, 1, 0) + features

    assert parse_features(answer(0x7)) == (3, True)
    assert parse_features(answer(0x43)) == (3, False)


NONE = Changes()
SEVEN, ALL = frozenset({7}), frozenset({ANYWHERE})
LINKS = Changes(links=True, routes=True, nexthops=True, silent=SEVEN)
DOWN = replace(LINKS, down=SEVEN)
ADDRESSES = Changes(routes=True, settings=True, silent=SEVEN)
UP = 0x10001  # IFF_UP, IFF_LOWER_UP
NEXTHOPS = Changes(nexthops=True, routes=True, silent=ALL)


TEN = Route(Prefix.parse("10.0.0.0/8"), 254, 0, RouteKind.SPECIAL)


def classify(datagram: bytes) -> Changes:
    updates = Updates()
    return updates.added_to(Classifier()(datagram, updates))


def updated(*updates: RouteUpdate) -> Changes:
    return Changes(updates=updates)


NO_NEIGHBOUR = Neighbour(bytes(4), 3, b"", 0x02)
HOLE = Single(RouteKind.SPECIAL, None)


def nexthop(*attrs: bytes) -> bytes:
    return bytes(8) + b"".join(attrs)


def bucket() -> bytes:
    inner = attribute(1, struct.pack("=H", 4)) + attribute(3, u32(7))
    return nexthop(attribute(1, u32(10)), attribute(13 | 0x8000, inner))


def ten(table: int = 254) -> bytes:
    header = struct.pack("=BBBBBBBBI", socket.AF_INET, 8, 0, 0, table, 0, 0, 6, 0)
    return header + attribute(15, u32(table)) + attribute(1, bytes([10, 0, 0, 0]))


def link_header(index: int, flags: int) -> bytes:
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 1, index, flags, 0)


def address(family: int, index: int) -> bytes:
    return struct.pack("=BBBBI", family, 24, 0, 0, index)


def route_event(table: int = 254, flags: int = 0) -> bytes:
    return struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, table, 0, 0, 1, flags)


@pytest.mark.parametrize(
    ("kind", "body", "changes"),
    [
        (16, link_header(7, UP), LINKS),
        (16, link_header(7, 0x1), DOWN),
        (16, link_header(7, 0x10000), DOWN),
        (17, link_header(7, UP), DOWN),
        (16, bytes([socket.AF_BRIDGE]) + bytes(15), NONE),
        (20, address(socket.AF_INET, 7), replace(ADDRESSES, links=True)),
        (20, address(socket.AF_INET6, 7), ADDRESSES),
        (21, address(socket.AF_INET, 7), replace(ADDRESSES, links=True, silent=ALL)),
        (21, address(socket.AF_INET6, 7), ADDRESSES),
        (24, ten(), updated(RouteUpdate(TEN))),
        (25, ten(255), updated(RouteUpdate(TEN._replace(table=255), gone=True))),
        (24, route_event(100), NONE),
        (24, route_event(252), NONE),
        (24, route_event(flags=0x200), NONE),
        (
            28,
            neighbour(attribute(1, bytes(4))),
            Changes(neighbour_updates=(NeighbourUpdate(NO_NEIGHBOUR),)),
        ),
        (
            29,
            neighbour(attribute(1, bytes(4))),
            Changes(neighbour_updates=(NeighbourUpdate(NO_NEIGHBOUR, gone=True),)),
        ),
        (28, neighbour(), Changes(neighbours=True)),  # without an address
        (28, neighbour(family=socket.AF_BRIDGE), NONE),
        (28, neighbour(flags=8), NONE),
        (32, bytes(12), Changes(rules=True)),
        (80, bytes(4), Changes(settings=True)),
        (
            104,
            nexthop(attribute(1, u32(5)), attribute(4, b"")),
            Changes(nexthop_updates=(NexthopUpdate(5, HOLE),)),
        ),
        (105, nexthop(attribute(1, u32(5))), Changes(nexthop_updates=(NexthopUpdate(5, None),))),
        (
            104,  # broken, but we know which one
            nexthop(attribute(1, u32(5)), attribute(2, bytes(3))),
            Changes(nexthop_updates=(NexthopUpdate(5, Single(RouteKind.UNSUPPORTED, None)),)),
        ),
        (104, bytes(8), NEXTHOPS),  # without an id
        (105, bytes(8), NEXTHOPS),
        (116, bucket(), Changes(nexthop_updates=(BucketUpdate(10, 4, 7),))),
        (116, bytes(8), Changes(nexthops=True)),
        (24, bytes([socket.AF_INET, 0, 0]), Changes(routes=True, silent=ALL)),
        (9999, b"", NONE),
    ],
)
def test_events(kind: int, body: bytes, changes: Changes) -> None:
    assert classify(message(kind, body)) == changes
    assert bool(changes) is (changes != NONE)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (0x600, RouteUpdate(TEN, fresh=True)),  # NLM_F_CREATE, NLM_F_EXCL
        (0x100, RouteUpdate(TEN, replaces=True)),  # NLM_F_REPLACE
        (0xC00, RouteUpdate(TEN)),  # NLM_F_CREATE, NLM_F_APPEND
    ],
)
def test_what_became_of_other_routes(flags: int, wanted: RouteUpdate) -> None:
    """The same message, again and again, is not taken for the one before."""
    look, updates = Classifier(), Updates()
    for _ in range(2):
        look(message(24, ten(), flags) + message(25, ten()), updates)
    assert updates.routes == [wanted, RouteUpdate(TEN, gone=True)] * 2


def test_changes_add_up() -> None:
    assert Changes(routes=True) | Changes(lost=True) == Changes(routes=True, lost=True)
    some: dict[str, object] = {"updates": (RouteUpdate(TEN),), "silent": SEVEN, "down": SEVEN}
    for field in fields(Changes):
        other = (7,) if "updates" in field.name else True
        values: dict[str, Any] = {field.name: some.get(field.name, other)}
        one = Changes(**values)
        assert one | NONE == NONE | one == one


def error(number: int, text: str = "", kind: int = 2) -> bytes:
    body = struct.pack("=i", -number) + (bytes(16) if kind == 2 else b"")
    told = attribute(1, text.encode() + b"\0") if text else b""
    return message(kind, body + told, flags=0x200 if text else 0)


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (error(1), NotPermitted, "thing: not permitted"),
        (error(13), NotPermitted, "thing: not permitted"),
        (error(19), NoSuchInterface, "thing"),
        (error(22), KernelRefused, "thing: Invalid argument"),
        (error(22, "Nexthop has invalid gateway"), KernelRefused, "thing: Nexthop has"),
        (error(2, "FIB table does not exist", kind=3), KernelRefused, "thing: FIB table"),
    ],
)
def test_errors_name_thing_and_cause(data: bytes, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        wire.raise_error(data, 0, len(data), "thing")


def test_no_error() -> None:
    wire.raise_error(error(0), 0, len(error(0)), "thing")


@pytest.mark.parametrize(
    "parse",
    [
        *(parse_link, parse_neighbour, plain_rule, parse_features, classify),
        *(links.parse_bridge_vlans, links.is_of_bridge),
    ],
)
@given(data=st.binary(max_size=120))
def test_arbitrary_bytes(parse: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        parse(data)


@given(st.sampled_from([16, 24, 28, 80]), st.binary(max_size=20))
def test_arbitrary_events(kind: int, body: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        classify(message(kind, body))


@pytest.mark.parametrize(
    ("kind", "mode", "able"),
    [
        ("", "native", True),
        ("", "generic", False),
        ("", "", False),
        ("bond", "native", False),
        ("bridge", "", False),
        ("veth", "native", False),
    ],
)
def test_where_the_kernel_cannot_tell_only_a_native_program_speaks_for_a_device(
    kind: str, mode: str, able: bool
) -> None:
    """Before Linux 6.3 frames redirected to a device without XDP transmit are lost unseen."""
    link = Link(1, "eth0", bytes(6), 1500, True, kind=kind, xdp_mode=mode)
    assert links._surely_transmits(link) is able
