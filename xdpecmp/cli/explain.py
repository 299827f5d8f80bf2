"""`xdpecmp explain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from ..errors import NoSuchInterface
from ..instance.instance import Instance, NotAttached
from ..model.values import Link, Prefix
from ..netlink import Kernel
from ..observe.devices import our_links
from ..observe.explain import Explained, Explainer, Ingress, explain, ingress_of, stack
from ..observe.frames import (
    MAX_FRAME,
    MIN_FRAME,
    BadInput,
    check_size,
    encapsulate,
    frame_of,
    parse_hex,
    parse_words,
    read_pcap,
)
from ..observe.view import View
from ..program.maps import Maps
from . import asjson, output, packet
from .common import json_option


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
            found = iter([(None, frame_of(asked.flow, ingress.mac, ingress.tags))])
        elif hexadecimal is not None:
            found = iter([(None, parse_hex(hexadecimal))])
        else:
            assert pcap is not None
            found = _captured(pcap, every, ingress)
        with Explainer(instance, maps) as explainer:
            said = [
                (number, explain(explainer, maps, kernel, frame, ingress.ifindex))
                for number, frame in found
            ]
    (_print_json if as_json else _print)(said, links, every)
    context.exit(1 if any(explained.differs for _, explained in said) else 0)


def _captured(path: Path, every: bool, ingress: Ingress) -> Iterator[tuple[int | None, bytes]]:
    captured = list(read_pcap(path.read_bytes()))
    if not captured:
        raise BadInput(f"{path} holds no packet")
    for each in captured if every else captured[:1]:
        if each.missing:
            output.note(
                f"packet {each.number}: {each.missing} bytes were not captured and are taken "
                "as zeros"
            )
        frame = each.data
        if not each.has_ethernet:
            frame = encapsulate(frame, ingress.mac, ingress.tags)
        if not every:
            yield None, check_size(frame)
        elif MIN_FRAME <= len(frame) <= MAX_FRAME:
            yield each.number, frame
        else:  # as GRO makes them: no frame of the wire is like that
            output.note(f"packet {each.number} is left out: {len(frame)} bytes cannot be tried")


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
    attached = our_links(links.values(), instance.program_ids())
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


def _print_json(
    found: Sequence[tuple[int | None, Explained]], links: Mapping[int, Link], every: bool
) -> None:
    rows = [
        ({"packet": number} if number else {}) | asjson.explained(explained, links)
        for number, explained in found
    ]
    output.print_json(rows if every else rows[0])


def _print(
    found: Sequence[tuple[int | None, Explained]], links: Mapping[int, Link], every: bool
) -> None:
    for i, (number, explained) in enumerate(found):
        if i:
            click.echo()
        if every:
            click.echo(f"packet {number}")
        packet.print_lines(explained, links)
