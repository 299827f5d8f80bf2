"""Network devices, and what is known of how frames get into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Upper(NamedTuple):
    """A device that stands on another one, as far as that one's received frames go."""

    name: str
    kind: str
    mode: str
    mac: bytes
    where: str = ""
    """The other namespace that it is in, for people to read; "" for ours."""

    def __str__(self) -> str:
        kind = f"{self.kind} {self.mode}".strip()
        return f"{self.name} ({kind}{self.where and f', in {self.where}'})"


class Peer(NamedTuple):
    """The other end of a veth."""

    name: str
    path: str
    """Of the network namespace that it is in (as for `nsenter --net=`); "" for ours."""
    hides_tags: bool
    """Whether it may leave VLAN tags beside the frames (skb->vlan_tci), where XDP cannot see
    them."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network device of the namespace."""

    ifindex: int
    name: str
    mac: bytes
    """Six bytes, or b"" if the device has none (tun, loopback counts as none)."""
    mtu: int
    up: bool
    """Administratively up and with carrier (IFF_UP and IFF_LOWER_UP)."""
    kind: str = ""
    """IFLA_INFO_KIND: veth, vlan, bridge …; "" for a physical device."""
    master: int = 0
    """Index of the bridge, bond, team or VRF that it is enslaved to; 0 = none."""
    lower: int = 0
    """Index of the device that it stands on (IFLA_LINK), as a VLAN device or a macvlan does; 0 for
    none, or one of another namespace. The other end of a veth is no such device."""
    vlan_id: int = 0
    """For a VLAN device: its VLAN id, host order; 0 otherwise."""
    vlan_protocol: int = 0
    """For a VLAN device: 0x8100 or 0x88a8, host order; 0 otherwise."""
    xdp_prog_id: int = 0
    """Id of the XDP program attached to it, 0 = none."""
    xdp_mode: str = ""
    """"native", "generic", "offload" or "" (none)."""
    can_transmit_xdp: bool = True
    """Whether frames may be redirected to it in native mode (NETDEV_XDP_ACT_NDO_XMIT).
    If the kernel cannot tell (before 6.3), only its own native program shows it."""
    strips_tags: bool = False
    """Whether the device takes VLAN tags off received frames (`ethtool -k`: rx-vlan-offload): then
    an XDP program cannot see them. Not told of a veth: see `peer`."""

    sets_priority: bool = False
    """For a VLAN device: whether the tags that it sends carry priorities (`egress-qos-map`)."""
    mode: str = ""
    """Of a macvlan or macvtap: private, vepa, bridge, passthru, source; of a bond: balance-rr,
    active-backup, 802.3ad …; "" otherwise or for one that we do not know."""
    ports: tuple[int, ...] = ()
    """Indexes of devices that it receives by without being their `master` (HSR, PRP)."""
    delivers: bool = False
    """For a link of a bond: whether the bond receives all that comes in there. False for an
    inactive link, whose frames Linux drops (bond_should_deliver_exact_match())."""
    peer_index: int = 0
    """For a veth: index of the other end, if that is in this namespace."""
    peer: Peer | None = None
    """For a veth: its other end, as far as that can be looked at."""
    is_untagged: bool = False
    """For a bridge: whether its VLAN filter takes the tag off all that the bridge itself
    receives."""
    elsewhere: tuple[Upper, ...] = ()
    """What stands on it in other network namespaces, as far as they can be looked at."""

    addresses4: frozenset[bytes] = frozenset()
    """Its packed IPv4 addresses, whether routes lead to them or not."""

    segments_all: bool = True
    """Whether it has all offloads that merged and unfinished packets can ask of it: it finishes
    checksums and splits what was merged (`ethtool -k`), of any size."""

    offloads_received: bool = False
    """Whether what it receives comes with word of its checksum (`ethtool -k`: rx-checksumming),
    with a hypervisor behind it perhaps that it is unfinished."""

    merges_lists: bool = False
    """Whether it merges received packets into lists (`ethtool -k`: rx-gro-list)."""

    merges: frozenset[str] = frozenset()
    """How the device itself makes larger packets of several that it receives: "rx-lro", "rx-gro-hw"
    (features of `ethtool -k`). What the kernel merges on that device (GRO) comes after XDP."""

    has_local_ports: bool = False
    """Whether veths or taps are among what is enslaved to it."""

    @property
    def has_address4(self) -> bool:
        """Whether it has an IPv4 address: without one, loose reverse-path filtering is strict."""
        return bool(self.addresses4)

    @property
    def leaves_checksums(self) -> bool:
        """Whether what comes in there may have a checksum that is to be finished later, by hardware
        that there may never be: from hosts behind a veth, from VMs behind a tap, also by way of a
        bridge. Native XDP does not see the note that says so (tun_build_skb() in drivers/net/tun.c
        runs it before the virtio_net_hdr is looked at), and loses it."""
        return self.kind in ("veth", "tun") or self.has_local_ports
