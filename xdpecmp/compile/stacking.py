"""Devices on top of each other: whose frames are they that an XDP program sees?

Linux hands a frame upwards in this order (__netif_receive_skb_core() in net/core/dev.c): generic
XDP, the VLAN tag is taken off, the VLAN device of that tag, and only then the bridge, bond, macvlan
... that stands on the device, for which it all begins again. Two rules follow.

- A device that gets its frames from another one sees them without their tag, whatever it is set
  to: what is of which VLAN cannot be seen there. Only devices that are known to see tags count.
- What stands on a device may take its frames. Only what is known to leave them counts as harmless.

A bond is followed from below: what its links receive is the bond's, unless Linux would drop it, and
there the tags are still in the frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from ..model.values import Link, Upper
from .tags import tag_stack

_SEE_TAGS = frozenset({"", "veth", "tun", "vxlan", "geneve", "gretap", "ip6gretap"})
"""Kinds of devices whose frames come with their tags inside: from a NIC, a process, or out of a
tunnel's packet (__iptunnel_pull_header() clears the outer packet's tag)."""

_TUNNELS = frozenset(
    {"vxlan", "geneve", "gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan", "ipip"}
    | {"ip6tnl", "sit", "vti", "vti6", "xfrm"}
)
"""Kinds that name a device to send by, and receive what is addressed to this host."""

_BOND_MODES = frozenset({"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad"})
"""In which the state of a link tells whether the bond receives by it: bond_is_slave_inactive(),
bond_set_slave_inactive_flags() in include/net/bonding.h."""

_OWN_MAC = frozenset({"macvlan", "macvtap"})
_OWN_MAC_MODES = frozenset({"private", "vepa", "bridge"})
"""In which a macvlan takes frames to its own MAC alone: macvlan_handle_frame()."""

_BEHIND_VLANS = frozenset({*_OWN_MAC, "ipvlan", "ipvtap", "macsec", "hsr"})
"""Kinds that take frames by an rx_handler: what is for a VLAN device never gets to them."""


class Why(Enum):
    """Why nothing that an interface receives may be forwarded."""

    ENSLAVED = "enslaved"
    """It belongs to a bridge, a VRF ...: that decides."""
    INACTIVE = "inactive"
    """A link of a bond by which the bond does not receive."""
    OWNED = "owned"
    """Another device stands on it and may take its frames."""
    STACKED = "stacked"
    """It gets frames whose tag was taken off before."""
    STRIPS_TAGS = "strips tags"
    """Its hardware takes tags off."""
    PEER = "peer"
    """The other end of a veth may leave tags beside the frames."""


class Obstacle(NamedTuple):
    """Why, and the device that is to blame."""

    why: Why
    device: str
    kind: str = ""
    """Of that device."""


class Stacking:
    """How the devices of a namespace stand on each other."""

    def __init__(self, links: Mapping[int, Link]) -> None:
        self._links = links
        self._uppers: dict[int, list[Upper]] = defaultdict(list)
        self._macvlans: dict[int, list[Link]] = defaultdict(list)
        self._masters: set[int] = set()
        self._with_vlans: set[int] = set()
        self._taken: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for link in links.values():
            self._masters.add(link.master)
            if link.lower and link.kind == "vlan":
                self._taken[link.lower].add((link.vlan_protocol, link.vlan_id))
                stack = tag_stack(links, link.ifindex)
                self._with_vlans.add(stack[0] if stack else 0)
            if link.lower and link.kind == "macvlan":
                self._macvlans[link.lower].append(link)
            upper = Upper(link.name, link.kind, link.mode, link.mac)
            for below in filter(None, (link.lower, *link.ports)):
                self._uppers[below].append(upper)
            self._uppers[link.ifindex] += link.elsewhere

    def receiver(self, link: Link) -> Link:
        """The device that Linux has an untagged frame come in by: the bond, or the link itself."""
        master = self._links.get(link.master)
        return master if master is not None and master.kind == "bond" else link

    def delivers(self, link: Link) -> bool:
        """Whether all that comes in by this interface is received by its `receiver`."""
        receiver = self.receiver(link)
        return receiver is link or (link.delivers and receiver.mode in _BOND_MODES)

    def takes_tag(self, link: Link, tag: tuple[int, int]) -> bool:
        """Whether a VLAN device stands on this very link that frames with that outer tag go to."""
        return tag in self._taken[link.ifindex]

    def obstacle(self, link: Link) -> Obstacle | None:
        """Why nothing that comes in by this interface without a tag may be forwarded."""
        return self.blind(link) or self.owner(link)

    def blind(self, link: Link) -> Obstacle | None:
        """Why nothing of it may be forwarded, for a VLAN device neither."""
        is_master = link.ifindex in self._masters and link.kind != "bridge"
        if is_master or not _sees_tags(link):
            return Obstacle(Why.STACKED, link.name, link.kind)
        if link.strips_tags:
            return Obstacle(Why.STRIPS_TAGS, link.name, link.kind)
        if link.kind == "veth" and self._peer_hides_tags(link):
            return Obstacle(Why.PEER, link.name, link.kind)
        return self._unknown_owner(link)

    def _peer_hides_tags(self, link: Link) -> bool:
        """Of a peer that cannot be looked at, frames with tags are known to come where VLAN devices
        wait for them."""
        if link.peer is not None:
            return link.peer.hides_tags
        return not self._with_vlans.isdisjoint({link.ifindex, self.receiver(link).ifindex})

    def _unknown_owner(self, link: Link) -> Obstacle | None:
        """What stands on it and may take tagged frames, too."""
        for upper in self._owners(link):
            if upper.kind not in _BEHIND_VLANS:
                return Obstacle(Why.OWNED, str(upper), upper.kind)
        return None

    def vlan_forwards(self, vlan: Link) -> bool:
        """Whether what comes in by this VLAN device is its own."""
        if vlan.master or self.owner(vlan):
            return False
        link: Link | None = vlan
        while link is not None and link.kind == "vlan":
            if not link.up or self._unknown_owner(link):
                return False
            link = self._links.get(link.lower)
        return link is not None and not self._unknown_owner(link)

    def owner(self, link: Link) -> Obstacle | None:
        """Who else may take what comes in by this device, except VLAN devices."""
        receiver = self.receiver(link)
        if not self.delivers(link):
            return Obstacle(Why.INACTIVE, receiver.name, receiver.mode)
        if receiver.master:
            master = self._links.get(receiver.master)
            name, kind = (master.name, master.kind) if master else ("another device", "")
            return Obstacle(Why.ENSLAVED, name, kind)
        for device in dict.fromkeys([link.ifindex, receiver.ifindex]):
            for upper in self._owners(self._links[device]):
                return Obstacle(Why.OWNED, str(upper), upper.kind)
        return None

    def macvlans(self, lower: int) -> list[Link]:
        """Macvlans of this namespace on that device which receive what is for their MAC address."""
        return [
            link
            for link in self._macvlans[lower]
            if link.mode in _OWN_MAC_MODES
            and link.up
            and len(link.mac) == 6
            and not link.master
            and not self.owner(link)
        ]

    def other_macs(self, link: Link) -> list[Upper]:
        """What takes from this interface the frames to its own MAC address."""
        devices = dict.fromkeys([link.ifindex, self.receiver(link).ifindex])
        uppers = [upper for ifindex in devices for upper in self._uppers[ifindex]]
        return [upper for upper in uppers if upper.kind in _OWN_MAC and _is_harmless(upper, link)]

    def _owners(self, link: Link) -> Iterator[Upper]:
        for upper in self._uppers[link.ifindex]:
            if not _is_harmless(upper, link):
                yield upper


def _sees_tags(link: Link) -> bool:
    return link.kind in _SEE_TAGS or (link.kind == "bridge" and link.is_untagged)


def _is_harmless(upper: Upper, link: Link) -> bool:
    """Whether it is known not to take untagged frames to the link's MAC address."""
    if upper.kind in _OWN_MAC:
        return upper.mode in _OWN_MAC_MODES and upper.mac != link.mac
    return upper.kind == "vlan" or upper.kind in _TUNNELS
