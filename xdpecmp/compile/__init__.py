"""From what the kernel says to what the maps must hold. Pure: values in, values out.

`compile_tables` decides for each prefix what the data path does with it, by the kernel's rules:
which of its routes is in force (`winners`), where it leads (`targets`), who of a group takes which
hashes (`bounds`), whether a next hop can be sent to (`adjacency`). A neighbour on a directly
connected network becomes a host route, as in a hardware FIB. `change` does it for single prefixes
of tables that were compiled before.
"""

from __future__ import annotations

from collections.abc import Collection

from ..model.options import Options
from ..model.prefixes import covers, masked
from ..model.values import Prefix, Snapshot
from ..program.abi import Reason
from . import ownseed
from .adjacency import compile_adjacency
from .config import (
    DEEP_POLICIES,
    SIMPLE_POLICIES,
    compile_config,
    local4_filter,
    needs_walk,
    own_addresses4,
    stop_at_firewall,
)
from .doubts import hiding, passing
from .firewall import Findings, bearing, guarded
from .ingress import compile_ingress
from .stacking import Obstacle, Stacking, Why
from .tables import (
    LAST_BOUND,
    TABLE_DEFAULT,
    TABLE_LOCAL,
    TABLE_MAIN,
    Adjacency,
    Config,
    Dependencies,
    Doubts,
    Group,
    Interface,
    Key,
    MacKey,
    PathEntry,
    Resilient,
    TableChange,
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
    "Dependencies",
    "Doubts",
    "Findings",
    "Group",
    "Interface",
    "Key",
    "MacKey",
    "Obstacle",
    "PathEntry",
    "Resilient",
    "Stacking",
    "TableChange",
    "Tables",
    "Tag",
    "Target",
    "VlanKey",
    "Why",
    "bearing",
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
    doubts: Doubts = Doubts(),  # noqa: B008 (frozen)
) -> Tables:
    """The whole contents of the maps for `attached`, the indexes of our interfaces. `deep`: whether
    the program for the policies that need a walk is there. What is in `doubts` passes."""
    # numpy takes 0.1 s to import, and those who only read the maps get by without
    from ..model.routetable import RouteTable
    from .change import dependencies_of
    from .targets import TargetCompiler, host_routes, is_connected
    from .winners import winners

    table, compiler = RouteTable.of(snapshot.routes), TargetCompiler(snapshot)
    targets = winners(table, compiler.target)
    gateways = {nexthop for nexthop in compiler.nexthops if nexthop.via}
    connected = [prefix for prefix, _ in targets.where(is_connected)]
    hosts = host_routes(snapshot, targets) if connected else {}
    targets.changes.update(hosts)
    learned = {Prefix(address, 8 * len(address)) for address in snapshot.settings.learned}
    targets.changes.update(dict.fromkeys(learned, int(Reason.LEARNED)))
    own = own_addresses4(snapshot)
    targets.changes.update(
        (prefix, int(Reason.ROUTE_LOCAL))
        for prefix in (Prefix(address, 32) for address in own)
        if targets.lookup(prefix) != int(Reason.ROUTE_LOCAL)
    )
    nexthops = compiler.nexthops.union(hosts.values())
    ingress = compile_ingress(snapshot, attached)
    interfaces = ingress.interfaces
    findings = bearing(
        snapshot.filters, snapshot.links, attached, {nexthop.ifindex for nexthop in nexthops}
    )
    watched = frozenset[int]()
    if not options.bypass_firewall:
        watched = guarded(snapshot.filters, snapshot.links)
    adjacencies = {nexthop: compile_adjacency(snapshot, nexthop, watched) for nexthop in nexthops}
    config = ownseed.heed(
        compile_config(snapshot, table, {f: targets.count(f) for f in (4, 6)}, options, deep),
        ownseed.Plan(snapshot, interfaces, adjacencies, compiler.groups, targets, deep),
    )
    if compiler.groups and ownseed.in_force(config):
        interfaces = ownseed.without_redirects(interfaces)
    if not options.bypass_firewall:
        config = stop_at_firewall(config, findings)
    dependencies = dependencies_of(table, connected)
    doubtful = passing(doubts, targets, dependencies)
    targets.changes.update(dict.fromkeys(doubtful, int(Reason.ROUTE_UNSUPPORTED)))
    return Tables(
        config=config,
        interfaces=interfaces,
        vlans=ingress.vlans,
        macs=ingress.macs,
        nexthops=adjacencies,
        gateways=gateways,
        groups=compiler.groups,
        routes=targets,
        dependencies=hiding(dependencies, doubts.covering),
        findings=findings,
        guarded=watched,
    )
