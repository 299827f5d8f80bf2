"""What the data path holds and counts, read from the pinned maps: see `state`.

Nothing here asks the routing tables: what is shown is what the program goes by. Only names of
devices come from the kernel.
"""

from __future__ import annotations

import ipaddress
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from ..compile import bearing, ownseed
from ..dataplane import counters
from ..hashing import shares
from ..instance.instance import Instance
from ..instance.keystore import KeyStore
from ..model.hashkey import NO_KEY, Origin
from ..model.options import FOLLOW, IGNORE
from ..model.values import Filters, Link, NextHop, Prefix
from ..program.abi import (
    FRAGMENTS_OF,
    ICMP_ERROR_INDEX,
    INTERFACE_FLAGS,
    REASON_TEXT,
    GroupKind,
    Reason,
)
from ..program.clock import HZ, read_jiffies
from ..program.maps import Maps, nexthop_of
from .devices import device_name, hop, our_links
from .hashkey import search_state, why_missing
from .losses import Losses
from .missing import missing
from .obstacles import told
from .state import (
    FirewallState,
    HopCounters,
    InterfaceState,
    KeyInForce,
    Passed,
    PathState,
    RouteState,
    Stats,
    Status,
)

_MULTIPATH = (GroupKind.THRESHOLD, GroupKind.RESILIENT)
NO_FILTERS = Filters()

_Group = tuple[str, tuple[PathState, ...], str | None]
"""kind, paths and reason of a RouteState."""


def _by_device(row: tuple[NextHop, object]) -> tuple[int, int, bytes]:
    """IPv4 before IPv6 on each device."""
    via, ifindex = row[0]
    return ifindex, len(via), via


class View:
    """Reads one instance's maps."""

    def __init__(self, maps: Maps, links: Mapping[int, Link]) -> None:
        self._maps = maps
        self._links = links

    # --- routes ---------------------------------------------------------------------------------

    def routes(self) -> Iterator[RouteState]:
        """Every prefix, IPv4 first, in ascending order."""
        groups: dict[int, _Group] = {}
        for family in (4, 6):
            for address, length, number in self._maps.prefixes(family):
                if number not in groups:
                    groups[number] = self._group(number)
                yield RouteState(Prefix(address, length), *groups[number])

    def chosen(self, prefix: Prefix) -> RouteState | None:
        """The route of exactly this prefix or, for a host prefix, the one that its packets take."""
        is_address = prefix.length == len(prefix.address) * 8
        found = self._maps.matched(prefix.address) if is_address else prefix
        if found is None or not (is_address or self._maps.holds(prefix)):
            return None
        route = self.route(found)
        return route and RouteState(found, route.kind, route.paths, route.reason)

    def route(self, prefix: Prefix) -> RouteState | None:
        """What packets to all of this prefix go by: its route, or the longest that covers it."""
        number = self._maps.group_of(prefix)
        return None if number is None else RouteState(prefix, *self._group(number))

    def _group(self, number: int) -> _Group:
        group = self._maps["groups"].entries[number]
        kind = GroupKind(group.kind).name.lower()
        if group.kind == GroupKind.PASS:
            return kind, (), Reason(group.first).name
        if group.kind == GroupKind.SINGLE:
            return kind, (self._path(group.first, group.count, Fraction(1)),), None
        if group.kind == GroupKind.RESILIENT:
            return kind, self._buckets(group.first, group.count), None
        entries = self._maps["paths"].entries[group.first : group.first + group.count]
        parts = list(shares([entry.bound for entry in entries]))
        weights = [(entry.weight + 1) & 0xFFFF for entry in entries]
        if not weights[-1]:  # what the first one takes over from bad ones: see PathEntry.weight
            parts[0] += parts[-1]
        paths = tuple(
            self._path(entry.nexthop, weight, share)
            for entry, weight, share in zip(entries, weights, parts, strict=True)
            if weight
        )
        return kind, paths, None

    def _buckets(self, first: int, count: int) -> tuple[PathState, ...]:
        """A resilient group's next hops; the weight is the number of buckets that each holds."""
        held = Counter(
            entry.nexthop for entry in self._maps["buckets"].entries[first : first + count]
        )
        return tuple(
            self._path(number, n, Fraction(n, count)) for number, n in sorted(held.items())
        )

    def _path(self, number: int, weight: int, share: Fraction) -> PathState:
        entry = self._maps["nexthops"].entries[number]
        shown = hop(self._links, nexthop_of(entry))
        mac = bytes(entry.neighbour_mac)
        return PathState(
            via=shown.via,
            dev=device_name(self._links, entry.ifindex),
            weight=weight,
            share=share,
            state=self._state(Reason(entry.reason)),
            lladdr=mac.hex(":") if any(mac) else None,
        )

    def _state(self, reason: Any) -> str:
        """What packets meet that come in by the attached interfaces, in the modes that these have:
        see check_egress() in bpf/nexthops.c."""
        name: str = reason.name.lower()
        if reason == Reason.EGRESS_NO_XDP:
            generic = {
                bool(entry.flags & INTERFACE_FLAGS["GENERIC"])
                for entry in self._maps["interfaces"].entries
                if entry.ifindex
            }
            if generic == {True, False}:
                return f"up (generic), {name} (native)"
            return "up" if generic == {True} else name
        return "up" if reason == Reason.FORWARDED else name

    # --- counters -------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Packets and bytes by next hop, packets by verdict reason and by type of ICMP error."""
        counted = counters.read(self._maps)
        reasons = {reason.name: counted.stats[int(reason)] for reason in Reason}
        reasons[Reason.FORWARDED.name] = counted.forwarded.packets
        return Stats(
            nexthops=tuple(
                HopCounters(
                    via=str(ipaddress.ip_address(nexthop.via)),
                    dev=device_name(self._links, nexthop.ifindex),
                    packets=traffic.packets,
                    bytes=traffic.bytes,
                )
                for nexthop, traffic in sorted(counted.nexthops.items(), key=_by_device)
                if nexthop.via
            ),
            reasons=reasons,
            icmp_errors={name: counted.stats[index] for name, index in ICMP_ERROR_INDEX.items()},
        )

    # --- status ---------------------------------------------------------------------------------

    def passed(
        self, config: Any, attached: Iterable[Link], multipath: Collection[int]
    ) -> Iterator[Passed]:
        """What passes to Linux as a whole, and why; `multipath`: families that have such routes."""
        wholes = {"all IPv4": config.pass4, "all IPv6": config.pass6}
        if 4 in multipath:
            wholes["IPv4 multipath"] = config.pass_multipath4
        if 6 in multipath:
            wholes["IPv6 multipath"] = config.pass_multipath6
        for family in sorted(multipath):
            passed = config.pass_fragments & FRAGMENTS_OF[f"IPV{family}"]
            wholes[f"IPv{family} multipath fragments"] = Reason.FRAGMENT if passed else 0
        for what, reason in wholes.items():
            if reason:
                name = Reason(reason).name
                text = REASON_TEXT[name]
                if reason == Reason.OWN_SEED:
                    text += f": {self._why_parted(config, 4 if 'IPv4' in what else 6)}"
                yield Passed(what, name, text)
        ingresses = self._maps["interfaces"]
        for link in attached:
            if ingresses.entries[link.ifindex % ingresses.count].ifindex != link.ifindex:
                why = self._why_no_ingress(link)
                yield Passed(f"all on {link.name}", Reason.INTERFACE.name, why)

    def _why_parted(self, config: Any, family: int) -> str:
        cause = getattr(config, f"own_seed_cause{family}")
        ifindex = getattr(config, f"own_seed_ifindex{family}")
        text, fix = ownseed.why(cause, [self._links.get(ifindex)] if ifindex else [])
        return f"{text}: {fix}" if fix else text

    def _why_no_ingress(self, link: Link) -> str:
        said = told(self._links, link)
        if said is not None:
            _, text, fix = said
            return f"{text}: {fix}" if fix else text
        if link.merges_lists and link.xdp_mode == "generic":
            return f"it merges packets into lists: ethtool -K {link.name} rx-gro-list off"
        return "it is not mirrored"

    def firewall(self, instance: Instance, filters: Filters) -> FirewallState:
        """What of Linux would see what is forwarded, and whether it is bypassed all the same."""
        attached = our_links(self._links.values(), instance.program_ids())
        egress = {nexthop.ifindex for _, nexthop in self._maps.nexthops()}
        found = bearing(filters, self._links, [link.ifindex for link in attached], egress)
        return FirewallState(found, instance.options().bypass_firewall)

    def status(
        self, instance: Instance, filters: Filters = NO_FILTERS, lost: Iterable[Losses] = ()
    ) -> Status:
        """Interfaces, settings, lease, agent, what is held and what passes to Linux. `filters`:
        what Linux has of them now; `lost`: what `losses.report` says."""
        control = self._maps["control"].entries[0]
        config = self._maps["config"].entries[control.config_slot]
        ours = instance.program_ids()
        attached = our_links(self._links.values(), ours)
        numbers = self._maps.numbers("routes4"), self._maps.numbers("routes6")
        groups = self._maps["groups"].entries
        used = numbers[0].keys() | numbers[1].keys()
        multipath = {
            family
            for family, held in zip((4, 6), numbers, strict=True)
            if any(groups[number].kind in _MULTIPATH for number in held)
        }
        since = control.behind_jiffies
        return Status(
            interfaces=tuple(
                InterfaceState(link.name, link.xdp_mode, link.xdp_prog_id) for link in attached
            ),
            missing=tuple(missing(instance.wanted(), self._links.values(), ours)),
            passed=tuple(self.passed(config, attached, multipath)),
            firewall=self.firewall(instance, filters),
            policy4=config.policy4,
            policy6=config.policy6,
            flow_label=FOLLOW if config.label_mask else IGNORE,
            flow_label_matters=config.policy6 == 0 and 6 in multipath,
            key=_key(instance, config),
            lease_s=max(0.0, -self._ago(instance, control.lease_jiffies)),
            behind_s=max(0.0, self._ago(instance, since)) if since else 0.0,
            agent_pid=instance.agent_pid(),
            routes4=numbers[0].total(),
            routes6=numbers[1].total(),
            groups=sum(groups[number].kind in _MULTIPATH for number in used),
            nexthops=sum(1 for _ in self._maps.nexthops()),
            losses=tuple(each for each in lost if each),
        )

    @staticmethod
    def _ago(instance: Instance, jiffies: int) -> float:
        """Seconds since that moment on the program's clock; below 0: until then."""
        clock = instance.open_clock()
        try:
            return round((read_jiffies(clock) - jiffies) / HZ, 3)
        finally:
            os.close(clock)


def _key(instance: Instance, config: Any) -> KeyInForce:
    """Of an entry of the map `config`."""
    # a key is put in force before multipath is: see Control.publish_cautiously
    unknown = Reason.SEED_UNKNOWN in (config.pass_multipath4, config.pass_multipath6)
    origin = Origin.NONE if unknown else Origin(config.key_origin)
    own, state = origin is Origin.OWN, NO_KEY
    if own or origin is Origin.NONE:
        state = instance.key_state()
    return KeyInForce(
        origin,
        config.seed or None,
        own and not (config.pass_multipath4 and config.pass_multipath6),
        why_missing(state),
        search_state(state, KeyStore()),
    )
