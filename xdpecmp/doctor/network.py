"""Checks of the network namespace: what takes the slow path whatever interface it comes in by."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator

from ..compile import ownseed
from ..control import advice
from ..model.values import Prefix, Route, RouteKind
from ..netlink.neighbours import NUD_FAILED
from ..observe import bypass
from ..observe.hashkey import KNOWN
from ..program.abi import MAX_BUCKETS, MAX_PATHS, Reason
from .facts import Facts
from .finding import Finding, from_note, note, ok

_MOST_NAMED = 3

_POLICIES = {
    0: "addresses",
    1: "addresses and ports",
    2: "addresses, of the inner packet in tunnels",
    3: "chosen fields",
}

_SEE = {
    (4, Reason.POLICY_RULES): "ip rule show",
    (6, Reason.POLICY_RULES): "ip -6 rule show",
    (4, Reason.IPSEC): "ip xfrm policy; ip xfrm policy getdefault",
    (6, Reason.IPSEC): "ip xfrm policy; ip xfrm policy getdefault",
    (4, Reason.SETTING): "sysctl -w net.ipv4.ip_forward_use_pmtu=0",
    (6, Reason.SETTING): "sysctl net.ipv6.conf.all.proxy_ndp; ip -6 neigh show proxy",
}
"""Shows what makes a family pass as a whole. Only a default is named as a remedy: whoever has set
something else may need it."""


def check_network(facts: Facts) -> Iterator[Finding]:
    """All of them, those that make most pass first."""
    yield from _whole_families(facts)
    yield from _seed(facts)
    yield from _policies(facts)
    yield from _disagreement(facts)
    yield from _firewall(facts)
    yield from _unsupported_routes(facts)
    yield from _failed_gateways(facts)
    yield from _flow_label(facts)
    if facts.unseen:
        yield note(
            "unseen",
            f"not looked at: {', '.join(facts.unseen)}: not permitted",
            "sudo xdpecmp doctor",
        )


def _whole_families(facts: Facts) -> Iterator[Finding]:
    config = facts.tables.config
    reasons = {4: config.pass4, 6: config.pass6}
    for family, reason in reasons.items():
        if reason not in (Reason.FORWARDED, Reason.FIREWALL):  # which has a check of its own
            fix = _SEE.get((family, reason), "")
            yield from_note("passed", advice.passed_whole(family, reason), fix=fix)
    if not any(reasons.values()):
        yield ok("passed", "nothing makes a whole family pass to Linux (policy rules, IPsec)")


def _seed(facts: Facts) -> Iterator[Finding]:
    settings = facts.snapshot.settings
    config = facts.tables.config
    if settings.seed is not None:
        yield ok("seed", "the kernel's hash seed is known")
    elif config.key is not None and not config.own_seed:
        yield ok("seed", f"the kernel's hash key is known: {KNOWN[config.key.origin]}")
    elif not advice.multipath_families(facts.tables):
        yield ok("seed", "no multipath route, so no hash seed is needed")
    elif config.own_seed:
        for each in advice.own_seed_passes(config, facts.snapshot.links):
            yield from_note("seed", each)
        if ownseed.in_force(config):
            yield from_note("seed", advice.OWN_SEED)
    elif not facts.host.root:
        yield note(
            "seed",
            "multipath routes need Linux's hash key, which takes root to look for",
            "sudo xdpecmp doctor",
        )
    else:
        yield from_note("seed", advice.key_unknown(facts.key_state, facts.has_seed_setting))


def _policies(facts: Facts) -> Iterator[Finding]:
    settings, config = facts.snapshot.settings, facts.tables.config
    families = advice.multipath_families(facts.tables)
    for family, policy, fields, passed in (
        (4, settings.policy4, settings.fields4, config.pass_multipath4),
        (6, settings.policy6, settings.fields6, config.pass_multipath6),
    ):
        if passed == Reason.POLICY_UNSUPPORTED and family in families:
            yield from_note("policy", advice.policy_unsupported(family))
            continue
        what = _POLICIES.get(policy, "")
        if policy == 3:
            what += f", {fields:#x} (net.ipv{family}.fib_multipath_hash_fields)"
        elif policy == 0 and family == 6:
            what += ", next header and flow label"
        yield ok("policy", f"IPv{family} hash policy {policy}: {what}")


def _disagreement(facts: Facts) -> Iterator[Finding]:
    if facts.disagreement is None:
        return
    attached = facts.running.status is not None
    yield note(
        "agreement",
        advice.disagrees(facts.disagreement),
        f"xdpecmp verify {facts.disagreement}" if attached else "",
    )


def _firewall(facts: Facts) -> Iterator[Finding]:
    """XDP comes before netfilter and traffic control."""
    found = facts.tables.findings
    for text, names in bypass.sentences(found, facts.bypasses_firewall):
        yield note("firewall", text, bypass.command(names))
    if not found.all() and not facts.unseen:
        yield ok("firewall", "nothing in netfilter or tc that forwarded packets would bypass")


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# --- routes --------------------------------------------------------------------------------------


def _unsupported_routes(facts: Facts) -> Iterator[Finding]:
    """How many, a few of them, and why. Link-local ones pass anyway."""
    causes = {
        prefix: ""
        for prefix, target in facts.tables.routes.items()
        if target == Reason.ROUTE_UNSUPPORTED and not _is_link_local(prefix)
    }
    for route in facts.snapshot.routes if causes else ():
        if route.prefix in causes:
            causes[route.prefix] = causes[route.prefix] or _cause(facts, route)
    by_cause: dict[str, list[Prefix]] = defaultdict(list)
    for prefix, cause in sorted(causes.items()):
        by_cause[cause or "a combination that only Linux handles"].append(prefix)
    for cause, prefixes in by_cause.items():
        many = f"{len(prefixes):,} route{'s' * (len(prefixes) > 1)}"
        family = "-6 " * (prefixes[0].family == 6)
        yield note(
            "routes",
            f"{many} left to Linux for {cause}: {_some(tuple(map(str, prefixes)))}",
            f"ip {family}route show {prefixes[0]}",
        )


def _is_link_local(prefix: Prefix) -> bool:
    return ipaddress.ip_address(prefix.address).is_link_local


def _cause(facts: Facts, route: Route) -> str:
    """Why this route passes, "" if it is not the one that does."""
    if route.tos:
        return "a TOS"
    if route.source_bits:
        return "a source prefix"
    if route.nhid:
        group = facts.snapshot.nexthop_groups.get(route.nhid)
        if group is None or group.kind is RouteKind.UNSUPPORTED:
            return f"nexthop object {route.nhid}, of a kind that only Linux handles"
        if len(group.members) > MAX_PATHS or len(group.buckets) > MAX_BUCKETS:
            return f"nexthop object {route.nhid}, which is larger than {MAX_PATHS:,} next hops"
    if route.kind is RouteKind.UNSUPPORTED:
        return "an MTU, an encapsulation or another attribute that only Linux handles"
    if len(route.paths) > MAX_PATHS:
        return f"more than {MAX_PATHS:,} next hops"
    return ""


def _failed_gateways(facts: Facts) -> Iterator[Finding]:
    """Gateways that Linux itself has given up."""
    links = facts.snapshot.links
    for gateway in sorted(facts.tables.gateways):
        neighbour = facts.snapshot.neighbours.get((gateway.via, gateway.ifindex))
        if neighbour and neighbour.state & NUD_FAILED and gateway.ifindex in links:
            address, device = ipaddress.ip_address(gateway.via), links[gateway.ifindex].name
            yield note(
                "next hop",
                f"next hop {address} does not answer on {device}: its packets pass to Linux",
                f"ping -c 1 -I {device} {address}",
            )


def _flow_label(facts: Facts) -> Iterator[Finding]:
    for said in advice.flow_label_use(facts.tables):
        yield from_note("flow label", said)
