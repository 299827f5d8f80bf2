"""From what the kernel says to what the maps must hold. Pure: values in, values out.

`compile_tables` decides for each prefix what the data path does with it, by the kernel's rules:
which of its routes is in force (`winners`), where it leads (`routes`), who of a group takes which
hashes (`groups`), whether a next hop can be sent to (`adjacency`). A neighbour on a directly
connected network becomes a host route, as in a hardware FIB. `change` does it for single prefixes
of tables that were compiled before.
"""

from __future__ import annotations

from collections.abc import Collection

from ..abi import Reason
from ..model import Prefix, Snapshot
from ..options import Options
from ..prefixes import covers, masked
from . import ownseed
from .adjacency import compile_adjacency
from .config import DEEP_POLICIES, SIMPLE_POLICIES, compile_config, local4_filter, needs_walk
from .ingress import compile_interfaces, compile_vlans
from .tables import (
    LAST_BOUND,
    TABLE_DEFAULT,
    TABLE_LOCAL,
    TABLE_MAIN,
    Adjacency,
    Change,
    Config,
    Group,
    Interface,
    Key,
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
    "Change",
    "Config",
    "Group",
    "Interface",
    "Key",
    "PathEntry",
    "Resilient",
    "Tables",
    "Tag",
    "Target",
    "VlanKey",
    "compile_tables",
    "covers",
    "local4_filter",
    "masked",
    "needs_walk",
    "tag_stack",
]


def compile_tables(
    snapshot: Snapshot,
    attached: Collection[int],
    options: Options = Options(),  # noqa: B008 (frozen)
    deep: bool = True,
) -> Tables:
    """The whole contents of the maps for `attached`, the indexes of our interfaces. `deep`: whether
    the program for the policies that need a walk is there."""
    # numpy takes 0.1 s to import, and those who only read the maps get by without
    from ..routetable import RouteTable
    from .change import entangled
    from .routes import Resolver, host_routes, is_connected
    from .winners import winners

    table, resolver = RouteTable.of(snapshot.routes), Resolver(snapshot)
    targets = winners(table, resolver.target)
    gateways = {nexthop for nexthop in resolver.nexthops if nexthop.via}
    connected = [prefix for prefix, _ in targets.where(is_connected)]
    hosts = host_routes(snapshot, targets) if connected else {}
    targets.changes.update(hosts)
    learned = {Prefix(address, 8 * len(address)) for address in snapshot.settings.learned}
    targets.changes.update(dict.fromkeys(learned, int(Reason.LEARNED)))
    nexthops = resolver.nexthops.union(hosts.values())
    interfaces = compile_interfaces(snapshot, attached)
    adjacencies = {nexthop: compile_adjacency(snapshot, nexthop) for nexthop in nexthops}
    config = ownseed.heed(
        compile_config(snapshot, table, {f: targets.count(f) for f in (4, 6)}, options, deep),
        ownseed.Plan(snapshot, interfaces, adjacencies, resolver.groups, targets, deep),
    )
    if resolver.groups and ownseed.in_force(config):
        interfaces = ownseed.without_redirects(interfaces)
    return Tables(
        config=config,
        interfaces=interfaces,
        vlans=compile_vlans(snapshot.links, attached),
        nexthops=adjacencies,
        gateways=gateways,
        groups=resolver.groups,
        routes=targets,
        entangled=entangled(table, connected),
    )
