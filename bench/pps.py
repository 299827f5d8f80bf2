"""Part 2: packets per second through real devices.

A generator sends into the router's veth, and behind the router an XDP program counts and drops. All
of it happens on one CPU, one batch after another, so a second of that CPU is divided among
generator, router and sink, and how many packets come through is a measure of the router only once
the rest is known. So two rows tell of the harness alone:

    drop at the router   the way to the router and nothing else; subtracted from the other rows, as
                         time a packet, this leaves what the router costs, with the way out of it
    bare redirect        the least that this way out takes; nothing that forwards in XDP can be
                         below it here

Each case has a router of its own, all alive at once, and every round measures each of them. The
time is what the kernel says a test run took, so it does not matter if others want the CPU too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.netns import Namespace
from xdpecmp.netlink import Kernel
from xdpecmp.program import libbpf

from . import live, packets
from .programs import BARE_REDIRECT, MINIMUM, REFERENCE, Compiled, minimum, reference
from .progress import Progress
from .router import SOURCE6, BenchError, Router, attached, destination, hold, router, xdpecmp
from .timing import Series, one_cpu

ROUNDS = 100
PACKETS = 4096
"""In one measurement; the next one goes on with the other flows."""
WARM_UP = 512
MAX_LOSS = 0.01
FRAME = 14 + 20 + 8 + packets.PAYLOAD
_INTERFACES = 1024

HARNESS = DROP, BARE, LEAST = ("drop at the router", "bare redirect", "kernel-exact minimum")
"""What forwards for nobody."""
LINUX = "Linux"
_STATELESS = """
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ip saddr { 192.0.2.0/24, 198.51.100.0/24 } drop
        ip6 saddr { 2001:db8:bad::/48 } drop
        tcp flags syn tcp dport 23 drop
        udp dport { 69, 137, 138 } drop
        ip protocol icmp accept
    }
}
"""
_STATEFUL = _STATELESS.replace(
    "policy accept;", "policy accept;\n        ct state established,related accept"
)
"""What a router with a firewall has at least."""


@dataclass(frozen=True)
class Way:
    """A way to forward: the name of its row and how a router is made to do so."""

    name: str
    prepare: Callable[[contextlib.ExitStack, Router, Compiled], object]
    by: str = "xdp"
    """Who forwards: "linux", "xdp", "xdpecmp" or "nobody"; checked by their own counters."""


def ways() -> Iterator[Way]:
    """The rows, for each family."""
    yield Way(DROP, _drop, "nobody")
    yield Way(BARE, _by(minimum, BARE_REDIRECT))
    yield Way(LEAST, _by(minimum, MINIMUM))
    yield Way("xdpecmp", lambda stack, inside, _: _attach(stack, inside, "native"), "xdpecmp")
    # no row for generic mode: the receiver's program takes its veth's offloads away
    # (veth_fix_features()), and then what a veth brings in generic mode is Linux's
    yield Way("reference (bpf_fib_lookup)", _by(reference, REFERENCE))
    yield Way(LINUX, lambda *_: None, "linux")
    if shutil.which("nft"):
        yield Way("Linux, nftables", lambda _, inside, __: _firewall(inside, _STATELESS), "linux")
        yield Way(
            "Linux, nftables with connection tracking",
            lambda _, inside, __: _firewall(inside, _STATEFUL),
            "linux",
        )


def _drop(stack: contextlib.ExitStack, inside: Router, traffic: Compiled) -> None:
    _attach_program(inside.namespace, inside.ingress, traffic.fd("count_and_drop"))


def _by(build: Callable[[Sequence[int]], Compiled], function: str) -> Callable[..., None]:
    """A program on the router's ingress. It lives as long as it is attached."""

    def prepare(stack: contextlib.ExitStack, inside: Router, _: Compiled) -> None:
        with inside.namespace.enter():
            compiled = build(inside.egresses)
        _attach_program(inside.namespace, inside.ingress, compiled.fd(function))

    return prepare


def _attach(stack: contextlib.ExitStack, inside: Router, mode: str) -> None:
    # a host's socket can leave a checksum to be finished later, a generator never does
    inside.wire.run("ethtool", "-K", "in0", "tx", "off")
    stack.enter_context(attached(inside.namespace, "--mode", mode))


def _attach_program(namespace: Namespace, ifindex: int, program: int) -> None:
    with namespace.enter(), Kernel() as kernel:
        kernel.attach_xdp(ifindex, program, "native")


def _firewall(inside: Router, rules: str) -> None:
    inside.namespace.run("nft", "-f", "-", input=rules)


@dataclass
class Case:
    """A way and its router, ready to measure, and its times: nanoseconds a packet, one a round."""

    way: Way
    family: int
    router: Router
    slot: int
    times: Series = field(default_factory=Series)
    sent: int = 0
    arrived: int = 0

    @property
    def name(self) -> str:
        return f"IPv{self.family} {self.way.name}"


class Harness:
    """The generator and the counters."""

    def __init__(self, devices: int) -> None:
        words = {
            "DESTINATION4": _words(destination(4, 2))[0],
            "SOURCE6": _words(SOURCE6)[0],
            "DESTINATION6_HIGH": _words(destination(6, 2))[0],
            "DESTINATION6_LOW": _words(destination(6, 2))[1],
        }
        functions = ("generate4", "generate6", "count_and_drop")
        sizes = {"DEVICES": devices, "INTERFACES": _INTERFACES}
        self.traffic = Compiled("traffic.c", functions, **words, **sizes)

    def arrived(self) -> list[int]:
        """Packets counted so far, by the index of the interface that they came to."""
        fd, cpus = self.traffic.map_fd("received"), libbpf.possible_cpus()
        found = []
        for index in range(64):
            raw = libbpf.map_lookup(fd, index.to_bytes(4, "little"), 8 * cpus) or b""
            found.append(sum(memoryview(raw).cast("Q")))
        return found

    def measure(self, case: Case) -> None:
        """One round of one case."""
        libbpf.map_update(self.traffic.map_fd("out"), bytes(4), case.slot.to_bytes(4, "little"))
        generator = self.traffic.fd(f"generate{case.family}")
        frame = FRAME + 20 * (case.family == 6)
        live.send(generator, frame, WARM_UP)
        before = sum(self.arrived())
        nanoseconds = live.send(generator, frame, PACKETS)
        arrived = sum(self.arrived()) - before
        case.sent += PACKETS
        case.arrived += arrived
        if arrived < PACKETS * (1 - MAX_LOSS):
            raise BenchError(
                f"{case.name}: of {PACKETS:,} packets {PACKETS - arrived:,} were lost on the way"
            )
        case.times.rounds.append(nanoseconds)


def _words(address: str) -> list[int]:
    """The 8-byte words (for IPv4: the 4-byte word) that a program reads from memory."""
    packed = ipaddress.ip_address(address).packed
    width = min(len(packed), 8)
    return [int.from_bytes(packed[i : i + width], "little") for i in range(0, len(packed), width)]


def measure(progress: Progress) -> dict[str, Any]:
    """Rows "traffic", and notes on what could not be measured."""
    everything = [(family, way) for family in (4, 6) for way in ways()]
    harness = Harness(len(everything))
    cases: list[Case] = []
    with contextlib.ExitStack() as stack:
        with progress.task("routers to send through", len(everything)) as advance:
            for slot, (family, way) in enumerate(everything):
                inside = stack.enter_context(router(f"pps{slot}", 0, paths=(2,)))
                for sink in inside.egresses_on_the_wire():
                    _attach_program(inside.wire, sink, harness.traffic.fd("count_and_drop"))
                way.prepare(stack, inside, harness.traffic)
                with inside.wire.enter():
                    harness.traffic.store("devices", slot, inside.wire.ifindex("in0"))
                cases.append(Case(way, family, inside, slot))
                advance()
        for function in ("generate4", "generate6"):
            hold(cases[0].router.namespace, harness.traffic.fd(function))
        before = [_forwarded_by(case) for case in cases]
        with progress.task(f"packets per second, {len(cases)} rows", ROUNDS) as advance, one_cpu():
            for _ in range(ROUNDS):
                for case in cases:
                    harness.measure(case)
                advance()
        for case, counts in zip(cases, before, strict=True):
            _check(case, {who: n - counts[who] for who, n in _forwarded_by(case).items()})
    notes = []
    if not shutil.which("nft"):
        notes.append("no rows with nftables: there is no nft (package nftables)")
    return {"traffic": [_row(case, cases) for case in cases], "notes": notes}


def _forwarded_by(case: Case) -> dict[str, int]:
    """How many packets the router has forwarded so far, by who did."""
    namespace = case.router.namespace
    with namespace.enter(), open(f"/proc/net/snmp{'' if case.family == 4 else '6'}") as file:
        text = file.read()
    if case.family == 4:
        names, values = (line.split() for line in text.splitlines() if line.startswith("Ip:"))
        linux = dict(zip(names, values, strict=True))
    else:
        linux = dict(line.split() for line in text.splitlines())
    found = {"linux": int(linux["ForwDatagrams" if case.family == 4 else "Ip6OutForwDatagrams"])}
    if case.way.by == "xdpecmp":
        stats = json.loads(xdpecmp(namespace, "stats", "-j"))
        found["xdpecmp"] = stats["reasons"]["FORWARDED"]
    return found


def _check(case: Case, forwarded: dict[str, int]) -> None:
    """Raises BenchError where packets did not go the way that the row is named after."""
    total = ROUNDS * (PACKETS + WARM_UP)
    for who, count in forwarded.items():
        wanted = total if who == case.way.by else 0
        if abs(count - wanted) > total * MAX_LOSS:
            raise BenchError(f"{case.name}: {who} forwarded {count:,} packets of {total:,}")


def _row(case: Case, cases: Sequence[Case]) -> dict[str, Any]:
    same = {other.way.name: other.times for other in cases if other.family == case.family}
    ns = case.times.median
    router_cost = (case.times - same[DROP]).median
    row = {
        "name": case.name,
        "pps": round(1e9 / ns),
        "ns": round(ns, 1),
        "router_ns": None,
        "to_linux": None,
        "lost": case.sent - case.arrived,
    }
    if case.way.name != DROP:
        row["router_ns"] = round(router_cost, 1)
        costs, linux = (times - same[DROP] for times in (case.times, same[LINUX]))
        row["to_linux"] = round(costs.ratio(linux), 3)
    return row
