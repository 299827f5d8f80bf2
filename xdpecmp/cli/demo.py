"""`xdpecmp demo`."""

from __future__ import annotations

import click
from rich.console import Console

from .. import demo
from . import asjson, output
from .common import NumberType


@click.command("demo")
@click.option(
    "--requests",
    type=NumberType(20, demo.MOST_SOURCES),
    default=300,
    show_default=True,
    help="HTTP requests for each address family, each from its own source address.",
)
@click.option(
    "--policy",
    type=click.Choice(["0", "1"]),
    default="0",
    show_default=True,
    help="fib_multipath_hash_policy of the router. Under 1, Linux alone sends ICMP errors astray.",
)
@click.option("--no-attach", is_flag=True, help="Let Linux forward alone, to compare.")
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def command(
    context: click.Context,
    requests: int,
    policy: str,
    no_attach: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """See it work: a client, a router, two weighted servers, in new namespaces.

    Sends HTTP requests over IPv4 and IPv6, compares the split with what is fair, and shows that a
    Packet Too Big reaches the server it is meant for. Removes everything afterwards. Exit status 1
    if a figure is not as it should be.
    """
    # Data goes to stdout; with --json what the demo is doing is status, not data.
    console = Console(stderr=as_json)
    report = demo.run(
        console, requests=requests, policy=int(policy), attach=not no_attach, keep=keep
    )
    if as_json:
        output.print_json(asjson.demo(report))
    context.exit(1 if report.problems() else 0)
