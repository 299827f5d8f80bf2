"""What else decides about forwarded packets: sysctls, and what Linux filters them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .hashkey import HashKey


@dataclass(frozen=True, slots=True)
class InterfaceSettings:
    """The sysctls of one interface, already combined with those of `all` as the kernel does."""

    forwarding4: bool = False
    forwarding6: bool = False
    rp_filter: int = 0
    """max(all, interface): 0 off, 1 strict, 2 loose."""
    learns_redirects4: bool = False
    """Whether Linux heeds ICMP redirects that come in there, or did a while ago: then its next hops
    behind the interface are not only what routes say."""
    learns_redirects6: bool = False
    send_redirects: bool = True
    """all or interface."""
    ignore_linkdown4: bool = False
    """net.ipv4.conf.*.ignore_routes_with_linkdown, all or interface."""
    ignore_linkdown6: bool = False
    mtu6: int = 0
    """net.ipv6.conf.*.mtu, which IPv6 goes by rather than the device's; 0 = no IPv6 there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The sysctls of the namespace that decide which path a flow takes."""

    policy4: int = 0
    policy6: int = 0
    seed: int | None = None
    """fib_multipath_hash_seed; None: the kernel has none or does not tell it (0)."""
    found_key: HashKey | None = None
    """Linux's own key if the sysctl does not tell it: read or searched, and confirmed."""
    fields4: int = 0x7
    """net.ipv4.fib_multipath_hash_fields, for policy 3."""
    fields6: int = 0x7
    use_neigh: bool = False
    """net.ipv4.fib_multipath_use_neigh."""
    ip_forward_use_pmtu: bool = False
    proxy_ndp: bool = False
    """net.ipv6.conf.all.proxy_ndp."""
    flow_dissector: bool = False
    """Whether a BPF program takes packets apart in the kernel's stead
    (BPF_PROG_TYPE_FLOW_DISSECTOR): all hash policies but 0 go by what it finds."""
    ipsec: bool = False
    """Whether IPsec policies or their default bear on what is forwarded or sent (`ip xfrm policy`,
    `ip xfrm policy getdefault`)."""
    learned: frozenset[bytes] = frozenset()
    """Packed addresses for which Linux goes by what ICMP errors told it rather than by routes."""
    defragments4: bool = False
    """Whether Linux reassembles IPv4 fragments before it routes them (connection tracking)."""
    defragments6: bool = False
    interfaces: Mapping[int, InterfaceSettings] = field(default_factory=dict)


INGRESS, EGRESS = "ingress", "egress"


class Filter(NamedTuple):
    """One thing in Linux that may drop, change, translate, delay or track what is forwarded, and
    that a packet forwarded by XDP never meets."""

    what: str
    """In the words of the tool that shows it: "nftables chain inet filter forward"."""
    ipv4: bool = True
    ipv6: bool = True
    ifindex: int = 0
    """The one device that it is on; 0 = it looks at what all devices forward."""
    side: str = ""
    """On a device: INGRESS or EGRESS."""
    bridged: bool = False
    """It only looks at frames that pass through a bridge."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Everything of the kind that the namespace has, whether or not it bears on our interfaces."""

    found: tuple[Filter, ...] = ()
    unread: tuple[str, ...] = ()
    """What could not be read, and why: it may hold anything."""
    defragments4: bool = False
    """Whether IPv4 fragments are reassembled before they are routed."""
    defragments6: bool = False

    def settings(self, settings: Settings) -> Settings:
        """With what is to be known of them there."""
        return replace(settings, defragments4=self.defragments4, defragments6=self.defragments6)
