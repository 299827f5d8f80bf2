"""Packets that were merged, or whose checksum is unfinished, through generic mode.

What leaves must be what Linux alone would send, datagrams of their size with checksums that are
right, whatever the egress can do: generic_xdp_tx() in net/core/dev.c splits and finishes nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from testbed.waiting import wait_until
from tests.capabilities import Since, since
from tests.net.merging import CSUM, HOST, PORT, TSO4, TSO6, USO4, USO6, Merging, Packet
from tests.net.topology import DEADLINE
from xdpecmp.program.abi import NEXTHOP_FLAGS

pytestmark = pytest.mark.root

SIZE, COUNT = 400, 3
_UDP_SEGMENT = 103
INGRESS = ("in0", "mv0", "br0")
"""A veth; a macvlan and a bridge over it."""
TAPS = {
    "nothing": 0,
    "checksums": CSUM,
    "TCP": CSUM | TSO4 | TSO6,
    "TCP and UDP": CSUM | TSO4 | TSO6 | USO4 | USO6,
}
"""What the one behind a tap takes."""
MARKS = {"TCP and UDP": since(Since.USO)}
VETHS = (
    "",
    "tx off",
    "tso off",
    "tx-udp-segmentation off",
    "tx-gso-list off",
    "tx-tcp-mangleid-segmentation off",
    "sg off",
)
"""`ethtool -K out …`"""


@pytest.fixture
def router() -> Iterator[Merging]:
    with Merging() as made:
        yield made


def send_datagrams(router: Merging, family: int) -> None:
    """Some as one packet that the kernel is to split, and one alone."""
    with router.client(socket.SOCK_DGRAM, family) as client:
        client.connect((HOST[family], PORT))
        client.send(bytes(range(1, SIZE // 2 + 1)) * 2)
        client.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, SIZE)
        client.send(b"".join(bytes([number]) * SIZE for number in range(COUNT)))


def covering(ingress: str) -> str:
    """What to attach to: a macvlan is covered by the device below it."""
    return "in0" if ingress == "mv0" else ingress


def refusal(ingress: str) -> str:
    """Why its merged packets pass: of a bridge's nobody knows the tags, so all pass."""
    return "INTERFACE" if ingress == "br0" else "PARTIAL_CHECKSUM"


def arrived(router: Merging, tap: int | None) -> list[Packet]:
    with ExitStack() as undo:
        far = undo.enter_context(router.far(tap))
        for family in (4, 6):
            undo.enter_context(router.server(socket.SOCK_DGRAM, family))  # or it sends errors
            send_datagrams(router, family)
        return list(far.wait_for(2 * SIZE * (COUNT + 1)))


@pytest.mark.parametrize(
    ("ingress", "takes"),
    [
        *(pytest.param("in0", takes, marks=MARKS.get(takes, ())) for takes in TAPS),
        ("mv0", "nothing"),
        ("mv0", "TCP"),
        ("br0", "TCP"),
    ],
)
def test_datagrams_to_a_tap(router: Merging, ingress: str, takes: str) -> None:
    tap = router.open_tap(TAPS[takes])
    router.connect(ingress, "tap0")
    by_linux = arrived(router, tap)
    router.run("attach", covering(ingress), "--mode", "generic")
    assert arrived(router, tap) == by_linux
    assert router.reason(refusal(ingress)) >= 4


@since(Since.USO)
@pytest.mark.parametrize(
    ("ingress", "features"),
    [
        *(("in0", features) for features in VETHS),
        *((name, features) for name in INGRESS[1:] for features in ("", "tx off")),
    ],
)
def test_datagrams_to_a_veth(router: Merging, ingress: str, features: str) -> None:
    if features:
        router.ns.run("ethtool", "-K", "out", *features.split())
    router.connect(ingress, "out")
    by_linux = arrived(router, None)
    router.run("attach", covering(ingress), "--mode", "generic")
    assert arrived(router, None) == by_linux
    forwards = not features and ingress != "br0"
    assert router.reason("FORWARDED" if forwards else refusal(ingress)) >= 4


def takes_anything(router: Merging) -> bool:
    """Whether the data path has `out` take merged packets."""
    index = router.ns.ifindex("out")
    with router.instance.open_maps() as maps:
        found = [each.flags for each in maps["nexthops"].entries[:16] if each.ifindex == index]
    assert found
    return not any(flags & NEXTHOP_FLAGS["NO_OFFLOADS"] for flags in found)


@since(Since.USO)
def test_features_are_followed(router: Merging) -> None:
    """Switched off behind our back, and on again."""
    router.connect("in0", "out")
    by_linux = {}
    for state in ("off", "on"):
        router.ns.run("ethtool", "-K", "out", "tx-udp-segmentation", state)
        by_linux[state] = arrived(router, None)
    assert by_linux["on"] != by_linux["off"]
    router.run("attach", "in0", "--mode", "generic")
    for state, reason in (("off", "PARTIAL_CHECKSUM"), ("on", "FORWARDED")) * 2:
        router.ns.run("ethtool", "-K", "out", "tx-udp-segmentation", state)
        wait_until(lambda s=state: takes_anything(router) == (s == "on"), f"{state}", DEADLINE)
        before = router.reason(reason)
        assert arrived(router, None) == by_linux[state]
        assert router.reason(reason) >= before + 4


def test_the_advice_helps(router: Merging) -> None:
    """`attach` says what to switch on."""
    router.ns.run("ethtool", "-K", "out", "tx", "off", "tx-gso-list", "off")
    router.connect("in0", "out")
    done = router.run("attach", "in0")
    (line,) = [line for line in done.lines if "leaves by out passes" in line]
    _, _, command = line.rpartition(": ")
    assert command.startswith("ethtool -K out ")
    router.ns.run(*command.split())
    wait_until(lambda: takes_anything(router), "followed", DEADLINE)
    assert not [line for line in router.run("attach", "in0").lines if "leaves by out" in line]


@since(Since.USO)
def test_lists_are_left_to_linux(router: Merging) -> None:
    """GRO's other way of merging, which generic XDP breaks."""
    router.ns.run("ethtool", "-K", "in0", "rx-gro-list", "on")
    router.connect("in0", "out")
    by_linux = arrived(router, None)
    done = router.run("attach", "in0", "--mode", "generic")
    (line,) = [line for line in done.lines if "merges packets into lists" in line]
    before = router.reason("INTERFACE")
    assert arrived(router, None) == by_linux
    assert router.reason("INTERFACE") > before
    (passed,) = [row for row in router.status()["passed"] if row["what"] == "all on in0"]
    assert passed["text"].endswith("ethtool -K in0 rx-gro-list off")
    router.ns.run(*line.rpartition(": ")[2].split())
    before = router.reason("FORWARDED")

    def forwards() -> bool:
        arrived(router, None)
        return router.reason("FORWARDED") > before

    wait_until(forwards, "forwarded again", DEADLINE)


@pytest.mark.parametrize(
    ("ingress", "features", "family"),
    [
        ("in0", "", 4),
        ("mv0", "", 6),
        ("in0", "tso off", 6),
        ("mv0", "tx off", 4),
        ("mv0", "tso off", 4),
        ("br0", "tso off", 4),
    ],
)
def test_a_stream(router: Merging, ingress: str, features: str, family: int) -> None:
    """Small segments, that GRO merges to packets that fit into the MTU."""
    if features:
        router.ns.run("ethtool", "-K", "out", *features.split())
    router.connect(ingress, "out")
    router.run("attach", covering(ingress), "--mode", "generic")
    body = bytes(range(256)) * 400
    with router.server(socket.SOCK_STREAM, family) as server, router.far(None) as far:
        server.listen()
        client = router.client(socket.SOCK_STREAM, family)
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 300)
            client.connect((HOST[family], PORT))
            accepted, _ = server.accept()
            with accepted, accepted.makefile("rb") as file:
                client.sendall(body)
                client.shutdown(socket.SHUT_WR)
                assert file.read() == body
        seen = far.packets()
    if features:
        assert max(len(packet.payload) for packet in seen) <= 300
        assert not any(packet.merged for packet in seen)
    else:
        assert router.reason("FORWARDED") > 0
