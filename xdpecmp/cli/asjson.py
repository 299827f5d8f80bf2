"""What commands print as JSON, one function for each value. Other programs rely on the keys: more
may be added, none renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from ..control.owners import protocol_name
from ..model.hashkey import Origin
from ..observe.devices import device_name, hop
from ..program.abi import REASON_TEXT

if TYPE_CHECKING:  # what a command does not use need not be imported
    from ..control.weightplan import WeightChange
    from ..demo import Report
    from ..doctor import Finding
    from ..hashing import FlowKey
    from ..model.values import Link, NextHop
    from ..observe.explain import Explained, Reference, ResilientGroup, ThresholdGroup
    from ..observe.state import RouteState, Stats, Status
    from ..observe.verify import Result

Row = dict[str, Any]


# --- what is held and counted --------------------------------------------------------------------


def status(of: Status) -> Row:
    """`status -j`."""
    behind = of.behind_s
    return {
        "interfaces": [asdict(each) for each in of.interfaces],
        "missing": [
            {"ifname": each.ifname, "mode": each.mode, "prog_id": None, "why": each.why}
            for each in of.missing
        ],
        "passed": [asdict(each) for each in of.passed],
        "firewall": {
            "ipv4": list(of.firewall.findings.ipv4),
            "ipv6": list(of.firewall.findings.ipv6),
            "bypassed": of.firewall.bypassed,
        },
        "policy4": of.policy4,
        "policy6": of.policy6,
        "flow_label": of.flow_label,
        "flow_label_matters": of.flow_label_matters,
        "seed": of.key.seed,
        "seed_known": of.key.is_linuxs,
        "own_seed": of.key.origin is Origin.OWN,
        "own_seed_in_force": of.key.own_in_force,
        "key_origin": of.key.origin.name.lower() if of.key.origin else None,
        "key_missing": of.key.missing or None,
        "key_search": of.key.search and asdict(of.key.search),
        "lease_s": of.lease_s,
        "behind_s": {"4": behind, "6": behind},
        "agent_pid": of.agent_pid,
        "routes4": of.routes4,
        "routes6": of.routes6,
        "groups": of.groups,
        "nexthops": of.nexthops,
        "losses": [asdict(each) for each in of.losses],
    }


def stats(of: Stats) -> Row:
    """`stats -j`."""
    return {
        "nexthops": [asdict(each) for each in of.nexthops],
        "reasons": dict(of.reasons),
        "icmp_errors": dict(of.icmp_errors),
        "devices": [asdict(each) for each in of.devices],
    }


def route(of: RouteState) -> Row:
    """An element of `routes -j`."""
    row: Row = {
        "prefix": str(of.prefix),
        "kind": of.kind,
        "nexthops": [
            {
                "via": path.via,
                "dev": path.dev,
                "weight": path.weight,
                "share": round(float(path.share), 6),
                "state": path.state,
                "lladdr": path.lladdr,
            }
            for path in of.paths
        ],
    }
    return row | ({"reason": of.reason} if of.reason else {})


# --- one packet, and many ------------------------------------------------------------------------


def explained(of: Explained, links: Mapping[int, Link]) -> Row:
    """`explain -j`, and a difference of `verify -j`."""
    decision, comparison = of.decision, of.comparison
    answer = comparison.answer
    kernel = None
    if answer is not None:
        kernel = _hop(links, answer.nexthop)
        if answer.nexthop is None:
            kernel["error"] = str(answer)
    return {
        "verdict": "forward" if decision.forwards else "pass",
        "reason": decision.reason.name,
        "text": REASON_TEXT[decision.reason.name],
        "iif": device_name(links, decision.ingress) if decision.ingress else None,
        "prefix": str(of.prefix) if of.prefix else None,
        "policy": decision.settings.policy if decision.hash is not None else None,
        "key": key(of.reference),
        "icmp_error": decision.is_icmp_error,
        "hash": decision.hash,
        "twin_agrees": of.reference_agrees,
        "group": _group(of.group, links),
        **_hop(links, of.chosen),
        "kernel": kernel,
        "agrees": comparison.agrees,
        "why": comparison.why or None,
    }


def _hop(links: Mapping[int, Link], nexthop: NextHop | None) -> Row:
    """{"via", "dev"}; both null where there is none, via alone for a host on the link."""
    return hop(links, nexthop)._asdict() if nexthop else {"via": None, "dev": None}


def key(of: Reference | None) -> Row | None:
    """The key field by field; under policy 3 that of the inner header is part of it."""
    if of is None:
        return None
    keys = of.keys
    if keys.only:
        return _fields(keys.only)
    return (_fields(keys.outer) if keys.outer else {}) | {
        "inner": _fields(keys.inner) if keys.inner else None
    }


def _fields(of: FlowKey) -> Row:
    fields = of._asdict()
    del fields["label_as_on_the_wire"]
    for side in ("source", "destination"):
        fields[side] = str(ip_address(fields[side]))
    return fields


def _group(of: ThresholdGroup | ResilientGroup | None, links: Mapping[int, Link]) -> Row | None:
    from ..observe.explain import ResilientGroup  # which `status` need not wait for

    if of is None:
        return None
    if isinstance(of, ResilientGroup):
        return {"kind": "resilient", "buckets": of.buckets, "bucket": of.bucket}
    return {
        "kind": "threshold",
        "paths": [
            _hop(links, path.nexthop)
            | {"weight": path.weight, "bound": path.bound, "chosen": i == of.chosen}
            for i, path in enumerate(of.paths)
        ],
    }


def verified(of: Result) -> Row:
    """An element of `routes` in `verify -j`."""
    return {
        "prefix": str(of.prefix),
        "agree": of.agreed,
        "differ": of.differed,
        "without_linux": dict(of.without_linux),
        "no_choice": dict(of.no_choice),
    }


# --- what changes, what surprises ----------------------------------------------------------------


def weights(of: WeightChange, owner: str | None) -> Row:
    """`weights -j`; `owner`: who looks after these weights."""
    held = of.held
    return {
        "prefix": str(of.route.prefix),
        "protocol": protocol_name(of.protocol),
        "moved_share": round(float(of.moved), 9),
        "nexthops": [
            {
                **each.hop._asdict(),
                "old_weight": each.old_weight,
                "new_weight": each.new_weight,
                "old_share": round(float(each.old_share), 9),
                "new_share": round(float(each.new_share), 9),
            }
            for each in of.rows()
        ],
        "nexthop_group": held
        and {
            "id": held.group.id,
            "resilient": held.group.resilient,
            "routes": held.users,
            "first_routes": [str(prefix) for prefix in held.first_users],
        },
        "owner": owner,
    }


def findings(of: Iterable[Finding]) -> list[Row]:
    """`doctor -j`."""
    return [
        {
            "check": each.check,
            "interface": each.interface,
            "verdict": each.verdict.value,
            "found": each.found,
            "fix": each.fix or None,
        }
        for each in of
    ]


def demo(of: Report) -> Row:
    """`demo -j`."""
    problems = of.problems()
    return {"ok": not problems, "problems": problems, **asdict(of)}
