"""Whether the program, the Python twin and Linux choose alike: random flows on multipath routes.

`verify` asks all three, the program by its own explaining variant (see `explain`).
`first_disagreement` asks Python and Linux alone, which takes milliseconds and nothing built: the
check that `attach` makes.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from ..compile import Resilient, Tables
from ..errors import XdpecmpError
from ..hashing import select
from ..model.values import Link, NextHop, Prefix
from ..netlink import Kernel
from ..program.abi import INDIRECT_INGRESS, INTERFACE_FLAGS, GroupKind, Reason
from ..program.maps import Maps
from .explain import (
    Comparison,
    Decision,
    Explained,
    Explainer,
    HashSettings,
    Ingress,
    Judge,
    ask,
    explain,
    hash_settings,
    ingress_of,
    label_can_be_asked,
    twin,
)
from .frames import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Flow
from .scratch import Trial, try_packets

ROUTES_PER_GROUP = 8
"""Of routes that lead to one group so many are tried."""

_TRIES = 16
"""How many random flows to draw for one that the program chooses a path of this route for."""

_CATCH_UP_SECONDS = 0.2
"""So long the agent may take to follow a change before a difference counts."""

_MOST_DIFFERENCES = 5
_MOST_SOURCES = 1000


# --- flows ---------------------------------------------------------------------------------------


class Entrance(NamedTuple):
    """An interface by which a flow may come in."""

    ingress: Ingress
    flags: int
    """INTERFACE_*."""
    sources: Sequence[Prefix]
    """What to take IPv4 sources from, since its reverse-path check lets others not pass; empty
    where there is no such check."""

    def takes(self, family: int) -> bool:
        return bool(self.flags & INTERFACE_FLAGS[f"FORWARD{family}"])


def random_flow(
    rng: random.Random, prefix: Prefix, sources: Sequence[Prefix], with_label: bool
) -> Flow:
    """A flow to that prefix, of the protocols that Linux can be asked about."""
    # wide ranges without any address that is refused as a source: 32/3 and 2000::/3
    everywhere = Prefix(b"\x20" + bytes(3 if prefix.family == 4 else 15), 3)
    pool = sources if prefix.family == 4 and sources else [everywhere]
    icmp = IPPROTO_ICMP if prefix.family == 4 else IPPROTO_ICMPV6
    proto = rng.choice((IPPROTO_TCP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDP, icmp))
    has_ports = proto != icmp
    return Flow(
        source=_random_address(rng, rng.choice(pool)),
        destination=_random_address(rng, prefix),
        proto=proto,
        sport=rng.randrange(1, 1 << 16) if has_ports else 0,
        dport=rng.randrange(1, 1 << 16) if has_ports else 0,
        flow_label=rng.randrange(1 << 20) if with_label and prefix.family == 6 else 0,
    )


def _random_address(rng: random.Random, prefix: Prefix) -> bytes:
    size = len(prefix.address)
    host = rng.getrandbits(size * 8) & ((1 << (size * 8 - prefix.length)) - 1)
    return (int.from_bytes(prefix.address, "big") & ~host | host).to_bytes(size, "big")


# --- all three -----------------------------------------------------------------------------------


class MultipathRoute(NamedTuple):
    """A route to try."""

    prefix: Prefix
    group: tuple[int, int, int]
    """GroupKind, first, count."""


@dataclass
class Result:
    """What came out for one route."""

    prefix: Prefix
    agreed: int = 0
    """Flows that all three agree on."""
    differed: int = 0
    without_linux: Counter[str] = field(default_factory=Counter)
    """Flows that the program and Python agree on and Linux cannot be asked about, by the reason."""
    no_choice: Counter[str] = field(default_factory=Counter)
    """Flows that the program left to Linux, by the reason."""
    differences: list[Explained] = field(default_factory=list)
    """The first ones."""


def multipath_routes(maps: Maps, rng: random.Random, only: Prefix | None) -> list[MultipathRoute]:
    """The routes to try: that one alone, or some of each group. Raises XdpecmpError where the one
    is not there or is no multipath route."""
    by_group: dict[int, list[Prefix]] = {}
    groups = maps["groups"].entries
    for name in ("routes4", "routes6"):
        for key, number in maps.items(name):
            prefix = Prefix(bytes(key)[4:], key.prefixlen)
            kind = groups[number].kind
            if kind in (GroupKind.THRESHOLD, GroupKind.RESILIENT) and only in (None, prefix):
                by_group.setdefault(number, []).append(prefix)
    if only is not None and not by_group:
        raise XdpecmpError(
            f"{only} is no multipath route in the data path", "list them: xdpecmp routes"
        )
    routes = []
    for number, prefixes in sorted(by_group.items()):
        group = (groups[number].kind, groups[number].first, groups[number].count)
        for prefix in rng.sample(sorted(prefixes), min(len(prefixes), ROUTES_PER_GROUP)):
            routes.append(MultipathRoute(prefix, group))
    return routes


def entrances(maps: Maps, links: Mapping[int, Link], attached: Sequence[Link]) -> list[Entrance]:
    """All interfaces that packets may come in by, VLAN devices too."""
    found = []
    for link in links.values():
        entry = maps["interfaces"].entries[link.ifindex % maps["interfaces"].count]
        if entry.ifindex & ~INDIRECT_INGRESS != link.ifindex:
            continue
        try:
            ingress = ingress_of(links, attached, link)
        except XdpecmpError:
            continue
        sources = _sources_by(maps, entry.logical) if entry.rp_filter else []
        found.append(Entrance(ingress, entry.flags, sources))
    return found


def _sources_by(maps: Maps, ifindex: int) -> list[Prefix]:
    """IPv4 prefixes whose single next hop is on that interface."""
    groups, nexthops = maps["groups"].entries, maps["nexthops"].entries
    return list(
        islice(
            (
                Prefix(bytes(key)[4:], key.prefixlen)
                for key, number in maps.items("routes4")
                if groups[number].kind == GroupKind.SINGLE
                and nexthops[groups[number].first].ifindex == ifindex
            ),
            _MOST_SOURCES,
        )
    )


class Verifier:
    """Asks the program, Python and Linux about random flows."""

    def __init__(
        self,
        explainer: Explainer,
        maps: Maps,
        kernel: Kernel,
        entrances: Sequence[Entrance],
        rng: random.Random,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._explainer = explainer
        self._maps = maps
        self._kernel = kernel
        self._entrances = entrances
        self._rng = rng
        self._wait = wait
        self.judge = Judge(kernel)
        """Whom Linux is asked by again where it seems to differ."""

    def run(
        self, routes: Iterable[MultipathRoute], flows: int, done: Callable[[int], object]
    ) -> Iterator[Result]:
        """`flows` on each route; `done` is told as they come."""
        for route in routes:
            result = Result(route.prefix)
            for _ in range(flows):
                self._try(route, result)
                done(1)
            yield result

    def _try(self, route: MultipathRoute, result: Result) -> None:
        usable = [each for each in self._entrances if each.takes(route.prefix.family)]
        if not usable:
            result.no_choice[Reason.FORWARDING_OFF.name] += 1
            return
        entrance, frame, explained = self._draw(route, usable)
        if explained.differs:
            if not result.differed:
                self._wait(_CATCH_UP_SECONDS)
            explained = self._explain(frame, entrance)
        if explained.differs:
            result.differed += 1
            if len(result.differences) < _MOST_DIFFERENCES:
                result.differences.append(explained)
        elif explained.chosen is None:
            result.no_choice[explained.decision.reason.name] += 1
        elif explained.comparison.agrees is None:
            result.without_linux[explained.comparison.why] += 1
        else:
            result.agreed += 1

    def _draw(
        self, route: MultipathRoute, usable: Sequence[Entrance]
    ) -> tuple[Entrance, bytes, Explained]:
        """A flow that this route gets and that the program chooses a path for, if need be after
        several tries."""
        for _ in range(_TRIES):
            entrance = self._rng.choice(usable)
            with_label = label_can_be_asked(hash_settings(self._maps, 6))
            flow = random_flow(self._rng, route.prefix, entrance.sources, with_label)
            frame = flow.frame(entrance.ingress.mac, entrance.ingress.tags)
            explained = self._explain(frame, entrance)
            if explained.decision.group == route.group and explained.chosen is not None:
                break
        return entrance, frame, explained

    def _explain(self, frame: bytes, entrance: Entrance) -> Explained:
        ifindex = entrance.ingress.ifindex
        return explain(self._explainer, self._maps, self._kernel, frame, ifindex, self.judge)


# --- Python and Linux alone ----------------------------------------------------------------------

_QUICK_ROUTES = 8
_QUICK_FLOWS = 16


def first_disagreement(
    kernel: Kernel, tables: Tables, ifindex: int, rng: random.Random | None = None
) -> Prefix | None:
    """A route for which Linux chooses otherwise than we reckon, None if there is none among a few.

    `ifindex`: the interface that flows come in by.
    """
    rng = rng or random.Random()
    rp_filter, ifindex = tables.interfaces[ifindex].rp_filter, tables.interfaces[ifindex].logical
    sources = list(islice(_single_routes(tables, ifindex), _MOST_SOURCES)) if rp_filter else []
    with_label = label_can_be_asked(_settings(tables, 6))
    for prefix in islice(_threshold_routes(tables), _QUICK_ROUTES):
        for _ in range(_QUICK_FLOWS):
            flow = random_flow(rng, prefix, sources, with_label)
            if not _has_longer(tables, prefix, flow.destination) and not _agree(
                kernel, tables, prefix, flow, ifindex
            ):
                return prefix
    return None


def _threshold_routes(tables: Tables) -> Iterator[Prefix]:
    config = tables.config
    passed = {4: config.pass4 or config.pass_multipath4, 6: config.pass6 or config.pass_multipath6}
    for prefix, _ in tables.targets.where(
        lambda target: (
            isinstance(target, tuple)
            and target in tables.groups
            and not isinstance(tables.groups[target], Resilient)
        ),
        [family for family in (4, 6) if not passed[family]],
    ):
        yield prefix


def _single_routes(tables: Tables, ifindex: int) -> Iterator[Prefix]:
    for prefix, _ in tables.targets.where(
        lambda target: isinstance(target, NextHop) and target.ifindex == ifindex, [4]
    ):
        yield prefix


def _has_longer(tables: Tables, prefix: Prefix, address: bytes) -> bool:
    """Whether a longer prefix than this one takes the address."""
    bits = len(address) * 8
    number = int.from_bytes(address, "big")
    for length in range(prefix.length + 1, bits + 1):
        kept = number >> (bits - length) << (bits - length)
        if Prefix(kept.to_bytes(len(address), "big"), length) in tables.routes:
            return True
    return False


def _settings(tables: Tables, family: int) -> HashSettings:
    config = tables.config
    policy, fields = (
        (config.policy4, config.fields4) if family == 4 else (config.policy6, config.fields6)
    )
    return HashSettings(policy, fields, config.seed or 0, own_seed=config.own_seed)


def _agree(kernel: Kernel, tables: Tables, prefix: Prefix, flow: Flow, ifindex: int) -> bool:
    """Also where one of both has no answer."""
    group = tables.groups[tables.routes[prefix]]  # type: ignore[index]
    settings = _settings(tables, flow.family)
    reckoned = twin(flow.packet(), settings)
    if isinstance(group, Resilient) or not group or reckoned is None:
        return True
    decision = Decision(
        reason=Reason.FORWARDED,
        family=flow.family,
        ingress=ifindex,
        packet=flow.packet(),
        hash=reckoned.hash,
        nexthop=None,
        group=(GroupKind.THRESHOLD, 0, len(group)),
        is_icmp_error=False,
        quote_offset=0,
        settings=settings,
    )
    answer = ask(kernel, decision)
    if isinstance(answer, str) or answer.nexthop is None:
        return True
    chosen = group[select([entry.bound for entry in group], reckoned.hash)].nexthop
    comparison = Comparison(answer, answer.nexthop == chosen)
    return Judge(kernel).judge(decision, chosen, comparison).agrees is not False


def trial_of(tables: Tables, prefix: Prefix) -> Trial | None:
    """Whether this kernel sends real packets where we compute that it does, with the settings and
    weights of a route: see `scratch`."""
    group = tables.groups.get(tables.routes[prefix])  # type: ignore[arg-type]
    paths = () if group is None or isinstance(group, Resilient) else group
    weights = [entry.weight for entry in paths if entry.weight]
    return try_packets(prefix.family, _settings(tables, prefix.family), weights)
