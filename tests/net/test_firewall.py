"""What Linux filters, tracks or shapes is left to it: loaded before `attach` or after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net.filtered import MARKER, Lab, expected
from tests.net.firewalls import BOTH, FIREWALLS, HARMLESS, Filtering


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with Lab.attached() as made:
        yield made


@pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in FIREWALLS.items()])
def test_loaded_later_and_taken_away(net: Lab, case: Filtering) -> None:
    case.require()
    assert net.verdicts() == expected(frozenset())
    with case.loaded(net):
        net.wait_for(case.families, case.named)
        assert net.verdicts() == expected(case.families)
    net.wait_for(frozenset())
    assert net.verdicts() == expected(frozenset())


@pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in HARMLESS.items()])
def test_no_firewall(net: Lab, case: Filtering) -> None:
    case.require()
    with case.loaded(net):
        # something that counts comes and goes: so the agent has seen this too
        with MARKER.loaded(net):
            net.wait_for(BOTH, MARKER.named)
        net.wait_for(frozenset())
        assert net.verdicts() == expected(frozenset())


@pytest.mark.parametrize(
    "name", ["inet forward policy", "masquerade", "ip6tables raw", "htb", "tcx egress"]
)
def test_loaded_before_attach_through_upgrades_and_bypassed(net: Lab, name: str) -> None:
    case = FIREWALLS[name]
    case.require()
    net.detach()
    with case.loaded(net):
        said = net.attach("c0", "--mode", "generic").stderr
        assert case.named in said
        assert "to Linux" in said
        assert net.verdicts() == expected(case.families)
        net.attach("c0", "--mode", "generic")
        assert net.verdicts() == expected(case.families)
        for arguments in (("--bypass-firewall",), ()):  # it is kept
            said = net.attach("c0", "--mode", "generic", *arguments).stderr
            assert f"{case.named}: --bypass-firewall allows it" in said.replace(
                ", connection tracking", ""
            )
            assert net.verdicts() == expected(frozenset())
            told = net.json("status")["firewall"]
            assert told["bypassed"] is True
            assert any(case.named in what for what in (*told["ipv4"], *told["ipv6"]))
            (row,) = [each for each in net.json("doctor") if each["check"] == "firewall"]
            assert row["verdict"] == "note"
            assert case.named in row["found"]
        said = net.attach("c0", "--mode", "generic", "--no-bypass-firewall").stderr
        assert "pass" in said
        assert net.verdicts() == expected(case.families)
        assert net.json("status")["firewall"]["bypassed"] is False
    net.wait_for(frozenset())
    assert net.verdicts() == expected(frozenset())


def test_by_the_words_of_a_person(net: Lab) -> None:
    with FIREWALLS["masquerade"].loaded(net):
        net.wait_for(FIREWALLS["masquerade"].families)
        lines = net.run("status").stdout.splitlines()
    assert (
        "firewall  IPv4 passes to Linux, since what is forwarded here would bypass nftables chain "
        "ip nat post, connection tracking"
    ) in lines
    assert not [line for line in lines if "all IPv6" in line]


def test_a_route_to_a_device_with_a_shaper(net: Lab) -> None:
    """Followed alone, before all is compiled again."""
    net.ns.ip("link add quiet type veth peer name far")
    try:
        for name in ("quiet", "far"):
            net.ns.ip(f"link set {name} up")
        net.ns.run("sh", "-c", "tc qdisc add dev quiet root tbf rate 1mbit burst 10k latency 50ms")
        net.ns.ip("addr add 10.77.0.1/24 dev quiet")
        net.ns.ip("neigh add 10.77.0.2 dev quiet lladdr 02:00:00:00:77:02 nud permanent")
        net.wait_for(BOTH, "tc qdisc tbf on quiet")
        net.ns.ip("route add 203.0.113.0/24 via 10.77.0.2")
        net.wait_for_route(
            "203.0.113.0/24",
            lambda route: route and [path.state for path in route.paths] == ["firewall"],
            "the next hop passes to Linux",
        )
    finally:
        net.ns.ip("link del quiet")
    net.wait_for(frozenset())
    assert net.verdicts() == expected(frozenset())
