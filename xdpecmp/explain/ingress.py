"""Where a frame comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import XdpecmpError
from ..model import Link


class Ingress(NamedTuple):
    """Where a frame comes in: the device, and what must stand in front of its IP packet."""

    ifindex: int
    mac: bytes
    tags: tuple[tuple[int, int], ...] = ()
    """TPID and VLAN id, the outermost first."""


def ingress_of(links: Mapping[int, Link], attached: Sequence[Link], link: Link) -> Ingress:
    """For frames to that link, a VLAN device too, or a bond: then by one of its links. Raises
    XdpecmpError where the device that they come in on does not run our program."""
    tags: list[tuple[int, int]] = []
    device = link
    while device.kind == "vlan" and device.lower in links:
        tags.insert(0, (device.vlan_protocol, device.vlan_id))
        device = links[device.lower]
    if device.kind == "bond":
        below = [each for each in attached if each.master == device.ifindex]
        if below:
            below.sort(key=lambda each: not each.delivers)
            mac = link.mac if tags else below[0].mac
            return Ingress(below[0].ifindex, mac, tuple(tags))
    if device not in attached:
        raise XdpecmpError(
            f"xdpecmp is not attached to {device.name}",
            f"name one that it is attached to: {', '.join(each.name for each in attached)}",
        )
    return Ingress(device.ifindex, link.mac, tuple(tags))
