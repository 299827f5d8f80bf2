"""Messages and tables about firewalls: what is not known for harmless counts."""

from __future__ import annotations

import struct

import pytest

from xdpecmp.model.values import EGRESS, INGRESS, Filter
from xdpecmp.netlink.firewall import hooks, nftables, tc
from xdpecmp.netlink.firewall.message import header
from xdpecmp.netlink.wire import attribute

INET, IPV4, ARP, NETDEV, BRIDGE, IPV6 = 1, 2, 3, 5, 7, 10
DEVICES = {"eth0": 2, "eth1": 3}


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def chain(
    family: int,
    hook: int | None,
    *,
    policy: int | None = 1,
    use: int | None = 0,
    devices: bytes = b"",
) -> bytes:
    block = b"" if hook is None else attribute(4, number(1, hook) + number(2, 0) + devices)
    return (
        header(family)
        + attribute(1, b"t\0")
        + attribute(3, b"c\0")
        + block
        + (b"" if policy is None else number(5, policy))
        + (b"" if use is None else number(6, use))
    )


def found(message: bytes) -> list[Filter]:
    return [each for _, each in nftables.parse_chain(message, DEVICES)]


@pytest.mark.parametrize(
    ("family", "name", "ipv4", "ipv6"),
    [(INET, "inet", True, True), (IPV4, "ip", True, False), (IPV6, "ip6", False, True)],
)
def test_chains_on_the_way(family: int, name: str, ipv4: bool, ipv6: bool) -> None:
    for hook in (0, 2, 4):
        assert found(chain(family, hook)) == []
        what = f"nftables chain {name} t c"
        assert found(chain(family, hook, use=1)) == [Filter(what, ipv4, ipv6)]
        drops = Filter(f"{what} (policy drop)", ipv4, ipv6)
        assert found(chain(family, hook, policy=0)) == [drops]
    for hook in (1, 3):
        assert found(chain(family, hook, policy=0, use=5)) == []


@pytest.mark.parametrize(
    "message",
    [
        chain(INET, 2, use=None),
        chain(INET, 2, policy=None),
        chain(INET, 2, policy=7),
        chain(INET, 9, use=1),
        chain(77, 1, use=1),
    ],
)
def test_what_a_chain_does_not_tell_is_taken_for_the_worst(message: bytes) -> None:
    assert [(each.ipv4, each.ipv6, each.ifindex) for each in found(message)] == [(True, True, 0)]


def test_chains_that_are_no_matter() -> None:
    assert found(chain(INET, None, policy=None, use=5)) == []
    assert found(chain(ARP, 0, policy=0, use=5)) == []


def test_bridge_chains() -> None:
    assert [each.bridged for each in found(chain(BRIDGE, 1, use=1))] == [True]


@pytest.mark.parametrize(
    ("family", "hook", "side"), [(NETDEV, 0, INGRESS), (NETDEV, 1, EGRESS), (INET, 5, INGRESS)]
)
def test_chains_of_devices(family: int, hook: int, side: str) -> None:
    one = attribute(3, b"eth1\0")
    both = attribute(4, attribute(1, b"eth0\0") + attribute(1, b"eth1\0") + attribute(1, b"gone\0"))

    def where(devices: bytes) -> list[tuple[int, str]]:
        message = chain(family, hook, use=1, devices=devices)
        return [(each.ifindex, each.side) for each in found(message)]

    assert where(one) == [(3, side)]
    assert where(both) == [(2, side), (3, side)]
    assert where(attribute(4, attribute(2, b"eth\0"))) == [(0, "")]  # by prefix
    assert where(b"") == [(0, "")]


def rule(*expressions: bytes) -> bytes:
    elements = b"".join(attribute(1, each) for each in expressions)
    return header(INET) + attribute(1, b"t\0") + attribute(2, b"c\0") + attribute(4, elements)


def expression(name: str, data: bytes = b"") -> bytes:
    return attribute(1, name.encode() + b"\0") + attribute(2, data)


@pytest.mark.parametrize(
    ("message", "tracks"),
    [
        (rule(expression("meta"), expression("cmp"), expression("immediate")), False),
        (rule(expression("meta"), expression("ct")), True),
        (rule(expression("masq")), True),
        (rule(expression("something new")), True),
        (rule(expression("lookup", attribute(1, b"ct\0"))), False),  # a set of that name
        (rule(expression("match", attribute(1, b"tcp\0"))), False),
        (rule(expression("match", attribute(1, b"conntrack\0"))), True),
        (rule(expression("match")), True),
        (rule(expression("target", attribute(1, b"MASQUERADE\0"))), True),
        (rule(expression("dynset", attribute(8, expression("connlimit")))), True),
        (rule(b""), True),
        (rule(), False),
    ],
)
def test_rules_that_have_connections_tracked(message: bytes, tracks: bool) -> None:
    assert nftables.rule_tracks(message) == tracks


@pytest.mark.parametrize(
    ("function", "module", "what"),
    [
        ("nft_do_chain_inet", "nf_tables", ""),
        ("ipt_do_table", "ip_tables", ""),
        ("apparmor_ip_postroute", "", ""),
        ("nf_nat_ipv4_out", "nf_nat", ""),
        ("ip_sabotage_in", "br_netfilter", ""),
        ("ipv4_conntrack_in", "nf_conntrack", "connection tracking"),
        ("nf_confirm", "nf_conntrack", "connection tracking"),
        ("ipv6_defrag", "nf_defrag_ipv6", "defragmentation"),
        ("ipv4_conntrack_defrag", "nf_defrag_ipv4", "defragmentation"),
        ("ip_vs_in_hook", "ip_vs", "IPVS services"),
        ("nf_hook_run_bpf", "", "BPF netfilter program"),
        ("selinux_ip_forward", "", "SELinux"),
        ("fullcone_in", "xt_FULLCONENAT", "netfilter hook fullcone_in of xt_FULLCONENAT"),
        ("", "", "netfilter hook without a name"),
    ],
)
def test_functions_on_hooks(function: str, module: str, what: str) -> None:
    assert hooks.describe(function, module) == what


def test_hooks_are_named_once_and_clones_by_their_origin() -> None:
    message = header(IPV4) + attribute(4, b"ipv4_conntrack_in.isra.0\0")
    lists = {(IPV4, 0): [message], (IPV4, 4): [message], (IPV6, 0): []}
    assert list(hooks.counting(lists)) == [hooks.Hook(IPV4, "connection tracking")]


def qdisc(kind: str, options: bytes = b"", handle: int = 0) -> tc.Qdisc:
    head = struct.pack("=BxxxiIII", 0, 2, handle, 0xFFFFFFFF, 0)
    return tc.parse_qdisc(head + attribute(1, kind.encode() + b"\0") + attribute(2, options))


def word(kind: int, value: int, size: str = "I") -> bytes:
    return attribute(kind, struct.pack(f"={size}", value))


def test_queues_with_a_rate() -> None:
    assert qdisc("fq_codel").limit == ""
    assert qdisc("fq", word(7, 0xFFFFFFFF)).limit == ""
    assert qdisc("fq", word(7, 1000)).limit == "maxrate"
    assert qdisc("fq").limit == "maxrate"
    plain = b"".join((word(2, 0, "Q"), word(9, 0), word(11, 0), word(13, 0), word(16, 0)))
    assert qdisc("cake", plain).limit == ""
    assert qdisc("cake", plain + word(2, 1000, "Q")).limit == "bandwidth"
    assert qdisc("cake", plain + word(13, 1)).limit == "wash"
    assert qdisc("cake").limit == "bandwidth"
