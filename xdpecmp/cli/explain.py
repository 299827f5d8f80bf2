"""`xdpecmp explain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from ..errors import NoSuchInterface
from ..hashing import FlowKey, select
from ..instance.instance import Instance, NotAttached
from ..model.values import Link, NextHop, Prefix
from ..netlink import Kernel
from ..observe.explain import (
    Decision,
    Explained,
    Explainer,
    Ingress,
    Twin,
    explain,
    ingress_of,
    nexthop_of,
    stack,
)
from ..observe.frames import (
    MAX_FRAME,
    MIN_FRAME,
    BadInput,
    check_size,
    encapsulate,
    parse_hex,
    parse_words,
    read_pcap,
)
from ..observe.view import View
from ..program.abi import REASON_TEXT, GroupKind
from ..program.maps import Maps
from . import output
from .common import json_option

_NEIGHBOURHOOD = 2
_SHOWN_WHOLE = 16
"""Groups up to this long are shown whole, of longer ones the chosen path and some beside it."""


@click.command("explain")
@click.argument("words", metavar="[DST from SRC [iif IFACE] ...]", nargs=-1)
@click.option(
    "--pcap",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Explain the first packet of a capture.",
)
@click.option("--all", "every", is_flag=True, help="With --pcap: explain every packet.")
@click.option("--hex", "hexadecimal", metavar="HEX", help="Explain an Ethernet frame.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    words: tuple[str, ...],
    pcap: Path | None,
    every: bool,
    hexadecimal: str | None,
    as_json: bool,
) -> None:
    """Say where a packet goes and why, and whether Linux agrees.

    Words as for `ip route get`: DST from SRC [iif IFACE] [ipproto PROTO] [sport N] [dport N]
    [flowlabel N]. With --pcap or --hex only [iif IFACE].

    The decision is that of the program that is attached, on the maps that it goes by; nothing is
    sent, and nothing is counted. Exit status 1 if Linux, asked for the same packet, decides
    otherwise.
    """
    asked = parse_words(words)
    sources = [asked.flow, pcap, hexadecimal]
    if sum(source is not None for source in sources) != 1:
        raise click.UsageError("ask for one thing: DST from SRC ..., or --pcap, or --hex")
    if every and pcap is None:
        raise click.UsageError("--all is for --pcap")
    instance = Instance()
    with Kernel() as kernel, instance.open_maps() as maps:
        links = kernel.links()
        source = asked.flow.source if asked.flow else None
        ingress = _ingress(instance, maps, links, asked.iif, source)
        found: Iterator[tuple[int | None, bytes]]
        if asked.flow is not None:
            found = iter([(None, asked.flow.frame(ingress.mac, ingress.tags))])
        elif hexadecimal is not None:
            found = iter([(None, parse_hex(hexadecimal))])
        else:
            assert pcap is not None
            found = _captured(pcap, every, ingress)
        with Explainer(instance, maps) as explainer:
            rows: list[dict[str, Any]] = []
            differs = False
            for number, frame in found:
                explained = explain(explainer, maps, kernel, frame, ingress.ifindex)
                rows.append({"packet": number} if number else {})
                rows[-1] |= row(explained, maps, Names(links))
                differs = differs or explained.differs
    _print(rows, as_json, every)
    context.exit(1 if differs else 0)


def _captured(path: Path, every: bool, ingress: Ingress) -> Iterator[tuple[int | None, bytes]]:
    packets = list(read_pcap(path.read_bytes()))
    if not packets:
        raise BadInput(f"{path} holds no packet")
    for packet in packets if every else packets[:1]:
        if packet.missing:
            output.note(
                f"packet {packet.number}: {packet.missing} bytes were not captured and are taken "
                "as zeros"
            )
        frame = packet.data
        if not packet.has_ethernet:
            frame = encapsulate(frame, ingress.mac, ingress.tags)
        if not every:
            yield None, check_size(frame)
        elif MIN_FRAME <= len(frame) <= MAX_FRAME:
            yield packet.number, frame
        else:  # as GRO makes them: no frame of the wire is like that
            output.note(f"packet {packet.number} is left out: {len(frame)} bytes cannot be tried")


# --- where it comes in ---------------------------------------------------------------------------


def _ingress(
    instance: Instance,
    maps: Maps,
    links: Mapping[int, Link],
    name: str | None,
    source: bytes | None,
) -> Ingress:
    """By the named interface or, without one, by that which leads back to the source if it is
    attached, else by the first that is."""
    ours = instance.program_ids()
    attached = [link for link in links.values() if link.xdp_prog_id in ours]
    by_name = {link.name: link for link in links.values()}
    if name is not None:
        if name not in by_name:
            raise NoSuchInterface(name)
        return ingress_of(links, attached, by_name[name])
    if not attached:
        raise NotAttached
    chosen = attached[0]
    back = View(maps, links).route(Prefix(source, len(source) * 8)) if source else None
    towards = {path.dev for path in back.paths} if back else set()
    for link in links.values():
        device = stack(links, link)[-1]
        bonded = {each.master for each in attached}
        if (device in attached or device.ifindex in bonded) and link.name in towards:
            chosen = link
    return ingress_of(links, attached, chosen)


# --- what is printed -----------------------------------------------------------------------------


class Names:
    """Addresses and devices as people read them."""

    def __init__(self, links: Mapping[int, Link]) -> None:
        self._links = links

    def device(self, ifindex: int) -> str | None:
        link = self._links.get(ifindex)
        return link.name if link else f"if{ifindex}" if ifindex else None

    def hop(self, nexthop: NextHop | None) -> dict[str, Any]:
        """{"via", "dev"}; both null where there is none, via alone for a host on the link."""
        if nexthop is None:
            return {"via": None, "dev": None}
        via = str(ip_address(nexthop.via)) if nexthop.via else None
        return {"via": via, "dev": self.device(nexthop.ifindex)}


def row(explained: Explained, maps: Maps, names: Names) -> dict[str, Any]:
    """What `explain -j` prints of a packet."""
    decision, comparison = explained.decision, explained.comparison
    answer = comparison.answer
    kernel = names.hop(answer.nexthop) if answer else None
    if kernel is not None and answer is not None and answer.nexthop is None:
        kernel["error"] = str(answer)
    return {
        "verdict": "forward" if decision.forwards else "pass",
        "reason": decision.reason.name,
        "text": REASON_TEXT[decision.reason.name],
        "iif": names.device(decision.ingress),
        "prefix": str(explained.prefix) if explained.prefix else None,
        "policy": decision.settings.policy if decision.hash is not None else None,
        "key": key_row(explained.twin),
        "icmp_error": decision.is_icmp_error,
        "hash": decision.hash,
        "twin_agrees": explained.twin_agrees,
        "group": _group_row(decision, maps, names) if decision.is_multipath else None,
        **names.hop(explained.chosen),
        "kernel": kernel,
        "agrees": comparison.agrees,
        "why": comparison.why or None,
    }


def key_row(twin: Twin | None) -> dict[str, Any] | None:
    """The key field by field; under policy 3 that of the inner header is part of it."""
    if twin is None:
        return None
    keys = twin.keys
    if keys.only:
        return _fields(keys.only)
    return (_fields(keys.outer) if keys.outer else {}) | {
        "inner": _fields(keys.inner) if keys.inner else None
    }


def _fields(key: FlowKey) -> dict[str, Any]:
    fields = key._asdict()
    del fields["label_as_on_the_wire"]
    for side in ("source", "destination"):
        fields[side] = str(ip_address(fields[side]))
    return fields


def _group_row(decision: Decision, maps: Maps, names: Names) -> dict[str, Any]:
    destination = (decision.addresses or (b"", b""))[1]

    def hop(number: int) -> dict[str, Any]:
        return names.hop(nexthop_of(maps, number, destination))

    kind, first, count = decision.group
    if kind == GroupKind.RESILIENT:
        bucket = None if decision.hash is None else decision.hash % count
        return {"kind": "resilient", "buckets": count, "bucket": bucket}
    paths = maps["paths"].entries[first : first + count]
    chosen = None
    if decision.hash is not None:
        chosen = select([path.bound for path in paths], decision.hash)
    return {
        "kind": "threshold",
        "paths": [
            hop(path.nexthop)
            | {"weight": (path.weight + 1) & 0xFFFF, "bound": path.bound, "chosen": i == chosen}
            for i, path in enumerate(paths)
        ],
    }


def _print(rows: Sequence[dict[str, Any]], as_json: bool, every: bool) -> None:
    if as_json:
        output.print_json(list(rows) if every else rows[0])
        return
    for i, each in enumerate(rows):
        if i:
            click.echo()
        if every:
            click.echo(f"packet {each['packet']}")
        for name, text in lines(each):
            click.echo(f"{name:<9}{text}")


def lines(shown: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """For people: what, and what is to be said of it."""
    to = _hop(shown) if shown["verdict"] == "forward" else "to Linux"
    yield (
        "verdict",
        f"{shown['verdict']} {to}" + (f", in on {shown['iif']}" if shown["iif"] else ""),
    )
    yield "reason", f"{shown['reason']}: {shown['text']}"
    if shown["prefix"]:
        yield "route", shown["prefix"]
    if shown["key"]:
        about = ", of the packet that the ICMP error quotes" if shown["icmp_error"] else ""
        yield "key", f"{_key_text(shown['key'])} (policy {shown['policy']}{about})"
    if shown["hash"] is not None:
        verdicts = {True: "as Python reckons it", False: "PYTHON RECKONS ANOTHER ONE"}
        yield "hash", f"{shown['hash']} ({verdicts.get(shown['twin_agrees'], 'not checked')})"
    if shown["group"]:
        yield from _group_lines(shown["group"])
    if shown["verdict"] == "pass" and shown["dev"]:
        yield "choice", f"{_hop(shown)}, though it does not go there by XDP"
    yield "Linux", _linux(shown)


def _key_text(key: dict[str, Any]) -> str:
    outer = " ".join(f"{k} {v}" for k, v in key.items() if k not in ("family", "inner"))
    return f"{outer} inner {_key_text(key['inner'])}" if key.get("inner") else outer


def _group_lines(group: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if group["kind"] == "resilient":
        bucket = "" if group["bucket"] is None else f"bucket {group['bucket']} "
        yield "group", f"resilient, {bucket}of {group['buckets']}"
        return
    paths = group["paths"]
    chosen = next((i for i, path in enumerate(paths) if path["chosen"]), 0)
    yield "group", f"threshold, {len(paths)} paths"
    for i, path in enumerate(paths):
        if len(paths) > _SHOWN_WHOLE and abs(i - chosen) > _NEIGHBOURHOOD:
            continue
        mark = ">" if path["chosen"] else ""
        yield f"{mark:>8}", f"hash up to {path['bound']:>10}: {_hop(path)} weight {path['weight']}"


def _hop(shown: dict[str, Any]) -> str:
    return (
        f"via {shown['via']} dev {shown['dev']}" if shown["via"] else f"on-link dev {shown['dev']}"
    )


def _linux(shown: dict[str, Any]) -> str:
    kernel, verdict = shown["kernel"], {True: "agrees", False: "DISAGREES"}.get(shown["agrees"])
    said = "" if kernel is None else kernel.get("error") or _hop(kernel)
    return ": ".join(part for part in (verdict or "not compared", shown["why"], said) if part)
