"""Who looks after a route or a nexthop group, and how its weights are changed there.

Whoever installed it says so by a number, RTPROT_*: of the route, or of the group if that has the
weights. What ip(8) makes belongs to nobody. What systemd-networkd is told to make has the number of
such routes, so its devices are what gives it away.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..netlink.rtnetlink import Protocol

HANDMADE = frozenset({Protocol.UNSPEC, Protocol.KERNEL, Protocol.BOOT, Protocol.STATIC})
"""Nobody looks after these, networkd perhaps apart."""
PROTOCOL_NAMES = {each.value: each.name.lower() for each in Protocol if each not in HANDMADE}
_OF_FRR = frozenset({Protocol.ZEBRA, *range(Protocol.BGP, Protocol.SRTE + 1)})


@dataclass(frozen=True, slots=True)
class WeightedHop:
    """A next hop and the weight that it is to have, in words."""

    via: str
    """"" if there is none."""
    dev: str
    weight: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Who it is."""

    name: str
    undoes: str
    """What becomes of a change made elsewhere."""
    advice: str
    """How the weights are changed there."""


def protocol_name(protocol: int) -> str:
    return PROTOCOL_NAMES.get(protocol, str(protocol))


def owner_of(
    protocol: int,
    route_protocol: int,
    prefix: str,
    hops: Sequence[WeightedHop],
    networkd: Collection[str] = (),
    group: int = 0,
) -> Owner | None:
    """None: nobody. `protocol` is that of what holds the weights, `route_protocol` the route's;
    `networkd`: devices that systemd-networkd configures; `group`: the nexthop group's id, if one
    holds the weights."""
    if protocol == Protocol.STATIC and any(hop.dev in networkd for hop in hops):
        return _networkd(hops, group)
    if protocol in HANDMADE:
        return None
    if protocol in _OF_FRR:
        return _frr(route_protocol if protocol == Protocol.ZEBRA else protocol, hops)
    if protocol == Protocol.BIRD:
        vias = " ".join(f"via {_bird_hop(hop)} weight {hop.weight}" for hop in hops)
        return Owner(
            "BIRD",
            "which writes its own again when it next scans the kernel's table",
            f"in bird.conf, in a static protocol: route {prefix} {vias}; then: birdc configure "
            "(for routes that it learned: weight in the import filter)",
        )
    if protocol == Protocol.KEEPALIVED:
        words = " ".join(f"nexthop via {hop.via} dev {hop.dev} weight {hop.weight}" for hop in hops)
        return Owner(
            "keepalived",
            "which writes its own again with the next change of state",
            f"in keepalived.conf, in virtual_routes: {prefix} {words}; then: systemctl reload "
            "keepalived",
        )
    if protocol == Protocol.DHCP:
        return Owner(
            "the DHCP client",
            "which may write its own again when the lease is renewed",
            "DHCP knows no weights: they need a route of your own, with a lower metric",
        )
    if protocol == Protocol.RA:
        return Owner(
            "router advertisements",
            "the next of which may bring back the old weights",
            "these know no weights: they need a route of your own, with a lower metric",
        )
    name = protocol_name(protocol)
    who = name if not name.isdecimal() else f"whoever installs routes with protocol {name}"
    return Owner(who, "which may undo a change made elsewhere", "change the weights there")


def _frr(protocol: int, hops: Sequence[WeightedHop]) -> Owner:
    if protocol == Protocol.BGP:
        weights = ", ".join(f"{hop.weight} for {hop.via or hop.dev}" for hop in hops)
        advice = (
            "in vtysh, in the route-map that each neighbour has inbound: set extcommunity "
            f"bandwidth N, in these proportions: {weights}"
        )
    elif protocol in (Protocol.SHARP, Protocol.PBR):
        words = ", ".join(f"nexthop {hop.via} {hop.dev} weight {hop.weight}" for hop in hops)
        advice = f"in vtysh, in the nexthop-group: {words}"
    elif protocol in (Protocol.ZEBRA, Protocol.ZSTATIC):
        advice = (
            "FRR's static routes know no weights: take it out of FRR (vtysh: no ip route ...) and "
            "make it with ip route, or learn it by BGP with link bandwidth"
        )
    else:
        advice = (
            f"{protocol_name(protocol)} knows no weights in FRR: BGP with link bandwidth does "
            "(vtysh: set extcommunity bandwidth)"
        )
    return Owner("FRR's zebra", "which undoes changes made elsewhere at once", advice)


def _bird_hop(hop: WeightedHop) -> str:
    if not hop.via:
        return f'"{hop.dev}"'
    return f"{hop.via}%{hop.dev}" if hop.via.startswith("fe80:") else hop.via


def _networkd(hops: Sequence[WeightedHop], group: int) -> Owner:
    if group:
        advice = f"in the [NextHop] section with Id={group}: Group=ID:WEIGHT for each member"
    else:
        words = "; ".join(f"MultiPathRoute={hop.via}@{hop.dev} {hop.weight}" for hop in hops)
        advice = f"in its .network file, in [Route]: {words}"
    return Owner(
        "systemd-networkd",
        "which writes its own again when it next configures the device",
        f"{advice}; then: networkctl reload",
    )
