"""Whether the reference model in Python and Linux choose alike, tried with a few random flows.

The check that `attach` and `doctor` make: it asks neither the program nor its maps, so nothing has
to be built, and takes milliseconds. The kernel promises no stability of its hash.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

from ..compile import Resilient, Tables
from ..errors import XdpecmpError
from ..hashing import select
from ..model.flow import Flow
from ..model.hashkey import HashKey, Origin
from ..model.values import NextHop, Prefix
from ..netlink import Kernel
from ..program.abi import GroupKind, Reason
from .explain import Comparison, Decision, HashSettings, Judge, ask, label_can_be_asked, reference
from .frames import packet_of
from .scratch import Trial, try_packets
from .verify import MOST_SOURCES, random_flow

_MOST_ROUTES = 8
_FLOWS_EACH = 16


def disagreeing_route(kernel: Kernel, tables: Tables, ifindexes: Iterable[int]) -> Prefix | None:
    """As `first_disagreement`, of flows that come in by any of these interfaces. An interface that
    has just gone is no disagreement."""
    with suppress(XdpecmpError):
        for ifindex in sorted(ifindexes):
            prefix = first_disagreement(kernel, tables, ifindex)
            if prefix is not None:
                return prefix
    return None


def first_disagreement(
    kernel: Kernel, tables: Tables, ifindex: int, rng: random.Random | None = None
) -> Prefix | None:
    """A route for which Linux chooses otherwise than we compute, None if there is none among a few.

    `ifindex`: the interface that flows come in by.
    """
    rng = rng or random.Random()
    rp_filter, ifindex = tables.interfaces[ifindex].rp_filter, tables.interfaces[ifindex].logical
    sources = list(islice(_single_routes(tables, ifindex), MOST_SOURCES)) if rp_filter else []
    with_label = label_can_be_asked(_settings(tables, 6))
    for prefix in islice(_threshold_routes(tables), _MOST_ROUTES):
        for _ in range(_FLOWS_EACH):
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
    return HashSettings(policy, fields, config.key or HashKey(0, 0, Origin.NONE))


def _agree(kernel: Kernel, tables: Tables, prefix: Prefix, flow: Flow, ifindex: int) -> bool:
    """Whether they choose alike; True if one of both has no answer."""
    group = tables.groups[tables.routes[prefix]]  # type: ignore[index]
    settings = _settings(tables, flow.family)
    packet = packet_of(flow)
    expected = reference(packet, settings)
    if isinstance(group, Resilient) or not group or expected is None:
        return True
    decision = Decision(
        reason=Reason.FORWARDED,
        family=flow.family,
        ingress=ifindex,
        packet=packet,
        hash=expected.hash,
        nexthop=None,
        group=(GroupKind.THRESHOLD, 0, len(group)),
        is_icmp_error=False,
        quote_offset=0,
        settings=settings,
    )
    answer = ask(kernel, decision)
    if isinstance(answer, str) or answer.nexthop is None:
        return True
    chosen = group[select([entry.bound for entry in group], expected.hash)].nexthop
    comparison = Comparison(answer, answer.nexthop == chosen)
    return Judge(kernel).judge(decision, chosen, comparison).agrees is not False


def trial_of(tables: Tables, prefix: Prefix) -> Trial | None:
    """Whether this kernel sends real packets by the next hops that we compute, with the settings
    and weights of a route: see `scratch`."""
    group = tables.groups.get(tables.routes[prefix])  # type: ignore[arg-type]
    paths = () if group is None or isinstance(group, Resilient) else group
    weights = [entry.weight for entry in paths if entry.weight]
    return try_packets(prefix.family, _settings(tables, prefix.family), weights)
