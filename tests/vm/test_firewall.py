"""Firewalls that take modules: flowtables, IPVS, ebtables; and what looking for them loads."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from testbed.netns import Namespace
from tests.capabilities import require, require_stock_kernel
from tests.net.filtered import MARKER, Lab, expected
from tests.net.firewalls import BOTH, NEITHER, Filtering, nft, shell, tc
from tests.net.netlink.test_kernel_filters import read
from tests.vm.devices import require_kind, require_netem
from xdpecmp.compile import bearing
from xdpecmp.netlink import Kernel
from xdpecmp.netlink.firewall import hooks
from xdpecmp.netlink.firewall.message import NETLINK_NETFILTER
from xdpecmp.netlink.wire import Socket


@cache
def _can(*command: str) -> bool:
    """Whether a command works in a fresh namespace."""
    with Namespace("can") as namespace:
        return namespace.run("sh", "-c", " ".join(command), check=False).returncode == 0


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with Lab.attached() as made:
        yield made


def later(net: Lab, case: Filtering) -> None:
    assert net.verdicts() == expected(NEITHER)
    with case.loaded(net):
        net.wait_for(case.families, case.named)
        assert net.verdicts() == expected(case.families)
    net.wait_for(NEITHER)
    assert net.verdicts() == expected(NEITHER)


FLOWTABLE = "table inet t {{ flowtable f {{ hook ingress priority 0; devices = {{ {} }}; }}\n}}\n"


def test_flowtable(net: Lab) -> None:
    ruleset = FLOWTABLE.format("lo")
    require_stock_kernel(_can(f"echo '{ruleset}' | nft -f -"), "flowtables of nftables")
    later(net, nft(FLOWTABLE.format("c0, e1"), BOTH, "nftables flowtable inet t f"))


def test_ipvs(net: Lab) -> None:
    require(shutil.which("ipvsadm") is not None, "ipvsadm")
    require_stock_kernel(_can("ipvsadm -A -t 192.0.2.1:80"), "IPVS")
    load = shell("ipvsadm -A -u 192.0.2.99:7 -s rr; ipvsadm -a -u 192.0.2.99:7 -r 10.0.1.2 -m")
    with Filtering(load, shell("ipvsadm -C"), BOTH, "IPVS services").loaded(net):
        net.wait_for(_ipvs_families(net), "IPVS services")
        assert net.verdicts()[4] == "FIREWALL"
        found = [row for row in net.json("doctor") if row["check"] == "firewall"]
        assert found
        assert all(row["verdict"] == "note" for row in found)
        assert any("IPVS services" in row["found"] for row in found)
    net.wait_for(NEITHER)
    assert net.verdicts() == expected(NEITHER)


def _ipvs_families(net: Lab) -> frozenset[int]:
    """IPv4 alone where the kernel tells which hooks there are."""
    with net.ns.enter(), Socket(NETLINK_NETFILTER) as connection:
        return BOTH if hooks.read(connection, False) is None else frozenset({4})


def test_netem(net: Lab) -> None:
    require_netem()
    load = "tc qdisc add dev e1 root netem loss 10%"
    later(net, tc(load, "tc qdisc del dev e1 root", "tc qdisc netem on e1"))


@pytest.mark.parametrize("kind", ["fq_codel", "fq", "sfq", "cake"])
def test_queues_without_a_rate(net: Lab, kind: str) -> None:
    require_stock_kernel(_can(f"tc qdisc add dev lo root {kind}"), f"the qdisc {kind}")
    load = f"tc qdisc add dev e1 root handle 9: {kind}"
    with tc(load, "tc qdisc del dev e1 root", "").loaded(net):
        with MARKER.loaded(net):
            net.wait_for(BOTH, MARKER.named)
        net.wait_for(NEITHER)
        assert net.verdicts() == expected(NEITHER)
        net.ns.run(
            *("sh", "-c"),
            "tc filter add dev e1 parent 9: u32 match u32 0 0 flowid 9:1",
            check=kind in ("fq_codel", "sfq", "cake"),
        )
        if kind != "fq":
            net.wait_for(BOTH, "tc filter on e1 egress")
    net.wait_for(NEITHER)


@pytest.mark.parametrize("options", ["fq maxrate 1mbit", "cake bandwidth 1mbit"])
def test_queues_with_a_rate(net: Lab, options: str) -> None:
    require_stock_kernel(_can(f"tc qdisc add dev lo root {options}"), f"the qdisc {options}")
    load = f"tc qdisc add dev e1 root {options}"
    later(net, tc(load, "tc qdisc del dev e1 root", f"tc qdisc {' '.join(options.split()[:2])}"))


@contextmanager
def _ebtables_unloaded() -> Iterator[None]:
    """Afterwards: under a kernel that does not list its hooks bridges pass while it is there."""
    try:
        yield
    finally:
        subprocess.run(["modprobe", "-r", "ebtable_filter"], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("load", "named"),
    [
        ("ebtables-legacy -A FORWARD -j DROP", "ebtables"),
        (
            "nft 'add table bridge t; add chain bridge t c "
            "{ type filter hook forward priority 0; policy drop; }'",
            "nftables chain bridge t c (policy drop)",
        ),
    ],
)
def test_bridges(load: str, named: str) -> None:
    """Counts where a bridge is concerned, and only there."""
    require_kind("bridge")
    require_stock_kernel(_can(load), load.split()[0])
    with _ebtables_unloaded(), Namespace("bridges") as namespace:
        namespace.ip("link add br0 type bridge")
        namespace.ip("link add p0 type veth peer name p1")
        with namespace.enter(), Kernel() as kernel:
            namespace.run("sh", "-c", load)
            links = kernel.links()
            filters = read(kernel)
            index = {link.name: link.ifindex for link in links.values()}
            assert bearing(filters, links, [index["p0"]], [index["p1"]]).all() == ()
            found = bearing(filters, links, [index["br0"]], [index["p1"]])
            assert any(what.startswith(named) for what in found.ipv4)
            assert bearing(filters, links, [index["p0"]], [index["br0"]]) == found


def test_looking_puts_nothing_on_a_hook() -> None:
    """Though it may load modules: nf_tables, nfnetlink_hook."""
    with Namespace("look") as namespace, namespace.enter(), Socket(NETLINK_NETFILTER) as connection:
        before = hooks.read(connection, True)
        if before is None:
            pytest.skip("this kernel is built without nfnetlink_hook, as Debian 12's")
        with Kernel() as kernel, kernel.monitor():
            assert read(kernel).found == ()
            kernel.filters_changed()
        assert hooks.read(connection, True) == before
        count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
        assert not count.exists() or int(count.read_text()) == 0
