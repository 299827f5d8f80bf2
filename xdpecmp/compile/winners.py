"""Which route of a prefix is in force. The rules are the kernel's:

- IPv4: main and local share one trie, so that the longest prefix wins whatever its table, until a
  policy rule other than the default ones is added, and for good then; so what a wide local prefix
  covers is for Linux to say. `default` is asked only where they have nothing (fib_lookup() in
  include/net/ip_fib.h, fib_trie.c). IPv6: the whole local table comes before main
  (fib6_rule_lookup() in net/ipv6/ip6_fib.c).
- Of equal prefixes the lowest metric wins that has a living path; a prefix without any is as if
  it weren't there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..abi import Reason
from ..model import Prefix, Route, RouteKind
from .prefixes import covers, lengths_in_use, longest_match
from .tables import TABLE_DEFAULT, TABLE_LOCAL, Target

_LOOPBACK = Prefix(bytes([127, 0, 0, 0]), 8)


def winners(
    routes: Iterable[Route], target_of: Callable[[Route], Target | None]
) -> dict[Prefix, Target]:
    """For each prefix the target of the route that the kernel would find for it."""
    candidates: dict[Prefix, list[Route]] = {}
    fallback: list[Route] = []
    for route in routes:
        if route.table == TABLE_DEFAULT:
            fallback.append(route)
        else:
            candidates.setdefault(route.prefix, []).append(route)
    targets: dict[Prefix, Target] = {}
    for prefix, rivals in candidates.items():
        target = _winner(rivals, target_of)
        if target is not None:
            targets[prefix] = target
    _drop_shadowed(targets, routes)
    _add_fallback4(targets, fallback, target_of)
    return targets


def _winner(rivals: list[Route], target_of: Callable[[Route], Target | None]) -> Target | None:
    """The first of one prefix's routes, in the kernel's order, that has a living path."""
    if len(rivals) == 1:
        return target_of(rivals[0])
    if any(route.tos for route in rivals):
        return int(Reason.ROUTE_UNSUPPORTED)
    ordered = sorted(rivals, key=lambda route: (-route.table, route.metric))
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


def _drop_shadowed(targets: dict[Prefix, Target], routes: Iterable[Route]) -> None:
    """What a wide local prefix covers goes by that prefix, and so passes to Linux. For IPv6 that is
    the rule; for IPv4 too once there has ever been another policy rule, which nobody can ask."""
    wide = {
        route.prefix
        for route in routes
        if route.table == TABLE_LOCAL
        and route.kind is RouteKind.LOCAL
        and route.prefix.length < len(route.prefix.address) * 8
        and route.prefix != _LOOPBACK  # whose packets are refused before any route is asked
    }
    if not wide:
        return
    local = {route.prefix for route in routes if route.table == TABLE_LOCAL}
    for prefix in [p for p in targets if p not in local]:
        if any(covers(shadow, prefix) for shadow in wide):
            del targets[prefix]


def _add_fallback4(
    targets: dict[Prefix, Target],
    fallback: Iterable[Route],
    target_of: Callable[[Route], Target | None],
) -> None:
    """Table `default` is asked for what main and local do not cover at all."""
    by_prefix: dict[Prefix, list[Route]] = {}
    for route in fallback:
        if route.prefix.family == 4:
            by_prefix.setdefault(route.prefix, []).append(route)
    lengths = lengths_in_use(targets)[4] if by_prefix else []
    for prefix, rivals in by_prefix.items():
        target = _winner(rivals, target_of)
        shorter = [length for length in lengths if length <= prefix.length]
        if target is not None and longest_match(targets, prefix.address, shorter) is None:
            targets[prefix] = target
