"""Where packets come in: the maps `interfaces` and `vlans`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ..abi import INTERFACE_FLAGS
from ..model import InterfaceSettings, Link, RouteKind, Snapshot
from .stacking import Stacking
from .tables import TABLE_LOCAL, Interface, VlanKey
from .tags import tag_stack

if TYPE_CHECKING:
    from ..routetable import RouteTable


def compile_vlans(links: Mapping[int, Link], attached: Collection[int]) -> dict[VlanKey, int]:
    """The VLAN devices over our interfaces, one tag or two, by the tags that lead to them."""
    return {key: ifindex for key, ifindex, _ in _vlans(links, Stacking(links), attached)}


def _vlans(
    links: Mapping[int, Link], stacking: Stacking, attached: Collection[int]
) -> list[tuple[VlanKey, int, Link]]:
    """VLAN devices, with the interface that their frames come in by: of a bond each of its links,
    as far as all of them treat frames alike."""
    by_base: dict[int, list[Link]] = defaultdict(list)
    for link in (links[ifindex] for ifindex in attached if ifindex in links):
        if stacking.blind(link):
            continue
        by_base[link.ifindex].append(link)
        receiver = stacking.receiver(link)
        if receiver is not link and stacking.delivers(link):
            by_base[receiver.ifindex].append(link)
    found = []
    for vlan in links.values():
        stack = tag_stack(links, vlan.ifindex)
        if stack is None or not 1 <= len(stack[1]) <= 2 or not stacking.vlan_forwards(vlan):
            continue
        base, tags = stack
        if len({_device_flags(link) for link in by_base[base]}) > 1:
            continue
        for link in by_base[base]:
            if link.ifindex == base or not stacking.takes_tag(link, tags[0]):
                flat = [number for tag in tags for number in tag]
                found.append((VlanKey(link.ifindex, *flat), vlan.ifindex, link))
    return found


def compile_interfaces(
    snapshot: Snapshot, table: RouteTable, attached: Collection[int]
) -> dict[int, Interface]:
    """Our interfaces and the VLANs over them. Those are left out whose packets may be another
    device's, or of a VLAN that cannot be seen (`stacking`), so that Linux handles them."""
    links = snapshot.links
    stacking = Stacking(links)
    with_address = _interfaces_with_address4(table)
    entrances = [
        (ifindex, stacking.receiver(links[ifindex]).ifindex, links[ifindex])
        for ifindex in attached
        if ifindex in links and not stacking.obstacle(links[ifindex])
    ]
    entrances += [(vlan, vlan, link) for _, vlan, link in _vlans(links, stacking, attached)]
    interfaces: dict[int, Interface] = {}
    for ifindex, logical, device in entrances:
        link = links[ifindex]
        if len(link.mac) != 6:
            continue
        settings = snapshot.settings.interfaces.get(logical, InterfaceSettings())
        rp_filter = settings.rp_filter
        if rp_filter == 2 and logical not in with_address:
            rp_filter = 1  # loose turns strict on an interface without an IPv4 address
        flags = _flags(settings) | _device_flags(device)
        interfaces[ifindex] = Interface(link.mac, flags, rp_filter, logical)
    return interfaces


def _interfaces_with_address4(table: RouteTable) -> set[int]:
    local = table.where(
        lambda r: r.table == TABLE_LOCAL and r.kind is RouteKind.LOCAL and r.prefix.family == 4
    )
    return {path.nexthop.ifindex for route in local for path in route.paths}


def _flags(settings: InterfaceSettings) -> int:
    return _chosen(
        FORWARD4=settings.forwarding4,
        FORWARD6=settings.forwarding6,
        SEND_REDIRECTS=settings.send_redirects,
    )


def _device_flags(device: Link) -> int:
    """What goes by the device that the program runs on."""
    generic = device.xdp_mode == "generic"
    return _chosen(
        GENERIC=generic,
        PARTIAL_CHECKSUMS=device.leaves_checksums and not generic,
        UNFINISHED=device.leaves_checksums and generic,
    )


def _chosen(**flags: bool) -> int:
    return sum(INTERFACE_FLAGS[name] for name, wanted in flags.items() if wanted)
