"""What the maps must hold, as values. The identifiers that maps use (slots, group numbers) are
given out later, in `dataplane`."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from ..model.hashkey import HashKey
from ..model.prefixes import Networks
from ..model.values import NextHop, Prefix
from .firewall import Findings
from .parting import Parting

if TYPE_CHECKING:
    from ..model.packed import Layered

TABLE_DEFAULT, TABLE_MAIN, TABLE_LOCAL = 253, 254, 255
"""The kernel's route tables."""

LAST_BOUND = (1 << 31) - 1


class PathEntry(NamedTuple):
    """One entry of the map `paths`."""

    bound: int
    nexthop: NextHop
    weight: int
    """0 for the hashes that a next hop takes over from bad ones, beyond its own share."""


class Resilient(NamedTuple):
    """A resilient group: what the kernel has in each bucket, and when ours may go there."""

    buckets: tuple[NextHop, ...]
    members: frozenset[NextHop]
    """All next hops of the group; one may hold no bucket."""
    idle_s: float
    unbalanced_s: float = 0.0
    """After so long they go there in use; 0 = never."""


Group = tuple[PathEntry, ...] | Resilient
"""Paths with ascending bounds, of which the last is 2^31 - 1; or buckets. NOTHING has none: what
leads there passes to Linux."""

NOTHING: tuple[PathEntry, ...] = ()
"""A group that is gone, or no longer one that we carry out, until its routes are read again."""

Key = tuple[object, ...]
"""What a group is known by."""

Target = int | NextHop | Key
"""What a prefix leads to: a Reason to pass, one next hop, or the key of a group."""


class Interface(NamedTuple):
    """One entry of the map `interfaces`: an ingress, known by the device that the program runs on,
    or by the VLAN device or macvlan that stands on it."""

    mac: bytes
    flags: int
    rp_filter: int
    logical: int
    """Index of the device that Linux has the packet come in by: the bond of a link."""
    direct: bool = True
    """Whether the program runs on the device itself; VLAN devices and macvlans are found by tag and
    by MAC address."""


class VlanKey(NamedTuple):
    """Key of the map `vlans`; TPIDs and VLAN ids in host order, 0 = no such tag."""

    ifindex: int
    outer_tpid: int
    outer_vid: int
    inner_tpid: int = 0
    inner_vid: int = 0


class MacKey(NamedTuple):
    """Key of the map `macs`: the device that a macvlan stands on, and the macvlan's address."""

    ifindex: int
    mac: bytes


class Tag(NamedTuple):
    """A VLAN tag to push: TPID and VLAN id in host order."""

    tpid: int
    vid: int


class Adjacency(NamedTuple):
    """One entry of the map `nexthops`, except its identity."""

    reason: int
    device: int
    """Index of the device that transmits: the VLAN's lower one."""
    mac: bytes = bytes(6)
    device_mac: bytes = bytes(6)
    mtu: int = 0
    tags: tuple[Tag, ...] = ()
    takes_anything: bool = True
    """Merged and unfinished packets too: see `offloads`."""


class Config(NamedTuple):
    """One entry of the map `config`, before the key is turned into SipHash states."""

    policy4: int
    policy6: int
    fields4: int
    fields6: int
    key: HashKey | None
    pass4: int
    pass6: int
    pass_multipath4: int
    pass_multipath6: int
    pass_fragments4: bool
    """Of multipath routes."""
    pass_fragments6: bool
    local4: frozenset[bytes] | None
    """IPv4 sources to look up: our own and broadcast addresses. None: look every one up."""
    follow_label: bool
    """Hash the flow label under IPv6 policy 0, as Linux does."""
    parting4: tuple[Parting, ...] = ()
    """Why IPv4 multipath passes by OWN_SEED: one cause, for each device that it is about."""
    parting6: tuple[Parting, ...] = ()

    @property
    def own_seed(self) -> bool:
        """Whether the key is made of a seed of ours."""
        return self.key is not None and self.key.is_ours


class Dependencies(NamedTuple):
    """What makes one route bear on others, so that it can't be compiled alone."""

    connected: Networks
    """The directly connected networks in force."""
    hidden: Networks
    """Prefixes of which all that is within may be hidden: by table local, or by a doubt."""
    fallback4: bool
    """Whether IPv4's table `default` has routes."""


class Doubts(NamedTuple):
    """Prefixes whose routes are not known until a dump tells; they pass to Linux."""

    prefixes: AbstractSet[Prefix] = frozenset()
    covering: AbstractSet[Prefix] = frozenset()
    """Those of them that pass with all that is within."""


class TableChange(NamedTuple):
    """What of the maps' contents is to change or to be added."""

    routes: Mapping[Prefix, Target | None]
    """None: the prefix goes."""
    nexthops: Mapping[NextHop, Adjacency]
    gateways: AbstractSet[NextHop]
    groups: Mapping[Key, Group]
    doubtful: AbstractSet[Prefix] = frozenset()
    """Of `routes`, those that pass from now on until a dump tells more."""


@dataclass(frozen=True, slots=True)
class Tables:
    """All that the maps must hold."""

    config: Config
    interfaces: Mapping[int, Interface] = field(default_factory=dict)
    vlans: Mapping[VlanKey, int] = field(default_factory=dict)
    macs: Mapping[MacKey, int] = field(default_factory=dict)
    nexthops: Mapping[NextHop, Adjacency] = field(default_factory=dict)
    gateways: AbstractSet[NextHop] = frozenset()
    """The next hops that routes name, which must be kept resolved; the others are neighbours."""
    groups: Mapping[Key, Group] = field(default_factory=dict)
    routes: Mapping[Prefix, Target] = field(default_factory=dict)
    dependencies: Dependencies = field(default_factory=lambda: Dependencies({}, {}, False))
    findings: Findings = field(default_factory=Findings)
    """What of Linux's firewall, NAT and traffic control would see what is forwarded."""
    guarded: frozenset[int] = frozenset()
    """Devices that nothing may be sent by for that."""

    @property
    def targets(self) -> Layered[Target]:
        """`routes`, as `compile` makes them."""
        assert not isinstance(self.routes, dict)
        return cast("Layered[Target]", self.routes)
