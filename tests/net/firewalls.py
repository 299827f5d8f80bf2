"""What Linux may filter forwarded packets by: how to load it, how to take it away again."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.capabilities import Since, require, require_kernel
from tests.net.topology import Router

BOTH, IPV4, IPV6, NEITHER = frozenset({4, 6}), frozenset({4}), frozenset({6}), frozenset[int]()

Load = Callable[[Router], None]


@dataclass(frozen=True)
class Filtering:
    """One firewall, or something that looks like one."""

    load: Load
    unload: Load
    families: frozenset[int]
    """Those that have to pass to Linux."""
    named: str
    """Part of what `status` calls it; "" where it is none."""
    needs: str = ""
    """A program."""
    since: Since | None = None

    def require(self) -> None:
        """Skip, or fail where forced, without that program; skip under an older kernel."""
        if self.since is not None:
            require_kernel(self.since)
        require(not self.needs or shutil.which(self.needs) is not None, self.needs)

    @contextmanager
    def loaded(self, router: Router) -> Iterator[None]:
        self.load(router)
        try:
            yield
        finally:
            self.unload(router)


def shell(*commands: str) -> Load:
    def load(router: Router) -> None:
        for command in commands:
            router.ns.run("sh", "-ec", command)

    return load


def nft(ruleset: str, families: frozenset[int], named: str) -> Filtering:
    """A ruleset of nftables, by `nft -f`."""

    def load(router: Router) -> None:
        router.ns.run("nft", "-f", "-", input=ruleset)

    return Filtering(load, shell("nft flush ruleset"), families, named, "nft")


def chain(family: str, hook: str, rest: str, families: frozenset[int], named: str) -> Filtering:
    """A table `t` with one base chain `c`."""
    return nft(
        f"table {family} t {{ chain c {{ type filter hook {hook}; {rest}\n}}\n}}\n", families, named
    )


def legacy(program: str, rule: str, undo: str, families: frozenset[int], named: str) -> Filtering:
    """A command of the old iptables, and another one."""
    tool = f"{program}-legacy"
    return Filtering(shell(f"{tool} {rule}"), shell(f"{tool} {undo}"), families, named, tool)


def tc(load: str, unload: str, named: str) -> Filtering:
    return Filtering(shell(load), shell(unload), BOTH if named else NEITHER, named)


# --- BPF programs --------------------------------------------------------------------------------

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _LINK_CREATE = 5, 8, 9, 28
_SCHED_CLS, _NETFILTER = 3, 32
TCX_INGRESS, TCX_EGRESS, NETFILTER = 46, 47, 45
_SYSCALL = {"x86_64": 321, "aarch64": 280}
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    """bpf(2). Raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(_SYSCALL[os.uname().machine], command, buffer, len(attributes))
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def _program(kind: int, verdict: int, attach_type: int) -> int:
    """A descriptor of a program that returns that."""
    code = struct.pack("<BBhi", 0xB7, 0, 0, verdict) + bytes.fromhex("9500000000000000")
    text, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    addresses = ctypes.addressof(text), ctypes.addressof(licence)
    head = struct.pack("=IIQQIIQII16sII", kind, 2, *addresses, 0, 0, 0, 0, 0, b"", 0, attach_type)
    return _bpf(_PROG_LOAD, head)


class _Held:
    """What a BPF program hangs on, between loading and unloading."""

    def __init__(self) -> None:
        self._undo = ExitStack()

    def unload(self, _: Router) -> None:
        self._undo.close()

    def tcx_link(self, device: str, attach_type: int) -> Load:
        def load(router: Router) -> None:
            program = _program(_SCHED_CLS, 0, 0)  # TCX_PASS: next hops have to stay resolved
            self._undo.callback(os.close, program)
            with router.ns.enter():
                target = router.ns.ifindex(device)
                link = _bpf(_LINK_CREATE, struct.pack("=IIII", program, target, attach_type, 0))
            self._undo.callback(os.close, link)

        return load

    def tcx_program(self, device: str, attach_type: int) -> Load:
        """Without a link."""

        def load(router: Router) -> None:
            program = _program(_SCHED_CLS, 2, 0)
            self._undo.callback(os.close, program)
            ifindex = router.ns.ifindex(device)
            request = struct.pack("=IIII", ifindex, program, attach_type, 0)
            with router.ns.enter():
                _bpf(_PROG_ATTACH, request)

            def detach() -> None:
                with router.ns.enter():
                    _bpf(_PROG_DETACH, request)

            self._undo.callback(detach)

        return load

    def netfilter(self, family: int, hook: int) -> Load:
        def load(router: Router) -> None:
            program = _program(_NETFILTER, 0, NETFILTER)  # NF_DROP
            self._undo.callback(os.close, program)
            where = struct.pack("=IIIIIIiI", program, 0, NETFILTER, 0, family, hook, 7, 0)
            with router.ns.enter():
                self._undo.callback(os.close, _bpf(_LINK_CREATE, where))

        return load


def tcx(device: str, attach_type: int, named: str, link: bool = True) -> Filtering:
    held = _Held()
    load = (held.tcx_link if link else held.tcx_program)(device, attach_type)
    families = BOTH if named else NEITHER
    return Filtering(load, held.unload, families, named, since=Since.TCX)


def bpf_netfilter(family: int, hook: int, families: frozenset[int]) -> Filtering:
    held, named = _Held(), "BPF netfilter" if families else ""
    load = held.netfilter(family, hook)
    return Filtering(load, held.unload, families, named, since=Since.BPF_NETFILTER)


# --- all of them ---------------------------------------------------------------------------------

_CT_INPUT = "type filter hook input priority 0; ct state established accept"
_DROP_ALL = "tc filter add dev {} {} bpf bytecode '1,6 0 0 0,' flowid 1:1"

FIREWALLS = {
    **{
        f"{family} {hook} {what}": chain(
            family,
            f"{hook} priority 0{'; policy drop' if what == 'policy' else ''}",
            "" if what == "policy" else rule,
            families,
            f"nftables chain {family} t c{' (policy drop)' if what == 'policy' else ''}",
        )
        for family, families in (("inet", BOTH), ("ip", IPV4), ("ip6", IPV6))
        for hook in ("prerouting", "forward", "postrouting")
        for what, rule in (("policy", ""), ("rule", "meta mark 7 drop"))
    },
    "netdev ingress": chain(
        "netdev", "ingress device c0 priority 0", "meta mark 7 drop", BOTH, "chain netdev t c"
    ),
    "netdev ingress, several": chain(
        "netdev",
        "ingress devices = { lo, c0 } priority 0; policy drop",
        *("", BOTH, "chain netdev t c (policy drop)"),
    ),
    "inet ingress": chain(
        "inet", "ingress device c0 priority 0", "udp dport 7 drop", BOTH, "chain inet t c"
    ),
    "netdev egress": chain(
        "netdev", "egress device e1 priority 0", "meta mark 7 drop", BOTH, "chain netdev t c"
    ),
    "counter": chain("inet", "forward priority 0", "counter", BOTH, "chain inet t c"),
    "masquerade": nft(
        "table ip nat { chain post { type nat hook postrouting priority 100; masquerade\n}\n}\n",
        *(IPV4, "chain ip nat post"),
    ),
    "input with connection tracking": nft(
        f"table inet t {{ chain c {{ {_CT_INPUT}\n}}\n}}\n", BOTH, "connection tracking"
    ),
    "input with connection tracking, IPv6": nft(
        f"table ip6 t {{ chain c {{ {_CT_INPUT}\n}}\n}}\n", IPV6, "connection tracking"
    ),
    "dormant with connection tracking": nft(
        f"table ip t {{ flags dormant; chain c {{ {_CT_INPUT}\n}}\n}}\n",
        *(IPV4, "connection tracking"),
    ),
    "connections counted by a set": nft(
        "table ip t { set s { type ipv4_addr; flags dynamic; }\n"
        "chain c { type filter hook input priority 0; add @s { ip saddr ct count over 9 } drop"
        "\n}\n}\n",
        *(IPV4, "connection tracking"),
    ),
    "iptables": legacy(
        *("iptables", "-A FORWARD -m mark --mark 7 -j DROP", "-F", IPV4),
        "iptables-legacy filter FORWARD",
    ),
    "iptables policy": legacy(
        *("iptables", "-P FORWARD DROP", "-P FORWARD ACCEPT", IPV4),
        "iptables-legacy filter FORWARD (policy drop)",
    ),
    "ip6tables raw": legacy(
        *("ip6tables", "-t raw -A PREROUTING -p udp --dport 7 -j DROP", "-t raw -F", IPV6),
        "ip6tables-legacy raw PREROUTING",
    ),
    "iptables mangle": legacy(
        *("ip6tables", "-t mangle -A POSTROUTING -j HL --hl-set 9", "-t mangle -F", IPV6),
        "ip6tables-legacy mangle POSTROUTING",
    ),
    "iptables NAT": legacy(
        *("iptables", "-t nat -A POSTROUTING -j MASQUERADE", "-t nat -F", IPV4),
        "iptables-legacy nat POSTROUTING",
    ),
    "iptables input with state": legacy(
        *("iptables", "-A INPUT -m state --state ESTABLISHED -j ACCEPT", "-F", IPV4),
        "connection tracking",
    ),
    "tc u32 ingress": tc(
        "tc qdisc add dev c0 clsact; tc filter add dev c0 ingress u32 match u32 0 0 flowid 1:1",
        *("tc qdisc del dev c0 clsact", "tc filter on c0 ingress"),
    ),
    "tc bpf egress": tc(
        f"tc qdisc add dev e1 clsact; {_DROP_ALL.format('e1', 'egress')}",
        *("tc qdisc del dev e1 clsact", "tc filter on e1 egress"),
    ),
    "old ingress qdisc": tc(
        "tc qdisc add dev c0 ingress; "
        "tc filter add dev c0 parent ffff: u32 match u32 0 0 flowid 1:1",
        *("tc qdisc del dev c0 ingress", "tc filter on c0 ingress"),
    ),
    "tbf": tc(
        "tc qdisc add dev e1 root tbf rate 1mbit burst 10k latency 50ms",
        *("tc qdisc del dev e1 root", "tc qdisc tbf on e1"),
    ),
    "htb": tc(
        "tc qdisc add dev e1 root handle 1: htb default 1; "
        "tc class add dev e1 parent 1: classid 1:1 htb rate 1mbit",
        *("tc qdisc del dev e1 root", "tc qdisc htb on e1"),
    ),
    "tcx ingress": tcx("c0", TCX_INGRESS, "tcx program on c0 ingress"),
    "tcx egress": tcx("e1", TCX_EGRESS, "tcx program on e1 egress"),
    "tcx without link": tcx("c0", TCX_INGRESS, "tcx program on c0 ingress", link=False),
    "BPF netfilter": bpf_netfilter(2, 2, IPV4),
    "BPF netfilter, IPv6": bpf_netfilter(10, 0, IPV6),
}
"""What makes a family pass."""

HARMLESS = {
    "empty chains": nft(
        "".join(
            f"table {family} t {{ chain c {{ type filter hook {hook} priority 0; policy accept;"
            f"\n}}\n}}\n"
            for family, hook in (
                ("inet", "forward"),
                ("ip", "prerouting"),
                ("ip6", "postrouting"),
                ("netdev", "ingress device c0"),
            )
        ),
        *(NEITHER, ""),
    ),
    "empty NAT": nft(
        "table ip nat { chain post { type nat hook postrouting priority 100;\n}\n}\n", NEITHER, ""
    ),
    "input and output": nft(
        "table inet t { chain i { type filter hook input priority 0; policy drop;\n"
        "meta l4proto ipv6-icmp accept\n udp dport 53 accept\n}\n"
        "chain o { type filter hook output priority 0; udp dport 5353 drop\n}\n}\n",
        *(NEITHER, ""),
    ),
    "a chain that nothing jumps to": nft(
        "table inet t { set s { type ipv4_addr; elements = { 10.9.9.9 }; }\n"
        "chain base { type filter hook forward priority 0;\n}\n"
        "chain other { drop\n}\n}\n",
        *(NEITHER, ""),
    ),
    "dormant": nft(
        "table inet t { flags dormant; chain c { type filter hook forward priority 0; policy drop;"
        "\n}\n}\n",
        *(NEITHER, ""),
    ),
    "ingress elsewhere": chain(
        "netdev", "ingress device lo priority 0; policy drop", "", NEITHER, ""
    ),
    "egress elsewhere": chain(
        "netdev", "egress device lo priority 0; policy drop", "", NEITHER, ""
    ),
    "ARP": chain("arp", "input priority 0", "arp operation 9 drop", NEITHER, ""),
    "iptables, empty": legacy("iptables", "-L", "-L", NEITHER, ""),
    "iptables input": legacy(
        *("iptables", "-A INPUT -p tcp --dport 9 -j DROP", "-D INPUT 1", NEITHER, "")
    ),
    "clsact alone": tc("tc qdisc add dev c0 clsact", "tc qdisc del dev c0 clsact", ""),
    "pfifo": tc("tc qdisc add dev e1 root pfifo", "tc qdisc del dev e1 root", ""),
    "tc elsewhere": tc(
        "tc qdisc add dev lo clsact; tc filter add dev lo ingress u32 match u32 0 0 flowid 1:1",
        *("tc qdisc del dev lo clsact", ""),
    ),
    "tcx elsewhere": tcx("lo", TCX_INGRESS, ""),
    "BPF netfilter, input": bpf_netfilter(2, 1, NEITHER),
}
"""What does not."""
