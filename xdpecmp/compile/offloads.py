"""Merged and unfinished packets, which only generic mode meets.

What a device receives in generic mode may be several packets merged into one (GRO, or GSO of a
sender on this machine: with UDP_SEGMENT such are smaller than any MTU), or have a checksum that
somebody is still to finish. Linux splits and finishes them on the way out, where the device does
not: validate_xmit_skb() in net/core/dev.c. generic_xdp_tx() leaves that out. So they may go only
where the device takes everything that can come, or the device would send one packet for three, or
one with a wrong checksum.

A program cannot see whether a packet is merged. Of what a NIC receives the mark can be seen: the
checksum is then the sum over the pseudo-header (tcp_gro_complete(), virtio_net_hdr_to_skb()). What
senders on this machine and tunnels make has no mark that could be relied on: from guests it has the
one that the guest chooses.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..model.values import Link

_TAKING = frozenset({"veth", "macvlan", "bridge", "bond", "team", "dummy"})
"""Kinds of devices whose driver takes any packet as it is: to another receive path, or through
dev_queue_xmit() to a device below. What drivers of hardware ask for besides their features
(ndo_features_check(), validated headers) nobody tells, a tap and a tunnel look into the packet."""
_TAKING_TAGS = frozenset({"veth"})
"""Those that also take one to which XDP has just added a tag: then the offset of the network header
is no longer right, which Linux sets again when it receives the packet."""
_STACKED = frozenset({"bond", "team", "bridge"})
"""Kinds of devices that receive what is received by the devices enslaved to them, and nothing
else."""


def takes_anything(link: Link, device: Link, tagged: bool) -> bool:
    """Whether merged and unfinished packets may be redirected there. `link`: the device of the
    route, a VLAN device perhaps, with its own features; `device`: the one that transmits."""
    kinds = _TAKING_TAGS if tagged else _TAKING
    return device.kind in kinds and device.segments_all and link.segments_all


def merges_unseen(links: Mapping[int, Link], device: Link) -> bool:
    """Whether what it receives in generic mode may be merged or unfinished without a mark."""
    return not all(_is_hardware(links, each) for each in _receivers(links, device))


def may_be_unfinished(links: Mapping[int, Link], device: Link) -> bool:
    """Whether a checksum of what it receives may be left for later."""
    receivers = _receivers(links, device)
    return merges_unseen(links, device) or any(each.offloads_received for each in receivers)


def merges_lists(links: Mapping[int, Link], device: Link) -> bool:
    """Whether what it receives may be merged into a list of packets (`rx-gro-list`): generic XDP
    makes one packet of such a list, which cannot be taken apart again."""
    return any(each.merges_lists for each in (device, *_receivers(links, device)))


def _receivers(links: Mapping[int, Link], device: Link) -> list[Link]:
    """The devices that receive for this one, VLAN devices seen as what is below them."""
    members = [device]
    if device.kind in _STACKED:
        members = [link for link in links.values() if link.master == device.ifindex] or [device]
    return [_base(links, link) for link in members]


def _base(links: Mapping[int, Link], link: Link) -> Link:
    while link.kind == "vlan" and link.lower in links:
        link = links[link.lower]
    return link


def _is_hardware(links: Mapping[int, Link], link: Link) -> bool:
    """Or a bond or team of such, as it may be below a bridge."""
    if link.kind in _STACKED:
        members = [each for each in links.values() if each.master == link.ifindex]
        return bool(members) and all(_is_hardware(links, _base(links, each)) for each in members)
    return not link.kind
