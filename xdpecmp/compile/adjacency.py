"""How a next hop is reached: the map `nexthops`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..model.values import InterfaceSettings, Link, NextHop, Snapshot
from ..program.abi import Reason
from .offloads import takes_anything
from .tables import Adjacency
from .tags import tag_stack


def compile_adjacency(snapshot: Snapshot, nexthop: NextHop, guarded: Collection[int]) -> Adjacency:
    """The entry of a next hop: whether it can be sent to now, and how. `guarded`: the devices that
    nothing may be sent by."""
    links = snapshot.links
    stack = tag_stack(links, nexthop.ifindex)
    if stack is None or len(stack[1]) > 2 or _sets_priority(links, nexthop.ifindex):
        return Adjacency(int(Reason.ROUTE_UNSUPPORTED), 0)
    device, tags = links[stack[0]], stack[1]
    link = links[nexthop.ifindex]
    neighbour = snapshot.neighbours.get((nexthop.via, nexthop.ifindex))
    settings = snapshot.settings.interfaces.get(nexthop.ifindex, InterfaceSettings())
    if not nexthop.via:
        reason = Reason.ON_LINK
    elif (settings.learns_redirects4, settings.learns_redirects6)[len(nexthop.via) == 16]:
        reason = Reason.LEARNED
    elif not link.up or not device.up:
        reason = Reason.EGRESS_DOWN
    elif nexthop.ifindex in guarded:
        reason = Reason.FIREWALL
    elif neighbour is None or not neighbour.usable or len(link.mac) != 6:
        reason = Reason.NEIGHBOUR
    elif not device.can_transmit_xdp:
        reason = Reason.EGRESS_NO_XDP
    else:
        reason = Reason.FORWARDED
    # the devmap takes frames with one tag more than the device's MTU: xdp_ok_fwd_dev()
    mtu = min(link.mtu, device.mtu + 4 - 4 * len(tags), 65535)
    if len(nexthop.via) == 16 and settings.mtu6:
        mtu = min(mtu, settings.mtu6)  # IPv6 goes by its own: ip6_forward()
    return Adjacency(
        reason=int(reason),
        device=device.ifindex,
        mac=neighbour.mac if neighbour and neighbour.usable else bytes(6),
        device_mac=link.mac if len(link.mac) == 6 else bytes(6),
        mtu=mtu,
        tags=tags,
        takes_anything=takes_anything(link, device, bool(tags)),
    )


def _sets_priority(links: Mapping[int, Link], ifindex: int) -> bool:
    """Whether a tag is to carry a priority, which goes by the packet's: ip_forward(),
    vlan_dev_get_egress_qos_mask()."""
    link = links.get(ifindex)
    while link is not None and link.kind == "vlan":
        if link.sets_priority:
            return True
        link = links.get(link.lower)
    return False
