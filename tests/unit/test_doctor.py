"""What `doctor` makes of what it found: one thing at a time is out of order."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from errno import EINVAL, ENOMEM
from pathlib import Path
from typing import Any

import pytest

from tests.doctor import (
    GATEWAYS,
    HOST,
    IN,
    OUT,
    STATUS,
    Case,
    World,
    bad_checks,
    check_case,
    host,
    ipv6_multipath,
    route,
    run,
)
from tests.unit.test_doctor_interfaces import CASES as INTERFACE_CASES
from xdpecmp import doctor
from xdpecmp.doctor import Verdict, examine
from xdpecmp.doctor.facts import Running, Trial
from xdpecmp.errors import XdpecmpError
from xdpecmp.instance.instance import FLOW_LABEL_TEXT
from xdpecmp.model.hashkey import HashKey, KeyState, Origin
from xdpecmp.model.values import (
    INGRESS,
    Filter,
    Filters,
    Neighbour,
    NextHop,
    NexthopGroup,
    Prefix,
    RouteKind,
)
from xdpecmp.observe.hashkey import KNOWN
from xdpecmp.observe.losses import Losses
from xdpecmp.observe.missing import Missing
from xdpecmp.places import Untrusted
from xdpecmp.program.abi import MAX_PATHS


def test_all_is_well() -> None:
    findings = examine(World().facts())
    assert {finding.verdict for finding in findings} == {Verdict.OK}
    checks = {finding.check for finding in findings}
    assert checks >= {"privileges", "bcc", "libbpf", "bpffs", "build", "kernel", "seed", "policy"}
    assert checks >= {"passed", "firewall", "instance", "mode"}
    assert ("eth1", "ixgbe: native XDP") in {(f.interface, f.found) for f in findings}
    assert not any(finding.fix for finding in findings)


@pytest.mark.parametrize("origin", [Origin.MEMORY, Origin.SEARCH])
def test_a_key_that_was_found(origin: Origin) -> None:
    """It is said where it comes from, and nothing is advised."""
    world = World()
    world.settings(seed=None, found_key=HashKey.of_seed(0xABCDEF, origin))
    (seed,) = (each for each in examine(world.facts()) if each.check == "seed")
    assert (seed.verdict, seed.fix) == (Verdict.OK, "")
    assert KNOWN[origin] in seed.found


def _nexthop_object(world: World) -> None:
    world.snap(nexthop_groups={5: NexthopGroup(5, RouteKind.UNSUPPORTED, ())})
    world.routes(route("10.7.0.0/16", nhid=5))


def own_seed(world: World, *chosen: int) -> None:
    world.chosen = chosen
    world.settings(seed=None)
    world.option(own_seed=5)
    for ifindex in chosen:
        world.links(ifindex, xdp_mode="native")


def key_state(**known: Any) -> Callable[[World], object]:
    return run(key_state=KeyState(**known))


def filters(*found: Filter) -> Callable[[World], object]:
    return lambda world: world.snap(filters=Filters(found))


def _bypassed(world: World) -> None:
    filters(Filter("IPVS services"))(world)
    world.option(bypass_firewall=True)
    world.other["bypasses_firewall"] = True


CASES = {
    # the host
    "not root": Case(host(root=False), "problem", "privileges", "not root", "sudo xdpecmp doctor"),
    "a container": Case(
        host(missing_capabilities=("CAP_NET_ADMIN",)),
        *("problem", "privileges", "CAP_NET_ADMIN", "--privileged"),
    ),
    "no bcc": Case(host(bcc="", bcc_is_ours=False), "problem", "bcc", "no module", "provision.sh"),
    "the other bcc": Case(
        host(bcc="0.4", bcc_is_ours=False),
        *("problem", "bcc", "unrelated", "pip uninstall bcc"),
    ),
    "no libbpf": Case(
        host(libbpf=""), "problem", "libbpf", "libbpf.so.1", "apt-get install libbpf1"
    ),
    "no bpffs": Case(
        host(bpffs=XdpecmpError("no bpf file system", "mount -t bpf")),
        *("problem", "bpffs", "no bpf file system", "mount -t bpf"),
    ),
    "does not load": Case(
        host(trial=Trial(XdpecmpError("the kernel refuses", "see why"))),
        *("problem", "build", "the kernel refuses", "see why"),
    ),
    "out of memory": Case(
        host(trial=Trial(XdpecmpError("cannot load", "xdpecmp doctor"), errno=ENOMEM)),
        *("problem", "build", "cannot load", "free -m"),
    ),
    "not to the verifier's liking": Case(
        host(trial=Trial(XdpecmpError("does not load", "xdpecmp doctor"), errno=EINVAL)),
        *("problem", "build", "does not load", "report it"),
    ),
    "interpreted": Case(
        host(trial=Trial(compiled=False)),
        *("note", "jit", "interprets", "net.core.bpf_jit_enable=1"),
    ),
    "old kernel": Case(host(release="5.10.0-9-amd64"), "note", "kernel", "5.10.0-9-amd64", ""),
    "another machine": Case(host(machine="aarch64"), "note", "machine", "aarch64", ""),
    "tickless": Case(host(tickless="2-3"), "note", "nohz_full", "CPUs 2-3", ""),
    # what is attached
    "agent dead": Case(
        run(running=Running(status=replace(STATUS, agent_pid=None))),
        *("problem", "agent", "not running: soon", "xdpecmp attach eth1"),
    ),
    "lease ran out": Case(
        run(running=Running(status=replace(STATUS, agent_pid=None, lease_s=0))),
        *("problem", "agent", "not running: all passes", "xdpecmp attach eth1"),
    ),
    "agent hangs": Case(
        run(running=Running(status=replace(STATUS, lease_s=0))),
        *("problem", "agent", "pid 42", "xdpecmp attach eth1"),
    ),
    "interface gone": Case(
        run(
            running=Running(
                status=replace(STATUS, missing=(Missing("eth2", "auto", "it is gone", True),))
            )
        ),
        *("note", "missing", "eth2 does not run our program: it is gone", ""),
    ),
    "other version": Case(
        run(running=Running(error=XdpecmpError("of another version", "attach IFACE"))),
        *("note", "instance", "of another version", "attach IFACE"),
    ),
    "lost behind a redirect": Case(
        run(running=Running(status=replace(STATUS, losses=(Losses("eth2", 1234, 5, 0, 0),)))),
        *("note", "losses", "1,234 packets forwarded to it were not sent", "ethtool -S eth2"),
    ),
    "somebody else's folder": Case(
        run(running=Running(error=Untrusted("/run/xdpecmp is not root's", "look"))),
        *("problem", "instance", "is not root's", "look"),
    ),
    # the namespace
    "no seed": Case(
        lambda world: world.settings(seed=None),
        *("note", "seed", "key is unavailable", "xdpecmp attach IFACE --set-seed"),
    ),
    "no setting for a seed": Case(
        lambda world: (world.settings(seed=None), run(has_seed_setting=False)(world)),
        *("note", "seed", "key is unavailable", "xdpecmp attach IFACE --own-seed"),
    ),
    "a key that cannot be read": Case(
        lambda world: (world.settings(seed=None), key_state(missing="lockdown forbids it")(world)),
        *("note", "seed", "is unavailable: lockdown forbids it", "xdpecmp attach IFACE --set-seed"),
    ),
    "a key that is searched": Case(
        lambda world: (
            world.settings(seed=None),
            key_state(missing="no symbol", searching=True)(world),
        ),
        *("note", "seed", "until its hash key is found", "xdpecmp status"),
    ),
    "a seed of our own": Case(
        lambda world: own_seed(world, IN, OUT),
        *("note", "seed", "go by a hash seed of xdpecmp's own", ""),
    ),
    "a seed of our own that would split flows": Case(
        lambda world: own_seed(world, IN),
        *("note", "seed", "would split flows here: eth2 forwards too", "xdpecmp attach eth2"),
    ),
    "IPv4 rules": Case(
        lambda world: world.snap(custom_rules4=True),
        *("note", "passed", "all IPv4 passes to Linux: policy rules", "ip rule show"),
    ),
    "IPv6 rules": Case(
        lambda world: world.snap(custom_rules6=True),
        *("note", "passed", "all IPv6 passes to Linux: policy rules", "ip -6 rule show"),
    ),
    "IPsec": Case(
        lambda world: world.settings(ipsec=True),
        *("note", "passed", "all IPv6 passes to Linux: IPsec", "ip xfrm policy"),
    ),
    "use_pmtu": Case(
        lambda world: world.settings(ip_forward_use_pmtu=True),
        *("note", "passed", "all IPv4 passes", "net.ipv4.ip_forward_use_pmtu=0"),
    ),
    "proxy_ndp": Case(
        lambda world: world.settings(proxy_ndp=True),
        *("note", "passed", "all IPv6 passes", "ip -6 neigh show proxy"),
    ),
    "unknown policy": Case(
        lambda world: world.settings(policy4=9),
        *("note", "policy", "IPv4 multipath routes pass to Linux", ""),
    ),
    "differs": Case(
        run(disagreement=Prefix.parse("192.0.2.0/24"), running=Running(status=STATUS)),
        *("note", "agreement", "192.0.2.0/24", "xdpecmp verify 192.0.2.0/24"),
    ),
    "would differ": Case(
        run(disagreement=Prefix.parse("192.0.2.0/24")),
        *("note", "agreement", "192.0.2.0/24", ""),
    ),
    "nftables": Case(
        filters(*(Filter(f"nftables chain inet f {name}") for name in "abcdefgh")),
        *("note", "firewall", "inet f e, nftables chain inet f f and 2 more", "nft list ruleset"),
    ),
    "NAT": Case(
        filters(Filter("nftables chain ip nat post", ipv6=False)),
        *("note", "firewall", "IPv4 passes to Linux", "nft list ruleset"),
    ),
    "iptables": Case(
        filters(Filter("ip6tables-legacy filter FORWARD", ipv4=False)),
        *("note", "firewall", "would bypass ip6tables-legacy filter", "ip6tables-legacy-save"),
    ),
    "IPVS": Case(
        filters(Filter("IPVS services")),
        *("note", "firewall", "IPv4 and IPv6 pass to Linux", "ipvsadm -Ln"),
    ),
    "tcx": Case(
        filters(Filter("tcx program on eth1 ingress", True, True, IN, INGRESS)),
        *("note", "firewall", "tcx program on eth1 ingress", "bpftool net"),
    ),
    "bypassed": Case(
        _bypassed,
        *("note", "firewall", "forwarded here bypass IPVS services", "ipvsadm -Ln"),
    ),
    "TOS": Case(
        lambda world: world.routes(route("10.9.0.0/16", GATEWAYS[0], tos=8)),
        *("note", "routes", "1 route left to Linux for a TOS: 10.9.0.0/16", "show 10.9.0.0/16"),
    ),
    "source": Case(
        lambda world: world.routes(route("2001:db8:9::/48", GATEWAYS[0], source_bits=48)),
        *(
            "note",
            "routes",
            "for a source prefix: 2001:db8:9::/48",
            "-6 route show 2001:db8:9::/48",
        ),
    ),
    "routes with attributes": Case(
        lambda world: world.routes(
            *(route(f"10.{i}.0.0/16", kind=RouteKind.UNSUPPORTED) for i in range(1, 6))
        ),
        *("note", "routes", "5 routes left to Linux for an MTU", "ip route show 10.1.0.0/16"),
    ),
    "nexthop object": Case(
        _nexthop_object,
        *("note", "routes", "for nexthop object 5", "ip route show 10.7.0.0/16"),
    ),
    "too many paths": Case(
        lambda world: world.routes(
            route(
                "2001:db8::/32",
                *(NextHop(b"\x20" + i.to_bytes(15, "big"), OUT) for i in range(MAX_PATHS + 1)),
            )
        ),
        *("note", "routes", "more than 1,024 next hops", "ip -6 route show 2001:db8::/32"),
    ),
    "next hop does not answer": Case(
        lambda world: world.snap(
            neighbours={(GATEWAYS[0].via, OUT): Neighbour(GATEWAYS[0].via, OUT, b"", 0x20)}
        ),
        *("note", "next hop", "10.0.0.2 does not answer on eth2", "ping -c 1 -I eth2 10.0.0.2"),
    ),
    "flow label": Case(ipv6_multipath, "note", "flow label", FLOW_LABEL_TEXT["follow"], ""),
    "unseen": Case(run(unseen=("a", "b")), "note", "unseen", "not looked at: a, b", "sudo xdpecmp"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_thing_out_of_order(name: str) -> None:
    check_case(CASES[name])


def test_every_check_is_tried() -> None:
    """Each that the sources know can say something bad, and a case above makes it."""
    tried = {case.check for case in (*CASES.values(), *INTERFACE_CASES.values())}
    assert _checks() == tried


def _checks() -> set[str]:
    """The names that the sources give to checks whose outcome isn't good."""
    makers = {"note", "problem", "from_note", "from_error"}
    found: set[str] = set()
    for path in Path(doctor.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in makers:
                found |= {
                    part.value
                    for part in ast.walk(node.args[0])
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
    return found


def _without_routes(world: World) -> World:
    return world.snap(routes=())


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda world: world.settings(seed=None), "seed"),
        (lambda world: (world.settings(seed=None), world.option(own_seed=5)), "seed"),
        (lambda world: world.settings(policy4=9, policy6=9), "policy"),
        (
            lambda world: (
                world.settings(policy4=1, policy6=1),
                world.device(features=frozenset({"rx-hashing"})),
            ),
            "policy 1",
        ),
        (lambda world: world.routes(route("2001:db8::/32", NextHop(bytes(16), OUT))), "flow label"),
    ],
)
def test_without_a_choice_how_it_is_made_is_of_no_interest(
    change: Callable[[World], Any], check: str
) -> None:
    """Nor for IPv6, where IPv4 alone has multipath routes."""
    assert check not in bad_checks(lambda world: (_without_routes(world), change(world)))
    if check == "policy":
        only4 = bad_checks(lambda world: world.settings(policy6=9))
        assert check not in only4


UNSAFE = (
    "rp_filter=",
    "-K eth1 rxhash",
    " mtu ",
    "xdp off",
    "xdpgeneric off",
    "proxy_ndp=",
    "flush",
    "kill",
)
"""What protects somebody, or cuts a live link, is not switched off to save a look-up."""


@pytest.mark.parametrize("name", [*CASES, *INTERFACE_CASES])
def test_advice_is_safe_to_follow_blindly(name: str) -> None:
    world = World()
    {**INTERFACE_CASES, **CASES}[name].change(world)
    for finding in examine(world.facts()):
        assert not [words for words in UNSAFE if words in f"{finding.fix} {finding.found}"], finding


def test_problems_come_first() -> None:
    world = World()
    host(root=False)(world)
    world.settings(seed=None)
    ranks = [list(Verdict).index(finding.verdict) for finding in examine(world.facts())]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"policy6": 0}, True),
        ({"policy6": 1}, False),
        ({"policy6": 2}, True),
        ({"policy6": 3}, False),
        ({"policy6": 3, "fields6": 0xF}, True),
        ({"policy6": 3, "fields6": 0x200}, True),
    ],
)
def test_where_flow_labels_count(settings: dict[str, int], counts: bool) -> None:
    found = bad_checks(lambda world: (ipv6_multipath(world), world.settings(**settings)))
    assert ("flow label" in found) is counts


def test_link_local_routes_pass_anyway() -> None:
    assert not bad_checks(
        lambda world: world.routes(route("fe80::/64", kind=RouteKind.UNSUPPORTED))
    )


def test_no_interface() -> None:
    world = World()
    world.chosen = ()
    (said,) = [f for f in examine(world.facts()) if f.check == "interface"]
    assert (said.verdict, said.fix) == (Verdict.NOTE, "ip -br link show")


@pytest.mark.parametrize(
    ("release", "kernel"),
    [
        ("6.18.44-fc", (6, 18)),
        ("6.1.0-9-amd64", (6, 1)),
        ("6.11-rc3", (6, 11)),
        ("what", (0, 0)),
    ],
)
def test_kernel_version(release: str, kernel: tuple[int, int]) -> None:
    assert replace(HOST, release=release).kernel == kernel
