"""Sources that Linux refuses, by what netlink says of addresses rather than by what routes say."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from testbed.waiting import wait_until
from tests.differential import packets as p
from tests.net.small import Small
from tests.net.topology import DEADLINE

pytestmark = pytest.mark.root

TO = "10.0.1.2"


@pytest.fixture
def router() -> Iterator[Small]:
    """Packets come in by `in0`, which has no address, and leave for a host behind `in1`."""
    with Small() as made:
        made.ns.ip("addr add 10.0.1.1/24 dev in1")
        made.ns.ip(f"neigh add {TO} lladdr 02:00:00:00:00:05 dev in1 nud permanent")
        made.ns.ip("route add 198.51.100.0/24 dev in1")
        made.ns.ip("route add local 192.0.2.1/32 dev in0")
        made.sysctl("net.ipv4.conf.all.rp_filter", 0)
        made.sysctl("net.ipv4.conf.in0.rp_filter", 2)
        yield made


def sender(router: Small) -> Callable[[str], None]:
    """Sends a datagram from an address by the far end of `in0`."""
    (link,) = json.loads(router.ns.ip("-j link show in0"))
    head = bytes.fromhex(link["address"].replace(":", "")) + b"\x02\0\0\0\0\x09\x08\0"

    def send(source: str) -> None:
        src, dst = (ipaddress.ip_address(end).packed for end in (source, TO))
        with router.peer.enter(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("in0", 0))
            wire.send(head + p.ipv4(src, dst, p.UDP, bytes(8)))

    return send


@contextmanager
def arrivals(router: Small) -> Iterator[Callable[[], int]]:
    """How many datagrams for TO have come out of the router."""
    with router.peer.enter():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with wire:
        wire.bind(("in1", 3))
        wire.setblocking(False)
        seen = 0

        def count() -> int:
            nonlocal seen
            with suppress(BlockingIOError):
                while True:
                    seen += wire.recv(2048)[30:34] == ipaddress.ip_address(TO).packed
            return seen

        yield count


def test_loose_is_strict_while_there_is_no_address(router: Small) -> None:
    """A local route to the device is no address; and an address is one at once."""
    send = sender(router)
    router.run("attach", "in0")
    for commands, verdict in (
        ([], "RP_FILTER"),
        (["addr add 10.0.0.1/24 dev in0"], "FORWARDED"),
        (["addr del 10.0.0.1/24 dev in0"], "RP_FILTER"),
    ):
        for command in commands:
            router.ns.ip(command)
        with router.instance.open_maps() as maps:
            index = router.ns.ifindex("in0")
            entries, wanted = maps["interfaces"].entries, 1 + (verdict == "FORWARDED")
            wait_until(
                lambda e=entries, i=index, w=wanted: e[i % 4096].rp_filter == w,
                f"rp_filter {wanted}",
                DEADLINE,
            )
        before = router.reason(verdict)
        with arrivals(router) as arrived:
            send("198.51.100.9")
            wait_until(
                lambda v=verdict, b=before: router.reason(v) == b + 1, f"{verdict}", DEADLINE
            )
            assert arrived() == (verdict == "FORWARDED"), "Linux decides so too"


def test_a_local_network_is_no_source(router: Small) -> None:
    """Of a prefix on `lo` Linux refuses all addresses once there was a local route by hand."""
    send = sender(router)
    router.sysctl("net.ipv4.conf.in0.rp_filter", 0)
    router.sysctl("net.ipv4.conf.all.send_redirects", 0)
    router.ns.ip("route del local 192.0.2.1/32 dev in0")
    router.ns.ip("addr add 10.9.0.1/16 dev lo")
    router.run("attach", "in0")
    with arrivals(router) as arrived:
        send("10.9.7.7")
        wait_until(lambda: router.reason("MARTIAN_SOURCE") == 1, "refused", DEADLINE)
        assert arrived() == 0, "Linux drops it"
