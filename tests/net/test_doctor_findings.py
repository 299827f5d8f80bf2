"""What `doctor` sees: one thing at a time is out of order in a real namespace."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from testbed.netns import Namespace
from tests.capabilities import Since, require, require_kernel, since
from tests.net.command import command
from tests.net.doctor import bad, findings, healthy_router, ip, nftables, run, saying, sysctl
from tests.net.small import Small
from xdpecmp.cli import asjson
from xdpecmp.doctor import examine
from xdpecmp.doctor.facts import Trial
from xdpecmp.doctor.gather import gather
from xdpecmp.hashing import select
from xdpecmp.model.hashkey import KeyState
from xdpecmp.model.values import Link
from xdpecmp.netlink import links
from xdpecmp.observe import quickcheck

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def router() -> Iterator[Small]:
    with healthy_router() as made:
        yield made


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which saves a second."""
    monkeypatch.setattr("xdpecmp.doctor.gather._trial", lambda settings: Trial())


class Unreadable:
    """Stands in for what looks for Linux's hash key."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def result(self) -> KeyState:
        return KeyState(missing="no symbol", searching=True)

    def close(self) -> None:
        pass


class Case(NamedTuple):
    make: Callable[[Small], Any]
    check: str
    interface: str | None
    found: str
    fix: str


CASES = {
    "seed": Case(
        lambda r: sysctl(r, "net.ipv4.fib_multipath_hash_seed", 0),
        *("seed", None, "until its hash key is found", "xdpecmp status"),
    ),
    "forwarding": Case(
        lambda r: sysctl(r, "net.ipv4.conf.in0.forwarding", 0),
        *("forwarding", "in0", "in0 does not forward IPv4", "net.ipv4.conf.in0.forwarding=1"),
    ),
    "rule": Case(
        lambda r: ip(r, "rule add from 10.9.0.0/16 table 9", "rule del table 9"),
        *("passed", None, "all IPv4 passes to Linux: policy rules", "ip rule show"),
    ),
    "IPv6 rule": Case(
        lambda r: ip(r, "-6 rule add from 2001:db8::/64 table 9", "-6 rule del table 9"),
        *("passed", None, "all IPv6 passes to Linux: policy rules", "ip -6 rule show"),
    ),
    "IPsec": Case(
        lambda r: ip(
            r,
            "xfrm policy add dir fwd src 10.9.0.0/16 dst 10.8.0.0/16 action block",
            "xfrm policy flush",
        ),
        *("passed", None, "IPsec policies", "ip xfrm policy"),
    ),
    "proxy_ndp": Case(
        lambda r: sysctl(r, "net.ipv6.conf.all.proxy_ndp", 1),
        *("passed", None, "all IPv6 passes", "ip -6 neigh show proxy"),
    ),
    "route": Case(
        lambda r: ip(r, "route add 10.7.0.0/16 via 10.0.0.2 mtu 1400", "route del 10.7.0.0/16"),
        *("routes", None, "1 route left to Linux for an MTU", "ip route show 10.7.0.0/16"),
    ),
    "TOS": Case(
        lambda r: ip(r, "route add 10.7.0.0/16 tos 4 via 10.0.0.2", "route del 10.7.0.0/16 tos 4"),
        *("routes", None, "for a TOS: 10.7.0.0/16", "ip route show 10.7.0.0/16"),
    ),
    "policy 1": Case(
        lambda r: sysctl(r, "net.ipv4.fib_multipath_hash_policy", 1),
        *("policy 1", "in0", "the socket's own hash", ""),
    ),
    "nftables": Case(
        nftables,
        *(
            *("firewall", None),
            "nftables chain inet fw through, nftables chain inet fw drops (policy drop), nftables",
            "nft list ruleset",
        ),
    ),
    "shaper": Case(
        lambda r: run(
            r,
            "tc qdisc add dev in1 root tbf rate 1gbit burst 10k latency 50ms",
            "tc qdisc del dev in1 root",
        ),
        *("firewall", None, "would bypass tc qdisc tbf on in1", "tc qdisc show"),
    ),
    "tc": Case(
        lambda r: run(
            r,
            "tc qdisc add dev in0 clsact; "
            "tc filter add dev in0 ingress u32 match u32 0 0 flowid 1:1",
            "tc qdisc del dev in0 clsact",
        ),
        *("firewall", None, "would bypass tc filter on in0 ingress", "tc qdisc show"),
    ),
    "down": Case(
        lambda r: ip(r, "link set in0 down", "link set in0 up"),
        *("link", "in0", "in0 is down", "ip link set dev in0 up"),
    ),
    "enslaved": Case(
        lambda r: run(
            r,
            "ip link add br0 type bridge; ip link set in0 master br0",
            "ip link del br0",
        ),
        *("master", "in0", "belongs to another device", ""),
    ),
}


@pytest.fixture(scope="module")
def usual(router: Small) -> set[tuple[str, str | None]]:
    """What is no "ok" with nothing out of order."""
    return bad(findings(router, "in0", "in1"))


def examined(router: Small, *names: str) -> list[dict[str, Any]]:
    """What `doctor -j` says, in this process."""
    with router.ns.enter():
        return asjson.findings(examine(gather(names)))


@pytest.mark.parametrize("name", CASES)
def test_one_thing_out_of_order(
    router: Small,
    usual: set[tuple[str, str | None]],
    name: str,
    no_trial: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said, with what helps, and stops nothing."""
    if name == "seed":
        require_kernel(Since.HASH_SEED)
        monkeypatch.setattr("xdpecmp.doctor.gather.key_finder", Unreadable)
    case = CASES[name]
    with case.make(router):
        rows = examined(router, "in0", "in1")
    assert (case.check, case.interface) not in usual
    assert any(
        row["interface"] == case.interface
        and row["verdict"] == "note"
        and case.found in row["found"]
        and case.fix in (row["fix"] or "")
        for row in saying(rows, case.check)
    ), rows
    assert not any(row["verdict"] == "problem" for row in rows)


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_old_iptables(program: str) -> None:
    """In a namespace of its own, which keeps its tables."""
    tool = f"{program}-legacy"
    require(shutil.which(tool) is not None, f"{tool} (package iptables)")
    with Namespace("bare") as bare:
        bare.run(tool, "-P", "FORWARD", "DROP")
        done = command("-n", bare.name, "doctor")
    assert f"would bypass {tool} filter FORWARD (policy drop)" in done.stdout
    assert f"→ {tool}-save" in done.stdout


def test_a_device_that_strips_tags(
    router: Small, no_trial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A veth taken for a NIC, whose setting it has too."""

    def nic(message: bytes) -> Link:
        link = parse(message)
        return replace(link, kind="" if link.kind == "veth" else link.kind)

    parse = links.parse_link
    monkeypatch.setattr(links, "parse_link", nic)
    (said,) = saying(examined(router, "in0"), "rxvlan")
    assert said["found"].startswith("in0 strips VLAN tags")
    assert said["fix"] == "ethtool -K in0 rxvlan off rx-vlan-stag-hw-parse off"
    router.ns.run(*said["fix"].split())
    try:
        assert not saying(examined(router, "in0"), "rxvlan")
    finally:
        router.ns.run("ethtool", "-K", "in0", "rxvlan", "on", "rx-vlan-stag-hw-parse", "on")


@since(Since.HASH_SEED)
def test_it_disagrees_with_linux(
    router: Small, no_trial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel of another hash, seen before anything is attached."""
    with router.ns.enter():
        assert gather(["in0"]).disagreement is None
        monkeypatch.setattr(quickcheck, "select", lambda bounds, number: 1 - select(bounds, number))
        assert str(gather(["in0"]).disagreement) == "192.0.2.0/24"
