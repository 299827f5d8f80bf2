"""`xdpecmp detach`."""

from __future__ import annotations

import click

from ..control.detach import detach


@click.command("detach")
@click.argument("interfaces", metavar="[IFACE...]", nargs=-1)
@click.option("--all", "every", is_flag=True, help="From every interface of the namespace.")
def command(interfaces: tuple[str, ...], every: bool) -> None:
    """Leave forwarding to Linux again.

    Removes our own program only. With the last interface the agent ends and nothing is left.
    """
    if every == bool(interfaces):
        raise click.UsageError("name interfaces, or --all for every one")
    for name in detach(interfaces):
        click.echo(f"{name}: detached", err=True)
