"""What `explain` and `verify` print of a packet for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from ..model.values import Link
from ..observe.devices import device_name, hop
from ..observe.explain import Comparison, Explained, ResilientGroup, ThresholdGroup
from ..program.abi import REASON_TEXT
from . import asjson

_NEIGHBOURHOOD = 2
_SHOWN_WHOLE = 16
"""Groups up to this long are shown whole, of longer ones the chosen path and some beside it."""

_AS_PYTHON = {
    True: "as Python computes it",
    False: "PYTHON COMPUTES ANOTHER ONE",
    None: "not checked",
}


def print_lines(explained: Explained, links: Mapping[int, Link]) -> None:
    """A line for each thing that there is to say of a packet."""
    for name, text in _lines(explained, links):
        click.echo(f"{name:<9}{text}")


def _lines(explained: Explained, links: Mapping[int, Link]) -> Iterator[tuple[str, str]]:
    decision, chosen = explained.decision, explained.chosen
    to = hop(links, chosen) if chosen else None
    ingress = f", in on {device_name(links, decision.ingress)}" if decision.ingress else ""
    yield "verdict", (f"forward {to}" if decision.forwards else "pass to Linux") + ingress
    yield "reason", f"{decision.reason.name}: {REASON_TEXT[decision.reason.name]}"
    if explained.prefix:
        yield "route", str(explained.prefix)
    key = asjson.key(explained.reference)
    if key:
        about = ", of the packet that the ICMP error quotes" if decision.is_icmp_error else ""
        yield "key", f"{_key_text(key)} (policy {decision.settings.policy}{about})"
    if decision.hash is not None:
        yield "hash", f"{decision.hash} ({_AS_PYTHON[explained.reference_agrees]})"
    if isinstance(explained.group, ResilientGroup):
        yield "group", _buckets_text(explained.group)
    elif explained.group:
        yield from _path_lines(explained.group, links)
    if to and not decision.forwards:
        yield "choice", f"{to}, though it does not go there by XDP"
    yield "Linux", _linux(explained.comparison, links)


def _key_text(key: Mapping[str, object]) -> str:
    outer = " ".join(f"{k} {v}" for k, v in key.items() if k not in ("family", "inner"))
    inner = key.get("inner")
    return f"{outer} inner {_key_text(inner)}" if isinstance(inner, dict) else outer


def _buckets_text(group: ResilientGroup) -> str:
    bucket = "" if group.bucket is None else f"bucket {group.bucket} "
    return f"resilient, {bucket}of {group.buckets}"


def _path_lines(group: ThresholdGroup, links: Mapping[int, Link]) -> Iterator[tuple[str, str]]:
    yield "group", f"threshold, {len(group.paths)} paths"
    for i, path in enumerate(group.paths):
        if len(group.paths) > _SHOWN_WHOLE and abs(i - (group.chosen or 0)) > _NEIGHBOURHOOD:
            continue
        mark = ">" if i == group.chosen else ""
        to = hop(links, path.nexthop)
        yield f"{mark:>8}", f"hash up to {path.bound:>10}: {to} weight {path.weight}"


def _linux(comparison: Comparison, links: Mapping[int, Link]) -> str:
    answer = comparison.answer
    said = ""
    if answer is not None:
        said = str(hop(links, answer.nexthop)) if answer.nexthop else str(answer)
    verdict = {True: "agrees", False: "DISAGREES", None: "not compared"}[comparison.agrees]
    return ": ".join(part for part in (verdict, comparison.why, said) if part)
