"""The settings of the map `config`: what is hashed, what passes to Linux as a whole, and our own
addresses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ..model.hashkey import HashKey, Origin
from ..model.options import FOLLOW, Options
from ..model.values import Prefix, Route, RouteKind, Settings, Snapshot
from ..program.abi import (
    CAPACITY,
    LOCAL4_FILTER_MULTIPLIER,
    LOCAL4_FILTER_SHIFT,
    LOCAL4_FILTER_WORDS,
    Reason,
)
from .firewall import Findings
from .tables import TABLE_LOCAL, Config

if TYPE_CHECKING:
    from ..model.routetable import RouteTable

SIMPLE_POLICIES = frozenset({0, 1})
DEEP_POLICIES = frozenset({2, 3})
_RTPROT_KERNEL = 2
_LOOPBACK = Prefix.parse("127.0.0.0/8")


def needs_walk(settings: Settings) -> bool:
    """Whether these hash policies can ask for a walk through the packet's headers."""
    return settings.policy4 in DEEP_POLICIES or settings.policy6 in DEEP_POLICIES | {1}


def compile_config(
    snapshot: Snapshot,
    table: RouteTable,
    counts: Mapping[int, int],
    options: Options,
    deep: bool,
) -> Config:
    """The entry for these settings and routes; `counts`: prefixes by family that go with it."""
    settings = snapshot.settings
    key = hash_key(settings, options)
    suspect, custom_local = _suspect_sources4(table)
    pass4 = pass6 = int(Reason.FORWARDED)
    if settings.ip_forward_use_pmtu:
        pass4 = int(Reason.SETTING)
    if settings.proxy_ndp:
        pass6 = int(Reason.SETTING)
    if settings.ipsec:
        pass4 = pass6 = int(Reason.IPSEC)
    if snapshot.custom_rules4:
        pass4 = int(Reason.POLICY_RULES)
    if snapshot.custom_rules6:
        pass6 = int(Reason.POLICY_RULES)
    config = Config(
        policy4=settings.policy4,
        policy6=settings.policy6,
        fields4=settings.fields4,
        fields6=settings.fields6,
        key=key,
        pass4=pass4,
        pass6=pass6,
        pass_multipath4=_multipath_reason(settings, key, settings.policy4, deep),
        pass_multipath6=_multipath_reason(settings, key, settings.policy6, deep),
        # IPv4's policy 0 hashes addresses alone, IPv6's the fragment header's number too
        pass_fragments4=settings.defragments4 and settings.policy4 != 0,
        pass_fragments6=settings.defragments6,
        local4=None if custom_local else suspect | own_addresses4(snapshot),
        follow_label=options.flow_label == FOLLOW,
    )
    # half a route table would send packets by a shorter prefix: rather pass the whole family
    if counts[4] > CAPACITY["ROUTES4_MAX"]:
        config = config._replace(pass4=int(Reason.TABLE_FULL))
    if counts[6] > CAPACITY["ROUTES6_MAX"]:
        config = config._replace(pass6=int(Reason.TABLE_FULL))
    return config


def stop_at_firewall(config: Config, findings: Findings) -> Config:
    """With the families passing that Linux filters; what else makes one pass goes first."""
    if findings.ipv4 and config.pass4 == Reason.FORWARDED:
        config = config._replace(pass4=int(Reason.FIREWALL))
    if findings.ipv6 and config.pass6 == Reason.FORWARDED:
        config = config._replace(pass6=int(Reason.FIREWALL))
    return config


def hash_key(settings: Settings, options: Options) -> HashKey | None:
    """What to hash with: Linux's own key, wherever it is known; else a seed of ours, if that was
    asked for."""
    if settings.seed is not None:
        return HashKey.of_seed(settings.seed, Origin.SYSCTL)
    if settings.found_key is not None or options.own_seed is None:
        return settings.found_key
    return HashKey.of_seed(options.own_seed, Origin.OWN)


def _multipath_reason(settings: Settings, key: HashKey | None, policy: int, deep: bool) -> int:
    known = SIMPLE_POLICIES | (DEEP_POLICIES if deep else set())
    if policy not in known or (settings.flow_dissector and policy != 0):
        return int(Reason.POLICY_UNSUPPORTED)
    return int(Reason.SEED_UNKNOWN if key is None else Reason.FORWARDED)


def own_addresses4(snapshot: Snapshot) -> frozenset[bytes]:
    """This host's IPv4 addresses. Linux refuses them as sources even if their local route has
    been deleted: inet_lookup_ifaddr_rcu()."""
    return frozenset[bytes]().union(*(link.addresses4 for link in snapshot.links.values()))


def is_local4(route: Route) -> bool:
    """Whether it bears on which IPv4 sources are looked up."""
    return route.prefix.family == 4 and (
        route.table == TABLE_LOCAL or route.kind is RouteKind.LOCAL
    )


def _suspect_sources4(table: RouteTable) -> tuple[frozenset[bytes], bool]:
    """Our IPv4 addresses and our networks' broadcast addresses, and whether somebody added local
    routes by hand (which makes the kernel look every source up: fib_has_custom_local_routes).

    A local network that the kernel made itself, except 127.0.0.0/8 (an address with a prefix on
    `lo`), counts as such: the kernel refuses all of it once there has been a local route by hand,
    even one that is long gone.

    Broadcast addresses are refused as a source once there has been a rule, even one that is long
    gone (fib_has_custom_rules): that cannot be read, so Linux decides.
    """
    suspect: set[bytes] = set()
    custom = False
    for route in table.where(is_local4):
        if route.table != TABLE_LOCAL or route.protocol != _RTPROT_KERNEL:
            custom = True
        elif route.prefix.length == 32:
            suspect.add(route.prefix.address)
        elif route.prefix != _LOOPBACK:
            custom = True
    return frozenset(suspect), custom


def local4_filter(addresses: Collection[bytes] | None) -> list[int]:
    """The Bloom filter of struct config: one bit an address, by the hash that check_source4() in
    bpf/lookup.c uses. All ones for None."""
    if addresses is None:
        return [(1 << 64) - 1] * LOCAL4_FILTER_WORDS
    words = [0] * LOCAL4_FILTER_WORDS
    for address in addresses:
        product = int.from_bytes(address, "little") * LOCAL4_FILTER_MULTIPLIER & 0xFFFFFFFF
        bit = product >> LOCAL4_FILTER_SHIFT
        words[bit >> 6] |= 1 << (bit & 63)
    return words
