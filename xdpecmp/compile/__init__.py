"""From what the kernel says to what the maps must hold. Pure: values in, values out.

`compile_tables` decides for each prefix what the data path does with it, by the kernel's rules:
which of its routes is in force (`winners`), where it leads (`routes`), who of a group takes which
hashes (`groups`), whether a next hop can be sent to (`adjacency`). A neighbour on a directly
connected network becomes a host route, as in a hardware FIB.
"""

from __future__ import annotations

from collections.abc import Collection

from ..model import Snapshot
from .adjacency import compile_adjacency
from .config import DEEP_POLICIES, SIMPLE_POLICIES, compile_config, local4_filter, needs_walk
from .ingress import compile_interfaces, compile_vlans
from .prefixes import covers, longest_match, masked
from .routes import Routes
from .tables import (
    LAST_BOUND,
    TABLE_DEFAULT,
    TABLE_LOCAL,
    TABLE_MAIN,
    Adjacency,
    Config,
    Group,
    Interface,
    PathEntry,
    Resilient,
    Tables,
    Tag,
    Target,
    VlanKey,
)
from .tags import tag_stack

__all__ = [
    "DEEP_POLICIES",
    "LAST_BOUND",
    "SIMPLE_POLICIES",
    "TABLE_DEFAULT",
    "TABLE_LOCAL",
    "TABLE_MAIN",
    "Adjacency",
    "Config",
    "Group",
    "Interface",
    "PathEntry",
    "Resilient",
    "Tables",
    "Tag",
    "Target",
    "VlanKey",
    "compile_tables",
    "covers",
    "local4_filter",
    "longest_match",
    "masked",
    "needs_walk",
    "tag_stack",
]


def compile_tables(snapshot: Snapshot, attached: Collection[int], deep: bool = True) -> Tables:
    """The whole contents of the maps for `attached`, the indexes of our interfaces. `deep`: whether
    the program for the policies that need a walk is there."""
    routes = Routes(snapshot)
    return Tables(
        config=compile_config(snapshot, routes.targets, deep),
        interfaces=compile_interfaces(snapshot, attached),
        vlans=compile_vlans(snapshot.links, attached),
        nexthops={nexthop: compile_adjacency(snapshot, nexthop) for nexthop in routes.nexthops},
        gateways=routes.gateways,
        groups=routes.groups,
        routes=routes.targets,
    )
