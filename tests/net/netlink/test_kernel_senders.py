"""What processes send to our netlink sockets is neither an answer nor an event."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from testbed.netns import Namespace
from xdpecmp.netlink import Kernel, wire
from xdpecmp.netlink.neighbours import NEIGHBOUR_HEADER

RTM_NEWNEIGH = 28
RTM_GETLINK, RTM_NEWLINK = 18, 16
RTNLGRP_NEIGH = 3


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace("senders") as made:
        yield made


def message(kind: int, body: bytes, sequence: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def port(connection: socket.socket) -> int:
    number: int = connection.getsockname()[0]
    return number


def test_an_answer(namespace: Namespace) -> None:
    """A forged one waits before the question is asked, with its sequence number."""
    with (
        namespace.enter(),
        wire.Socket() as ours,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as theirs,
    ):
        forged = message(RTM_NEWLINK, b"forged..", sequence=1)
        theirs.sendto(forged, (port(ours._socket), 0))
        body = struct.pack("=BxHiII", 0, 0, 1, 0, 0)
        assert not ours.ask(RTM_GETLINK, body, "link").startswith(b"forged")


@pytest.mark.parametrize("way", ["to the group", "to the socket"])
def test_an_event(namespace: Namespace, way: str) -> None:
    forged = message(RTM_NEWNEIGH, NEIGHBOUR_HEADER.pack(socket.AF_INET, 1, 2, 0, 0))
    with (
        namespace.enter(),
        Kernel() as kernel,
        kernel.monitor() as monitor,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as theirs,
    ):
        monitor.drain()
        if way == "to the group":
            theirs.sendto(forged, (0, 1 << (RTNLGRP_NEIGH - 1)))
        else:
            theirs.sendto(forged, (port(monitor._sources[0][0]), 0))
        assert not monitor.drain()
