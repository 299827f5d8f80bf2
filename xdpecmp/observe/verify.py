"""Whether the program, the reference model in Python and Linux choose alike: random flows on
multipath routes. The program is asked by its explaining variant (see `explain`).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from typing import NamedTuple

from ..errors import XdpecmpError
from ..model.flow import Flow
from ..model.values import Link, Prefix
from ..netlink import Kernel
from ..program.abi import INDIRECT_INGRESS, INTERFACE_FLAGS, GroupKind, Reason
from ..program.maps import Maps
from .explain import (
    Explained,
    Explainer,
    Ingress,
    Judge,
    explain,
    hash_settings,
    ingress_of,
    label_can_be_asked,
)
from .frames import frame_of

ROUTES_PER_GROUP = 8
"""Of routes that lead to one group so many are tried."""

_TRIES = 16
"""How many random flows to draw for one that the program chooses a path of this route for."""

_CATCH_UP_SECONDS = 0.2
"""So long the agent may take to follow a change before a difference counts."""

_MOST_DIFFERENCES = 5
MOST_SOURCES = 1000
"""So many prefixes of sources are kept to draw from."""


# --- flows ---------------------------------------------------------------------------------------


class Entrance(NamedTuple):
    """An interface by which a flow may come in."""

    ingress: Ingress
    flags: int
    """INTERFACE_*."""
    sources: Sequence[Prefix]
    """What to take IPv4 sources from, since its reverse-path check lets others not pass; empty
    if there is no such check."""

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
    """The routes to try: that one alone, or some of each group. Raises XdpecmpError if the one
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
            MOST_SOURCES,
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
        """Asks Linux again where it seems to differ."""

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
            frame = frame_of(flow, entrance.ingress.mac, entrance.ingress.tags)
            explained = self._explain(frame, entrance)
            if explained.decision.group == route.group and explained.chosen is not None:
                break
        return entrance, frame, explained

    def _explain(self, frame: bytes, entrance: Entrance) -> Explained:
        ifindex = entrance.ingress.ifindex
        return explain(self._explainer, self._maps, self._kernel, frame, ifindex, self.judge)
