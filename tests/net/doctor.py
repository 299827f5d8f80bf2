"""A router to look at with `doctor`, and what may be out of order there."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from pyroute2.nftables.expressions import verdict
from pyroute2.nftables.main import NFTables

from tests.net.small import Small
from xdpecmp.netlink import Kernel
from xdpecmp.program import libbpf

PASS = bytes.fromhex("b700000002000000 9500000000000000")
"""A program: r0 = XDP_PASS; exit."""


@contextmanager
def healthy_router() -> Iterator[Small]:
    """With a multipath route over its two interfaces. Nothing is left of a trial in the end."""
    with Small() as made:
        for number in (0, 1):
            made.sysctl(f"net.ipv4.conf.in{number}.rp_filter", 0)
            made.ns.ip(f"addr add 10.{number}.0.1/24 dev in{number}")
            made.peer.ip(f"addr add 10.{number}.0.2/24 dev in{number}")
        made.sysctl("net.ipv4.conf.all.rp_filter", 0)
        made.ns.ip("route add 192.0.2.0/24 nexthop via 10.0.0.2 nexthop via 10.1.0.2 weight 3")
        yield made


def findings(router: Small, *names: str, status: int = 0) -> list[dict[str, Any]]:
    """What `doctor -j` says, which has to end with that status."""
    rows: list[dict[str, Any]] = json.loads(
        router.run("doctor", *names, "-j", status=status).stdout
    )
    return rows


def bad(rows: list[dict[str, Any]]) -> set[tuple[str, str | None]]:
    """Check and interface of what is no "ok"."""
    return {(row["check"], row["interface"]) for row in rows if row["verdict"] != "ok"}


def saying(rows: list[dict[str, Any]], check: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["check"] == check and row["verdict"] != "ok"]


@contextmanager
def ip(router: Small, do: str, undo: str) -> Iterator[None]:
    router.ns.ip(do)
    try:
        yield
    finally:
        router.ns.ip(undo)


@contextmanager
def sysctl(router: Small, key: str, value: int) -> Iterator[None]:
    before = router.sysctl(key)
    router.sysctl(key, value)
    try:
        yield
    finally:
        router.sysctl(key, before)


@contextmanager
def run(router: Small, do: str, undo: str) -> Iterator[None]:
    router.ns.run("sh", "-ec", do)
    try:
        yield
    finally:
        router.ns.run("sh", "-ec", undo)


@contextmanager
def foreign_program(router: Small, name: str) -> Iterator[None]:
    program = libbpf.load_xdp("foreign", PASS)
    try:
        with router.ns.enter(), Kernel() as kernel:
            kernel.attach_xdp(router.ns.ifindex(name), program, "generic")
    finally:
        os.close(program)
    try:
        yield
    finally:
        router.ns.ip(f"link set dev {name} xdpgeneric off")


@contextmanager
def nftables(router: Small) -> Iterator[None]:
    """Chains with rules for what is forwarded, and some that don't count."""
    with router.ns.enter():
        for chain in (
            Chain(AF_INET_BOTH, "fw", "through", "filter", "forward"),
            Chain(AF_INET_BOTH, "fw", "empty", "filter", "forward", ruled=False),
            Chain(AF_INET_BOTH, "fw", "drops", "filter", "forward", policy=0, ruled=False),
            Chain(AF_INET_BOTH, "fw", "inwards", "filter", "input", policy=0),
            Chain(socket.AF_INET, "nat", "post", "nat", "postrouting"),
        ):
            chain.add()
        try:
            yield
        finally:
            for family, table in ((AF_INET_BOTH, "fw"), (socket.AF_INET, "nat")):
                with closing(NFTables(nfgen_family=family)) as nft:
                    nft.table("del", name=table)


AF_INET_BOTH = 1
"""NFPROTO_INET: IPv4 and IPv6."""


class Chain(NamedTuple):
    """A base chain of nftables, with a rule that drops everything or with none."""

    family: int
    table: str
    name: str
    kind: str
    hook: str
    policy: int = 1
    """NF_ACCEPT; 0 is NF_DROP."""
    ruled: bool = True

    def add(self) -> None:
        with closing(NFTables(nfgen_family=self.family)) as nft:
            nft.table("add", name=self.table)
            nft.chain(
                "add",
                table=self.table,
                name=self.name,
                type=self.kind,
                hook=self.hook,
                priority=0,
                policy=self.policy,
            )
            if self.ruled:
                nft.rule("add", table=self.table, chain=self.name, expressions=(verdict(code=0),))
