"""Which route of a prefix is in force. The rules are the kernel's:

- IPv4: main and local share one trie, so that the longest prefix wins whatever its table, until a
  policy rule other than the default ones is added, and for good then; so what a wide local prefix
  covers Linux decides. `default` is asked only if they have nothing (fib_lookup() in
  include/net/ip_fib.h, fib_trie.c). IPv6: the whole local table comes before main
  (fib6_rule_lookup() in net/ipv6/ip6_fib.c).
- Of equal prefixes the lowest metric wins that has a living path; a prefix without any is as if
  it weren't there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..model.packed import Layered
from ..model.routetable import Candidates, RouteTable
from ..model.values import Prefix, Route, RouteKind
from ..program.abi import Reason
from .tables import TABLE_DEFAULT, TABLE_LOCAL, Target

_LOOPBACK = Prefix(bytes([127, 0, 0, 0]), 8)

TargetOf = Callable[[Route], Target | None]
"""What a route alone leads to; None: it has no living path."""


def winners(table: RouteTable, target_of: TargetOf) -> Layered[Target]:
    """For each prefix the target of the route that the kernel would find for it."""
    routes = table.by_prefix
    targets: Layered[Target] = Layered(
        routes.base,
        [
            None if candidates is None else winner(candidates, target_of)
            for candidates in routes.meanings
        ],
        {
            prefix: None if candidates is None else winner(candidates, target_of)
            for prefix, candidates in routes.changes.items()
        },
    )
    _drop_shadowed(targets, table)
    _add_fallback4(targets, table, target_of)
    return targets


def winner(candidates: Candidates, target_of: TargetOf) -> Target | None:
    """That of the first of one prefix's routes, in the kernel's order, that has a living path. The
    table `default` comes later."""
    return _winner([route for route in candidates if route.table != TABLE_DEFAULT], target_of)


def _winner(candidates: list[Route], target_of: TargetOf) -> Target | None:
    if len(candidates) == 1:
        return target_of(candidates[0])
    if any(route.selective for route in candidates):
        return int(Reason.ROUTE_UNSUPPORTED)
    ordered = sorted(candidates, key=lambda route: (-route.table, route.metric))
    living = [route for route in ordered if target_of(route) is not None]
    if not living:
        return None
    first, second = living[0], living[1] if len(living) > 1 else None
    if (
        second is not None
        and first.prefix.family == 6
        and first.kind is RouteKind.UNICAST
        and (first.table, first.metric) == (second.table, second.metric)
    ):
        return int(Reason.ROUTE_UNSUPPORTED)  # the kernel takes turns between them
    return target_of(first)


def wide_local(table: RouteTable) -> Iterable[Prefix]:
    """Prefixes of more than one address in table local, whatever their routes' kind."""
    return {
        route.prefix
        for route in table.where(lambda route: route.table == TABLE_LOCAL)
        if route.prefix.length < len(route.prefix.address) * 8
        and route.prefix != _LOOPBACK  # whose packets are refused before any route is asked
    }


def _drop_shadowed(targets: Layered[Target], table: RouteTable) -> None:
    """What a wide prefix of table local covers passes to Linux. For IPv6 it goes by that prefix,
    as long as that has a living path; for IPv4 too once there has ever been another policy rule,
    which cannot be read."""
    wide = wide_local(table)
    if not wide:
        return
    local = {route.prefix for route in table.where(lambda route: route.table == TABLE_LOCAL)}
    for shadow in wide:
        ours = targets.lookup(shadow) == int(Reason.ROUTE_LOCAL)
        for prefix in [p for p in targets.under([shadow]) if p not in local]:
            targets.changes[prefix] = None if ours else int(Reason.ROUTE_UNSUPPORTED)


def _add_fallback4(targets: Layered[Target], table: RouteTable, target_of: TargetOf) -> None:
    """Table `default` is asked for what main and local do not cover at all."""
    by_prefix: dict[Prefix, list[Route]] = {}
    for route in table.where(lambda r: r.table == TABLE_DEFAULT and r.prefix.family == 4):
        by_prefix.setdefault(route.prefix, []).append(route)
    found: dict[Prefix, Target | None] = {}
    for prefix, candidates in by_prefix.items():
        target = _winner(candidates, target_of)
        if target is not None and targets.longest([prefix.address], prefix.length) == [None]:
            found[prefix] = target
    targets.changes.update(found)
