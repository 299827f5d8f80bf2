"""Why a packet goes where it goes: the program's decision, beside the Python twin's and Linux's.

`Explainer` runs a variant of the attached program, on the very maps that packets are forwarded by,
which writes its decision down instead of carrying it out. `question` says what Linux can be asked
about the same packet, `compare` whether both agree.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from . import frames, libbpf
from .abi import EXPLAINED_NOTHING, GroupKind, Reason
from .errors import KernelRefused, XdpecmpError
from .hashing import FlowKeys, flow_keys
from .instance import Instance
from .maps import Layout, MappedArray, Maps
from .model import Link, NextHop, NexthopGroup, Prefix
from .netlink import Answer, Kernel, Query
from .netlink.getroute import PROTOCOLS, takes_flow_label
from .program import EXPLAIN, EXPLANATION, Build, Variant, new_generation, pin_name

_XDP_PASS = 2
_TUNNELS = frozenset({4, 41, 47})  # IPIP, IPv6, GRE
_WITH_PORTS = frozenset({6, 17})


class HashSettings(NamedTuple):
    """How the data path hashes the packets of one family."""

    policy: int
    fields: int
    seed: int
    follows_label: bool = True
    own_seed: bool = False
    """Whether the seed is not Linux's."""


@dataclass(frozen=True)
class Decision:
    """What the program decided about one frame."""

    reason: Any
    family: int
    """4, 6, or 0 where it did not come to that."""
    ingress: int
    """Index of the interface that the packet came in on as Linux sees it; 0 likewise."""
    packet: bytes
    """The frame from its IP header on; b"" likewise."""
    hash: int | None
    nexthop: int | None
    """The entry of `nexthops` that was chosen, usable or not."""
    group: tuple[int, int, int]
    """GroupKind, first, count."""
    is_icmp_error: bool
    quote_offset: int
    settings: HashSettings

    @property
    def forwards(self) -> bool:
        return bool(self.reason == Reason.FORWARDED)

    @property
    def is_multipath(self) -> bool:
        return self.group[0] in (GroupKind.THRESHOLD, GroupKind.RESILIENT)

    @property
    def addresses(self) -> tuple[bytes, bytes] | None:
        """Source and destination."""
        if not self.family:
            return None
        size, start = (4, 12) if self.family == 4 else (16, 8)
        if len(self.packet) < start + 2 * size:
            return None
        middle, end = start + size, start + 2 * size
        return self.packet[start:middle], self.packet[middle:end]


# --- the program's decision ----------------------------------------------------------------------


class Explainer:
    """Runs the explaining program of the running instance; one at a time in a namespace.

    It is built when it is first needed, kept beside the program that it belongs to, and goes with
    it. `with` takes the turn; making one raises XdpecmpError where the attached program is of
    another version, BuildFailed, NotAttached.
    """

    def __init__(self, instance: Instance, maps: Maps) -> None:
        self._maps = maps
        with ExitStack() as undo:
            instance.check_source()
            lock = undo.enter_context((instance.run / "explain.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._program, written, layout = _open_program(instance)
            undo.callback(os.close, self._program)
            undo.callback(os.close, written)
            self._written = MappedArray(written, layout.value(EXPLANATION))
            self._close = undo.pop_all().close

    def close(self) -> None:
        """Let the next one have its turn."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def decide(self, frame: bytes, ifindex: int) -> Decision:
        """What the program does with a frame that comes in on that device."""
        run = libbpf.run_program(self._program, frames.check_size(frame), ifindex)
        if run.verdict != _XDP_PASS:
            raise XdpecmpError(f"the explaining program gave verdict {run.verdict}")
        written = self._written.entries[0]
        group = written.group
        return Decision(
            reason=Reason(written.reason),
            family=written.family,
            ingress=written.ingress_ifindex,
            packet=frame[written.l3_offset :] if written.family else b"",
            hash=None if written.hash == EXPLAINED_NOTHING else written.hash,
            nexthop=None if written.nexthop == EXPLAINED_NOTHING else written.nexthop,
            group=(group.kind, group.first, group.count),
            is_icmp_error=bool(written.icmp_error),
            quote_offset=written.quote_offset,
            settings=hash_settings(self._maps, written.family, written.config_slot),
        )


def _open_program(instance: Instance) -> tuple[int, int, Layout]:
    """Descriptors of the program and of the map it writes to, which is laid out as told."""
    path = instance.run / "explain.json"
    try:
        return _open_pinned(instance.directory, path)
    except (FileNotFoundError, json.JSONDecodeError):
        generation = new_generation()
        build = Build(instance.directory, generation, Variant.EXPLAIN)
        try:
            layout = build.result()
        except BaseException:
            build.abandon()
            instance.forget_generation(generation)
            raise
        path.write_text(json.dumps([generation, layout.descriptions]))
        return _open_pinned(instance.directory, path)


def _open_pinned(directory: Path, path: Path) -> tuple[int, int, Layout]:
    generation, descriptions = json.loads(path.read_text())
    program = libbpf.get_pinned(directory / pin_name(EXPLAIN, generation))
    try:
        written = libbpf.get_pinned(directory / pin_name(EXPLANATION, generation))
    except BaseException:
        os.close(program)
        raise
    return program, written, Layout(descriptions)


def hash_settings(maps: Maps, family: int, slot: int | None = None) -> HashSettings:
    """Those in force, or those of an entry of `config`."""
    if slot is None:
        slot = maps["control"].entries[0].config_slot
    config = maps["config"].entries[slot]
    if family == 4:
        return HashSettings(
            config.policy4, config.fields4, config.seed, own_seed=bool(config.own_seed)
        )
    return HashSettings(
        config.policy6,
        config.fields6,
        config.seed,
        bool(config.label_mask),
        bool(config.own_seed),
    )


# --- the Python twin -----------------------------------------------------------------------------


def label_can_be_asked(settings: HashSettings) -> bool:
    """Whether `question` has one for IPv6 packets with a flow label."""
    if settings.policy == 0:
        return settings.follows_label and takes_flow_label()
    return settings.policy == 1


class Twin(NamedTuple):
    """The flow keys of a packet, field by field, and its hash, reckoned in Python."""

    keys: FlowKeys
    hash: int


def twin(packet: bytes, settings: HashSettings) -> Twin | None:
    """None for a packet that is broken."""
    try:
        keys = flow_keys(packet, settings.policy, settings.fields, settings.follows_label)
    except ValueError:
        return None
    return Twin(keys, keys.hash(settings.seed))


# --- Linux's decision ----------------------------------------------------------------------------


def question(decision: Decision) -> Query | str:
    """What to ask Linux so that it has to choose for this very packet; or why that cannot be asked.

    Under each policy the question must give all that it hashes, and Linux must read it from the
    packet as RTM_GETROUTE would take it.
    """
    addresses = decision.addresses
    if addresses is None or not decision.ingress:
        return "not a packet that reached routing"
    family, packet = decision.family, decision.packet
    policy, follows_label = decision.settings.policy, decision.settings.follows_label
    query = Query(*addresses, decision.ingress)
    if not decision.is_multipath:
        return query
    if decision.settings.own_seed:
        return "Linux keeps its hash seed to itself, and chooses by that"
    if decision.is_icmp_error:
        return "Linux cannot be asked where it sends an ICMP error"
    proto = packet[9] if family == 4 else packet[6]
    fragment = family == 4 and int.from_bytes(packet[6:8], "big") & 0x3FFF
    if policy in (2, 3) and proto in _TUNNELS:
        return "Linux cannot be asked about the inside of a tunnel"
    if family == 4 and policy in (0, 2):
        return query
    if fragment:
        return "Linux cannot be asked about fragments"
    if family == 6 and policy == 3:  # rt6_multipath_custom_hash_fl6() against …_skb()
        return "asked without a packet, Linux leaves out a step of IPv6's hash under policy 3"
    if proto not in PROTOCOLS[family]:
        return f"Linux can be asked about TCP, UDP and ICMP only, not about protocol {proto}"
    query = query._replace(proto=proto)
    if policy in (1, 3) and proto in _WITH_PORTS:
        start = (packet[0] & 0xF) * 4 if family == 4 else 40
        ports = packet[start : start + 4].ljust(4, b"\0")
        query = query._replace(
            sport=int.from_bytes(ports[:2], "big"), dport=int.from_bytes(ports[2:], "big")
        )
    label = int.from_bytes(packet[1:4], "big") & 0xFFFFF if family == 6 and policy != 1 else 0
    if not label:
        return query
    if policy == 0 and not follows_label:
        return "xdpecmp ignores the flow label here (attach --flow-label), Linux does not"
    if policy != 0:  # flowi6_get_flowlabel() against ntohl() in the flow dissector
        return "asked without a packet, Linux has the flow label in another byte order"
    if not takes_flow_label():
        return "this kernel cannot be asked about flow labels (Linux 6.14 can)"
    return query._replace(flow_label=label)


class Comparison(NamedTuple):
    """Linux's answer and whether the program's is the same."""

    answer: Answer | None
    agrees: bool | None
    why: str = ""
    """Where `agrees` is None: why not."""


def compare(decision: Decision, chosen: NextHop | None, answer: Answer | str) -> Comparison:
    """`chosen`: what the program chose; `answer`: Linux's, or why there is none."""
    if isinstance(answer, str):
        return Comparison(None, None, answer)
    if chosen is None:
        return Comparison(answer, None, "the program leaves the choice to Linux")
    if answer.nexthop is None:
        if decision.forwards:
            return Comparison(answer, False)
        return Comparison(answer, None, "neither of them forwards it")
    return Comparison(answer, answer.nexthop == chosen)


def in_moved_bucket(decision: Decision, answer: Answer, groups: Mapping[int, NexthopGroup]) -> bool:
    """Whether Linux's other answer for a resilient group is right by its own buckets: then the hash
    is the same, and the bucket is one that Linux has moved while it is in use here."""
    kind, _, count = decision.group
    if kind != GroupKind.RESILIENT or decision.hash is None:
        return False
    return any(
        group.members[group.buckets[decision.hash % count]].nexthop == answer.nexthop
        for group in groups.values()
        if group.resilient and len(group.buckets) == count
    )


def ask(kernel: Kernel, decision: Decision) -> Answer | str:
    """Linux's answer, or why there is none."""
    query = question(decision)
    if isinstance(query, str):
        return query
    try:
        return kernel.route_get(query)
    except KernelRefused as error:
        return f"Linux does not say: {error.message}"


def nexthop_of(maps: Maps, number: int | None, destination: bytes) -> NextHop | None:
    """The next hop of that number as Linux names it: a host on the link has no gateway."""
    if number is None:
        return None
    entry = maps["nexthops"].entries[number]
    via = bytes(entry.via)[: {0: 0, 4: 4, 6: 16}[entry.family]]
    return NextHop(b"" if via == destination else via, entry.ifindex)


# --- all of it -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """Everything about one frame."""

    decision: Decision
    prefix: Prefix | None
    chosen: NextHop | None
    twin: Twin | None
    comparison: Comparison

    @property
    def twin_agrees(self) -> bool | None:
        """Whether Python reckons the same hash; None where one of both has none."""
        if self.decision.hash is None or self.twin is None:
            return None
        return self.twin.hash == self.decision.hash

    @property
    def differs(self) -> bool:
        """Whether there is a contradiction anywhere."""
        return self.comparison.agrees is False or self.twin_agrees is False


def explain(
    explainer: Explainer, maps: Maps, kernel: Kernel, frame: bytes, ifindex: int
) -> Explained:
    """What becomes of a frame that comes in on that device, and why."""
    decision = explainer.decide(frame, ifindex)
    addresses = decision.addresses
    destination = addresses[1] if addresses else b""
    chosen = nexthop_of(maps, decision.nexthop, destination)
    kind, first, _ = decision.group
    looked_up = kind != GroupKind.PASS or first != Reason.FORWARDED
    comparison = compare(decision, chosen, ask(kernel, decision))
    if (
        comparison.agrees is False
        and comparison.answer is not None
        and in_moved_bucket(decision, comparison.answer, kernel.nexthops())
    ):
        why = "Linux has moved this bucket; here it stays while packets use it"
        comparison = Comparison(comparison.answer, None, why)
    return Explained(
        decision=decision,
        prefix=maps.matched(destination) if destination and looked_up else None,
        chosen=chosen,
        twin=twin(decision.packet, decision.settings) if decision.hash is not None else None,
        comparison=comparison,
    )


# --- where it comes in ---------------------------------------------------------------------------


class Ingress(NamedTuple):
    """Where a frame comes in: the device, and what must stand in front of its IP packet."""

    ifindex: int
    mac: bytes
    tags: tuple[tuple[int, int], ...] = ()
    """TPID and VLAN id, the outermost first."""


def ingress_of(links: Mapping[int, Link], attached: Sequence[Link], link: Link) -> Ingress:
    """For frames to that link, a VLAN device too. Raises XdpecmpError where the device that they
    come in on does not run our program."""
    tags: list[tuple[int, int]] = []
    device = link
    while device.kind == "vlan" and device.lower in links:
        tags.insert(0, (device.vlan_protocol, device.vlan_id))
        device = links[device.lower]
    if device not in attached:
        raise XdpecmpError(
            f"xdpecmp is not attached to {device.name}",
            f"name one that it is attached to: {', '.join(each.name for each in attached)}",
        )
    return Ingress(device.ifindex, link.mac, tuple(tags))
