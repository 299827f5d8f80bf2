"""What passes to Linux since its routes are not known until a dump tells."""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import TYPE_CHECKING

from ..model.prefixes import Networks
from ..model.values import Prefix
from .tables import Dependencies, Doubts, Target

if TYPE_CHECKING:
    from ..model.packed import Layered


def passing(doubts: Doubts, targets: Layered[Target], dependencies: Dependencies) -> Set[Prefix]:
    """The prefixes that pass: those in doubt, and all that is within directly connected networks
    and covering prefixes among them."""
    if not doubts.prefixes:
        return frozenset()
    connected = dependencies.connected
    networks = {p for p in doubts.prefixes if p.address in connected.get((p.family, p.length), ())}
    return doubts.prefixes | targets.under(networks | doubts.covering)


def hiding(dependencies: Dependencies, prefixes: Collection[Prefix]) -> Dependencies:
    """With these too among the prefixes of which all that is within may be hidden."""
    if not prefixes:
        return dependencies
    hidden: Networks = {key: set(known) for key, known in dependencies.hidden.items()}
    for prefix in prefixes:
        hidden.setdefault((prefix.family, prefix.length), set()).add(prefix.address)
    return dependencies._replace(hidden=hidden)
