"""Where packets come in: the maps `interfaces` and `vlans`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..abi import INTERFACE_FLAGS
from ..model import InterfaceSettings, Link, Snapshot
from .offloads import may_be_unfinished, merges_lists, merges_unseen
from .tables import Interface, VlanKey
from .tags import tag_stack


def compile_vlans(links: Mapping[int, Link], attached: Collection[int]) -> dict[VlanKey, int]:
    """The VLAN devices over our interfaces, one tag or two, by the tags that lead to them."""
    vlans: dict[VlanKey, int] = {}
    for link in links.values():
        stack = tag_stack(links, link.ifindex)
        if stack is None:
            continue
        base, tags = stack
        if base in attached and 1 <= len(tags) <= 2 and link.up and not link.master:
            flat = [number for tag in tags for number in tag]
            vlans[VlanKey(base, *flat)] = link.ifindex
    return vlans


def compile_interfaces(snapshot: Snapshot, attached: Collection[int]) -> dict[int, Interface]:
    """Our interfaces and the VLANs over them. One that is enslaved to a bridge, bond, team or VRF
    is left out: its packets belong to the master, so Linux handles them."""
    links = snapshot.links
    interfaces: dict[int, Interface] = {}
    for ifindex in [*attached, *compile_vlans(links, attached).values()]:
        link = links.get(ifindex)
        stack = tag_stack(links, ifindex)
        if link is None or link.master or len(link.mac) != 6 or stack is None:
            continue
        if links[stack[0]].strips_tags:
            continue  # an XDP program would take frames of every VLAN for untagged ones
        settings = snapshot.settings.interfaces.get(ifindex, InterfaceSettings())
        rp_filter = settings.rp_filter
        if rp_filter == 2 and not link.has_address4:
            rp_filter = 1  # loose turns strict on an interface without an IPv4 address
        device = links[stack[0]]
        if device.xdp_mode != "native" and merges_lists(links, device):
            continue  # no one could take such a list apart again
        flags = _flags(settings, links, device)
        interfaces[ifindex] = Interface(link.mac, flags, rp_filter)
    return interfaces


def _flags(settings: InterfaceSettings, links: Mapping[int, Link], device: Link) -> int:
    generic, native = device.xdp_mode == "generic", device.xdp_mode == "native"
    unknown = not (generic or native)  # about to be attached: what holds in either mode
    chosen = {
        "FORWARD4": settings.forwarding4,
        "FORWARD6": settings.forwarding6,
        "GENERIC": generic,
        "SEND_REDIRECTS": settings.send_redirects,
        "PARTIAL_CHECKSUMS": unknown or (native and device.leaves_checksums),
        "UNFINISHED": generic and may_be_unfinished(links, device),
        "MERGES": not native and merges_unseen(links, device),
    }
    return sum(INTERFACE_FLAGS[name] for name, wanted in chosen.items() if wanted)
