"""A device that goes while the maps are written costs what leads there, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import UDP

from tests.bpf.harness import Plane
from tests.bpf.packets import frame, to
from tests.bpf.world import neighbour_mac, packed
from xdpecmp.compile import VlanKey, compile_tables
from xdpecmp.model.values import Neighbour, NextHop, Path, Prefix, Route, RouteKind, Snapshot
from xdpecmp.program import libbpf

pytestmark = pytest.mark.root

GONE = 65_000
VIA = NextHop(packed("10.0.99.1"), GONE)


def with_one_that_is_gone(plane: Plane) -> Snapshot:
    """The devmap does not take its index."""
    snapshot = plane.world.snapshot()
    link = snapshot.links[plane.world.ifindex["out"]]
    leads_there = Route(Prefix.parse("198.18.99.0/24"), 254, 0, RouteKind.UNICAST, (Path(VIA),))
    neighbour = Neighbour(VIA.via, GONE, neighbour_mac("10.0.99.1"), 0x02)
    return replace(
        snapshot,
        links={**snapshot.links, GONE: replace(link, ifindex=GONE, name="gone")},
        neighbours={**snapshot.neighbours, (VIA.via, GONE): neighbour},
        routes=(*snapshot.routes, leads_there),
    )


def test_a_next_hop_by_it(plane: Plane) -> None:
    tables = compile_tables(with_one_that_is_gone(plane), [plane.world.ifindex["in"]])
    for _ in range(3):  # a second try finds the same
        assert not plane.dataplane.sync(tables)
    plane.load_tables(tables)
    assert plane.run(frame(bytes(to("single") / UDP())))[0] == "REDIRECT"
    gone = to("single")
    gone.dst = "198.18.99.1"
    assert plane.run(frame(bytes(gone / UDP())))[0] == "PASS"


def test_more_vlans_than_the_map_takes(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets that come in by those that don't fit pass."""
    tables = compile_tables(plane.world.snapshot(), [plane.world.ifindex["in"]])
    many = {VlanKey(1, 0x8100, vid): 1000 for vid in range(1, 20)}
    refused: list[bytes] = []
    update = libbpf.map_update

    def refuse(fd: int, key: bytes, value: bytes) -> None:
        if fd == plane.maps.fds["vlans"] and len(refused) < 10:
            refused.append(key)
            raise OSError(7, "Argument list too long")
        update(fd, key, value)

    monkeypatch.setattr(libbpf, "map_update", refuse)
    plane.load_tables(replace(tables, vlans={**tables.vlans, **many}))
    assert len(refused) == 10
    assert plane.run(frame(bytes(to("single") / UDP())))[0] == "REDIRECT"
    plane.load_tables(tables)
