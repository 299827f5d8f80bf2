"""What is shown of a data path, as plain values. Devices have names here, not indexes.

`view` reads them; `cli.asjson` turns them into JSON, and the commands into text for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ..compile import Findings
from ..model.hashkey import Origin
from ..model.values import Prefix
from .losses import Losses
from .missing import Missing


@dataclass(frozen=True, slots=True)
class PathState:
    """One next hop of a prefix."""

    via: str | None
    """None: the destination itself, on the link."""
    dev: str
    weight: int
    """Of a resilient group the number of buckets."""
    share: Fraction
    """Of the hash space, 0 to 1."""
    state: str
    """"up", or in lower case the reason why its packets pass to Linux. If that depends on the
    mode of the interface that they came in by, both."""
    lladdr: str | None
    """The neighbour's MAC address."""


@dataclass(frozen=True, slots=True)
class RouteState:
    """A prefix and where it leads."""

    prefix: Prefix
    kind: str
    """A GroupKind, in lower case."""
    paths: tuple[PathState, ...] = ()
    reason: str | None = None
    """For kind "pass": the Reason."""


@dataclass(frozen=True, slots=True)
class HopCounters:
    """What one next hop took since its place in the maps became its own."""

    via: str
    dev: str
    packets: int
    bytes: int
    """Of frames as they leave."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What was counted since the first attach."""

    nexthops: tuple[HopCounters, ...]
    reasons: Mapping[str, int]
    """Packets by Reason; all except FORWARDED passed to Linux."""
    icmp_errors: Mapping[str, int]
    """Packets by type of ICMP error."""
    devices: tuple[Losses, ...] = ()
    """All that packets come in or leave by."""


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """An interface that runs our program."""

    ifname: str
    mode: str
    """"native" or "generic"."""
    prog_id: int


@dataclass(frozen=True, slots=True)
class Passed:
    """Something that passes to Linux as a whole."""

    what: str
    reason: str
    """The Reason."""
    text: str
    """Why, and what helps."""


@dataclass(frozen=True, slots=True)
class FirewallState:
    """What of Linux would see what is forwarded."""

    findings: Findings
    bypassed: bool
    """Whether it is forwarded all the same."""


@dataclass(frozen=True, slots=True)
class SearchState:
    """How far the search of Linux's hash key is."""

    tried: int
    """Seeds."""
    of: int
    """All there are."""
    seconds_left: float | None
    """At most; None while that cannot be told."""

    def __str__(self) -> str:
        text = f"{100 * self.tried / self.of:.0f} % of all seeds tried"
        left = self.seconds_left
        return text if left is None else f"{text}, {left:.0f} s to go at most"


@dataclass(frozen=True, slots=True)
class KeyInForce:
    """Where the key of the hash comes from; never the key itself."""

    origin: Origin = Origin.NONE
    seed: int | None = None
    """What it is made of; None if that is a secret, or there is no key."""
    own_in_force: bool = False
    """Whether a family's multipath routes go by a seed of ours."""
    missing: str = ""
    """Why Linux's own is not known, "" if it is."""
    search: SearchState | None = None
    """None: it is not searched for."""

    @property
    def is_linuxs(self) -> bool:
        return self.origin not in (Origin.NONE, Origin.OWN)


@dataclass(frozen=True, slots=True)
class Status:
    """How an instance is doing."""

    interfaces: tuple[InterfaceState, ...] = ()
    missing: tuple[Missing, ...] = ()
    """Interfaces that were asked for and do not run our program."""
    passed: tuple[Passed, ...] = ()
    firewall: FirewallState = FirewallState(Findings(), False)
    policy4: int = 0
    """net.ipv4.fib_multipath_hash_policy."""
    policy6: int = 0
    flow_label: str = ""
    """One of options.FLOW_LABEL."""
    flow_label_matters: bool = False
    """Whether there are IPv6 multipath routes under hash policy 0."""
    key: KeyInForce = KeyInForce()
    lease_s: float = 0.0
    """What is left; 0 once it has run out and all passes to Linux."""
    behind_s: float = 0.0
    """How far the data path is behind the kernel."""
    agent_pid: int | None = None
    routes4: int = 0
    routes6: int = 0
    groups: int = 0
    """Groups with a choice of next hops."""
    nexthops: int = 0
    losses: tuple[Losses, ...] = ()
    """Devices that lost something."""
