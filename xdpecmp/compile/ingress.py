"""Where packets come in: the maps `interfaces`, `vlans` and `macs`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ..model.values import InterfaceSettings, Link, Snapshot
from ..program.abi import INTERFACE_FLAGS
from .offloads import may_be_unfinished, merges_lists, merges_unseen
from .stacking import Stacking
from .tables import Interface, MacKey, VlanKey
from .tags import tag_stack


class Ingress(NamedTuple):
    """The contents of these maps."""

    interfaces: dict[int, Interface]
    vlans: dict[VlanKey, int]
    macs: dict[MacKey, int]


class _Entrance(NamedTuple):
    """A device that packets come in by."""

    key: Link
    """What its entry is known by."""
    logical: Link
    """What Linux has them come in by."""
    device: Link
    """What the program runs on."""


def compile_ingress(snapshot: Snapshot, attached: Collection[int]) -> Ingress:
    """Our interfaces, the VLANs over them and the macvlans over either. Those are left out whose
    packets may be another device's, or of a VLAN that cannot be seen (`stacking`), so that Linux
    handles them."""
    links = snapshot.links
    stacking = Stacking(links)
    ours = [links[ifindex] for ifindex in attached if ifindex in links]
    # of a list that was merged in generic mode no one could take the packets apart again
    ours = [link for link in ours if link.xdp_mode == "native" or not merges_lists(links, link)]
    direct = [
        _Entrance(link, stacking.receiver(link), link)
        for link in ours
        if not stacking.obstacle(link)
    ]
    tagged = _vlans(links, stacking, ours)
    vlans = {key: entrance.key.ifindex for key, entrance in tagged}
    above = _macvlans(links, stacking, [*direct, *(entrance for _, entrance in tagged)])
    macs = {key: entrance.key.ifindex for key, entrance in above}
    indirect = [entrance for _, entrance in (*tagged, *above)]
    interfaces = {}
    for entrance in (*direct, *indirect):
        key, logical = entrance.key, entrance.logical
        if len(key.mac) != 6:
            continue
        settings = snapshot.settings.interfaces.get(logical.ifindex, InterfaceSettings())
        rp_filter = settings.rp_filter
        if rp_filter == 2 and not logical.has_address4:
            rp_filter = 1  # loose turns strict on an interface without an IPv4 address
        flags = _flags(settings) | _device_flags(links, entrance.device)
        is_direct = key is entrance.device
        interfaces[key.ifindex] = Interface(key.mac, flags, rp_filter, logical.ifindex, is_direct)
    return Ingress(interfaces, vlans, macs)


def _vlans(
    links: Mapping[int, Link], stacking: Stacking, ours: Collection[Link]
) -> list[tuple[VlanKey, _Entrance]]:
    """VLAN devices, one tag or two, by the interface that their frames come in by: of a bond each
    of its links, as far as all of them treat frames alike."""
    by_base: dict[int, list[Link]] = defaultdict(list)
    for link in ours:
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
        if not _alike(links, by_base[base]):
            continue
        for link in by_base[base]:
            if link.ifindex == base or not stacking.takes_tag(link, tags[0]):
                flat = [number for tag in tags for number in tag]
                found.append((VlanKey(link.ifindex, *flat), _Entrance(vlan, vlan, link)))
    return found


def _macvlans(
    links: Mapping[int, Link], stacking: Stacking, entrances: Collection[_Entrance]
) -> list[tuple[MacKey, _Entrance]]:
    """Macvlans on these, VRRP's for one."""
    by_lower: dict[int, list[Link]] = defaultdict(list)
    for entrance in entrances:
        by_lower[entrance.logical.ifindex].append(entrance.device)
    found = []
    for lower, devices in by_lower.items():
        for link in stacking.macvlans(lower) if _alike(links, devices) else ():
            found.append((MacKey(lower, link.mac), _Entrance(link, link, devices[0])))
    return found


def _alike(links: Mapping[int, Link], devices: Collection[Link]) -> bool:
    """Whether the program treats frames alike on all of these: one entry has to stand for them."""
    return len({_device_flags(links, device) for device in devices}) <= 1


def _flags(settings: InterfaceSettings) -> int:
    return _chosen(
        FORWARD4=settings.forwarding4,
        FORWARD6=settings.forwarding6,
        SEND_REDIRECTS=settings.send_redirects,
    )


def _device_flags(links: Mapping[int, Link], device: Link) -> int:
    """What goes by the device that the program runs on."""
    generic, native = device.xdp_mode == "generic", device.xdp_mode == "native"
    unknown = not (generic or native)  # about to be attached: what holds in either mode
    return _chosen(
        GENERIC=generic,
        LOSES_PARTIAL=unknown or (native and device.leaves_checksums),
        KEEPS_PARTIAL=generic and may_be_unfinished(links, device),
        MERGES_UNSEEN=not native and merges_unseen(links, device),
    )


def _chosen(**flags: bool) -> int:
    return sum(INTERFACE_FLAGS[name] for name, wanted in flags.items() if wanted)
