"""Where a frame comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...errors import XdpecmpError
from ...model.values import Link


class Ingress(NamedTuple):
    """Where a frame comes in: the device, and what must stand in front of its IP packet."""

    ifindex: int
    mac: bytes
    tags: tuple[tuple[int, int], ...] = ()
    """TPID and VLAN id, the outermost first."""


def ingress_of(links: Mapping[int, Link], attached: Sequence[Link], link: Link) -> Ingress:
    """For frames to that link: a VLAN device or macvlan too, and a bond by one of its links. Raises
    XdpecmpError where the device that they come in on does not run our program."""
    tags: list[tuple[int, int]] = []
    for above in stack(links, link)[:-1]:
        if above.kind == "vlan":
            tags.insert(0, (above.vlan_protocol, above.vlan_id))
    device = stack(links, link)[-1]
    below = [each for each in attached if each.master == device.ifindex and device.kind == "bond"]
    if below:
        by = min(below, key=lambda each: not each.delivers)
        return Ingress(by.ifindex, by.mac if link is device else link.mac, tuple(tags))
    if device not in attached:
        raise XdpecmpError(
            f"xdpecmp is not attached to {device.name}",
            f"name one that it is attached to: {', '.join(each.name for each in attached)}",
        )
    return Ingress(device.ifindex, link.mac, tuple(tags))


def stack(links: Mapping[int, Link], link: Link) -> list[Link]:
    """A link and what it stands on: VLANs and macvlans, down to the first that is neither."""
    found = [link]
    while link.kind in ("vlan", "macvlan") and link.lower in links:
        link = links[link.lower]
        found.append(link)
    return found
