"""Links with their XDP features, policy rules, sysctls, and the snapshot of it all."""

from __future__ import annotations

import socket
import threading
from ipaddress import ip_address

import pytest

from testbed.netns import Namespace
from tests.capabilities import Since, since
from tests.net.netlink.helpers import expect
from xdpecmp.netlink import Kernel, ethtool, wire
from xdpecmp.netlink.links import read_links

pytestmark = pytest.mark.root

ABLE = ethtool.Features()


def test_links(router: Namespace, kernel: Kernel, peer: Namespace) -> None:
    router.ip("link set eth0 address 02:00:00:00:00:05 mtu 1400")
    router.ip("link add br.0 type bridge")
    router.ip("link set eth1 master br.0")
    links = {link.name: link for link in kernel.links().values()}
    eth0 = links["eth0"]
    assert eth0.ifindex == router.ifindex("eth0")
    assert (eth0.mac, eth0.mtu, eth0.up, eth0.kind) == (b"\2\0\0\0\0\5", 1400, True, "veth")
    assert (eth0.master, eth0.lower, eth0.xdp_prog_id, eth0.xdp_mode) == (0, 0, 0, "")
    assert (links["br.0"].kind, links["br.0"].up) == ("bridge", False)
    assert links["eth1"].master == links["br.0"].ifindex
    assert links["lo"].mac == b""
    peer.ip("link set peer0 down")
    assert not kernel.links()[eth0.ifindex].up


@since(Since.XDP_FEATURES)
def test_features_and_their_notification(
    router: Namespace, kernel: Kernel, peer: Namespace
) -> None:
    eth0 = router.ifindex("eth0")
    assert kernel.links()[eth0].can_transmit_xdp  # veth() turns GRO on at the peer
    with kernel.monitor() as monitor:
        for state, able in (("off", False), ("on", True)):
            peer.run("ethtool", "-K", "peer0", "gro", state)
            expect(monitor, lambda changes: changes.links)
            assert kernel.links()[eth0].can_transmit_xdp is able
    assert not next(n for n in kernel.links().values() if n.name == "lo").can_transmit_xdp


@pytest.mark.parametrize(
    ("arguments", "custom"),
    [
        ("", (False, False)),
        ("rule add from 10.0.0.0/8 table 100", (True, False)),
        ("-6 rule add from fd00::/8 table 100", (False, True)),
        ("rule add fwmark 5 table main", (True, False)),
        ("rule add table 100 priority 40000", (True, False)),
        ("rule add not from all table main", (True, False)),
        ("rule del priority 32767", (True, False)),
        ("rule add table main suppress_prefixlength 0", (True, False)),
    ],
)
def test_rules(
    router: Namespace, kernel: Kernel, arguments: str, custom: tuple[bool, bool]
) -> None:
    if arguments:
        router.ip(arguments)
    assert kernel.custom_rules() == custom


def test_settings(router: Namespace, kernel: Kernel) -> None:
    router.sysctl("net.ipv4.ip_forward", 0)  # what a namespace begins with is up to the host
    router.ip("link set eth1 down")
    router.ip("link set eth1 name a.b")  # a dot in a name must not become a directory
    links = kernel.links()
    eth0, dotted = router.ifindex("eth0"), router.ifindex("a.b")
    settings = kernel.settings(links.values())
    assert (settings.policy4, settings.policy6, settings.seed) == (0, 0, None)
    assert not settings.use_neigh
    assert not settings.ip_forward_use_pmtu
    assert set(settings.interfaces) == set(links)
    plain = settings.interfaces[eth0]
    assert plain.rp_filter in (0, 1, 2)
    assert (plain.forwarding4, plain.forwarding6, plain.ignore_linkdown4) == (False,) * 3
    for key, value in {
        "net/ipv4/fib_multipath_hash_policy": 1,
        "net/ipv6/fib_multipath_hash_policy": 2,
        "net/ipv4/fib_multipath_use_neigh": 1,
        "net/ipv4/ip_forward_use_pmtu": 1,
        "net/ipv4/conf/a.b/forwarding": 1,
        "net/ipv4/conf/all/rp_filter": 1,
        "net/ipv4/conf/a.b/rp_filter": 2,
        "net/ipv4/conf/eth0/rp_filter": 0,
        "net/ipv4/conf/all/send_redirects": 0,
        "net/ipv4/conf/eth0/send_redirects": 0,
        "net/ipv4/conf/a.b/send_redirects": 1,
        "net/ipv4/conf/a.b/ignore_routes_with_linkdown": 1,
        "net/ipv6/conf/all/forwarding": 1,
        "net/ipv6/conf/a.b/disable_ipv6": 1,
        "net/ipv6/conf/eth0/ignore_routes_with_linkdown": 1,
    }.items():
        router.sysctl(key, value)
    settings = kernel.settings(kernel.links().values())
    assert (settings.policy4, settings.policy6) == (1, 2)
    assert settings.use_neigh
    assert settings.ip_forward_use_pmtu
    one, two = settings.interfaces[eth0], settings.interfaces[dotted]
    assert (one.forwarding4, two.forwarding4) == (False, True)
    assert (one.forwarding6, two.forwarding6) == (True, False)
    assert (one.rp_filter, two.rp_filter) == (1, 2)
    assert (one.send_redirects, two.send_redirects) == (False, True)
    assert (one.ignore_linkdown4, two.ignore_linkdown4) == (False, True)
    assert (one.ignore_linkdown6, two.ignore_linkdown6) == (True, False)


@since(Since.HASH_SEED)
def test_seed(router: Namespace, kernel: Kernel) -> None:
    router.sysctl("net.ipv4.fib_multipath_hash_seed", 0xDEADBEEF)
    assert kernel.settings([]).seed == 0xDEADBEEF


@since(Since.FORCE_FORWARDING)
def test_force_forwarding(router: Namespace, kernel: Kernel) -> None:
    router.sysctl("net.ipv6.conf.eth0.force_forwarding", 1)
    interfaces = kernel.settings(kernel.links().values()).interfaces
    assert interfaces[router.ifindex("eth0")].forwarding6
    assert not interfaces[router.ifindex("eth1")].forwarding6


def test_snapshot_is_that_of_the_namespace(router: Namespace, kernel: Kernel) -> None:
    router.sysctl("net.ipv4.fib_multipath_hash_policy", 1)
    snapshot = kernel.snapshot()
    assert {link.name for link in snapshot.links.values()} >= {"lo", "eth0", "eth1"}
    assert snapshot.settings.policy4 == 1
    assert snapshot.routes == kernel.routes()
    assert (snapshot.custom_rules4, snapshot.custom_rules6) == (False, False)


@pytest.mark.parametrize(
    ("setting", "feature"),
    [
        ("rxvlan", "rx-vlan-hw-parse"),
        ("rx-vlan-stag-hw-parse", "rx-vlan-stag-hw-parse"),
        ("txvlan", "tx-vlan-hw-insert"),
        ("tx-vlan-stag-hw-insert", "tx-vlan-stag-hw-insert"),
    ],
)
def test_features_of_ethtool(router: Namespace, setting: str, feature: str) -> None:
    with router.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        before = ethtool.features(control, "eth0").on
        assert feature in before
        router.run("ethtool", "-K", "eth0", setting, "off")
        assert ethtool.features(control, "eth0").on == before - {feature}
        assert ethtool.features(control, "nosuch0").on == frozenset()
        with Kernel() as kernel:
            assert not any(link.strips_tags for link in kernel.links().values())


@pytest.mark.parametrize("feature", ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"])
def test_a_device_strips_tags_of_either_kind(router: Namespace, feature: str) -> None:
    """802.1Q or 802.1ad."""
    router.ip("tuntap add dev tap0 mode tap")
    with router.enter(), wire.Socket() as connection:
        found = read_links(connection, None, lambda _: ethtool.Features(frozenset({feature})))
    assert {link.name for link in found.values() if link.strips_tags} == {"tap0"}


def test_kernel_stays_in_its_namespace(router: Namespace, peer: Namespace) -> None:
    """Opened in one, used from another and from another thread, changes included."""
    eth0 = router.ifindex("eth0")
    seen: list[set[str]] = []
    with router.enter():
        kernel = Kernel()

    def elsewhere() -> None:
        with peer.enter(), kernel.monitor() as monitor:
            kernel.manage_neighbour(ip_address("10.0.0.2").packed, eth0)
            expect(monitor, lambda changes: bool(changes.neighbour_updates))
            seen.append({link.name for link in kernel.snapshot().links.values()})

    with kernel:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert seen
    assert "eth0" in seen[0]
    assert "peer0" not in seen[0]


def test_whether_a_device_takes_merged_packets(router: Namespace, kernel: Kernel) -> None:
    """A veth does, until one of its offloads is switched off or limited."""

    def takes() -> bool:
        return kernel.links()[router.ifindex("eth0")].segments_all

    assert takes()
    for feature in (
        "tx",
        "sg",
        "tso",
        "tx-udp-segmentation",
        "tx-gso-list",
        "tx-ipxip4-segmentation",
    ):
        router.run("ethtool", "-K", "eth0", feature, "off")
        assert not takes(), feature
        router.run("ethtool", "-K", "eth0", feature, "on")
        # with `sg` others go, and do not come back
        router.run("ethtool", "-K", "eth0", "tx", "on", "tso", "on", "gso", "on")
        assert takes(), feature
    for limit, usual in (("gso_max_segs", 65535), ("gso_max_size", 65536)):
        router.ip(f"link set eth0 {limit} 1000")
        assert not takes(), limit
        router.ip(f"link set eth0 {limit} {usual}")
        assert takes(), limit


def test_whether_a_device_merges_packets_into_lists(router: Namespace, kernel: Kernel) -> None:
    def merges() -> bool:
        return kernel.links()[router.ifindex("eth0")].merges_lists

    assert not merges()
    router.run("ethtool", "-K", "eth0", "rx-gro-list", "on")
    assert merges()


def test_of_a_device_that_has_gone_the_worst_is_taken(router: Namespace) -> None:
    with router.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def has(name: str) -> tuple[bool, ...]:
            found = ethtool.features(control, name)
            return found.segments_all, found.merges_lists, found.offloads_received

        assert has("nosuch0") == (False, True, True)
        assert has("eth0") == (True, False, True)
        router.run("ethtool", "-K", "eth0", "rx", "off")
        assert has("eth0") == (True, False, False)
        assert has("nosuch0") == (False, True, True)


def test_this_kernel_knows_the_features_asked_for(router: Namespace) -> None:
    """Or a name that is spelled wrong would never be looked at."""
    known = {
        line.split(":")[0].strip()
        for line in router.run("ethtool", "-k", "eth0").stdout.splitlines()
    }
    assert {*ethtool.SEGMENTS_ALL} - {"tx-tcp-accecn-segmentation"} <= known  # Linux 6.18


def test_what_a_device_merges_itself(router: Namespace) -> None:
    """A veth nothing; what is not told is taken for all. NICs: tests/vm/test_own_seed.py."""
    with router.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        assert ethtool.features(control, "eth0").merges == frozenset()
        assert ethtool.features(control, "gone0").merges == {"rx-lro", "rx-gro-hw"}


def test_a_bridge_leaves_checksums_where_a_member_does(router: Namespace) -> None:
    """What it receives has come through them."""
    router.ip("tuntap add dev tap0 mode tap")
    router.ip("link add br0 type bridge")
    router.ip("link add br1 type bridge")
    router.ip("link set tap0 master br0")
    with router.enter(), wire.Socket() as connection:
        found = read_links(connection, None, lambda _: ABLE)
    leaving = {link.name for link in found.values() if link.leaves_checksums}
    assert leaving >= {"tap0", "br0"}
    assert "br1" not in leaving
