"""`xdpecmp attach`."""

from __future__ import annotations

import sys

import click

from ..control.attach import Wishes, attach
from ..control.attachment import MODES, Attached
from ..instance.instance import Instance
from ..instance.keystore import KeyStore
from ..model.options import FLOW_LABEL
from ..observe.hashkey import progress
from . import output


@click.command("attach")
@click.argument("interfaces", metavar="IFACE...", nargs=-1, required=True)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="auto",
    show_default=True,
    help="native runs in the driver; generic runs on every device, slower.",
)
@click.option(
    "--set-seed",
    is_flag=True,
    help="If Linux keeps its hash seed to itself, set a random one that is known. Flows move "
    "once. Needed only if its key is unavailable: see doctor.",
)
@click.option(
    "--own-seed/--no-own-seed",
    default=None,
    help="If Linux's hash key is unavailable (doctor says why), hash with a seed of "
    "xdpecmp's own, the same each time on this machine, if it is known that no flow is parted: "
    "otherwise multipath passes to Linux, and it is said why. Kept when attaching again; off at "
    "first.",
)
@click.option(
    "--find-key/--no-find-key",
    default=None,
    help="If the sysctl does not tell Linux's hash key, read it from kernel memory or, since Linux "
    "6.11, search it (a few minutes at idle priority); without it multipath passes to Linux then. "
    "Kept when attaching again; on at first.",
)
@click.option(
    "--flow-label",
    type=click.Choice(FLOW_LABEL),
    help="Hash the IPv6 flow label under policy 0 as Linux does, or ignore it, so that ICMPv6 "
    "errors follow their flow wherever servers do not reflect it; flows then go otherwise than by "
    "Linux. Kept when attaching again; follow at first.",
)
@click.option(
    "--bypass-firewall/--no-bypass-firewall",
    default=None,
    help="Forward even what nftables, iptables, NAT, connection tracking, IPVS or tc of this host "
    "would see: it is neither filtered nor translated, counted, tracked or shaped then, and what "
    "passes to Linux meets a firewall that has seen a part of each connection. Without it such a "
    "family passes to Linux as a whole. Kept when attaching again; off at first.",
)
@click.option("--foreground", is_flag=True, help="Keep the agent in front, for a service manager.")
@click.pass_obj
def command(
    netns: str | None,
    interfaces: tuple[str, ...],
    mode: str,
    set_seed: bool,
    flow_label: str | None,
    own_seed: bool | None,
    find_key: bool | None,
    bypass_firewall: bool | None,
    foreground: bool,
) -> None:
    """Forward what these interfaces receive in XDP, as Linux would.

    Returns when the data path is in sync with the kernel's routes; an agent stays behind and
    follows them. If something is attached already it is upgraded in place, without a gap
    unless --mode asks for another mode.
    """
    if set_seed and own_seed:
        raise click.UsageError(
            "--set-seed makes Linux's hash seed known, --own-seed does without it: choose one"
        )
    wishes = Wishes(mode, set_seed, flow_label, own_seed, find_key, bypass_firewall)
    if foreground:
        attach(interfaces, wishes, netns, foreground=_tell)
    else:
        _tell(attach(interfaces, wishes, netns))
        if sys.stderr.isatty():
            _watch_search()


def _tell(result: Attached) -> None:
    for name, mode in result.modes.items():
        click.echo(f"{name}: attached, {mode} mode", err=True)
    for note in result.notes:
        output.note(note)


def _watch_search() -> None:
    """Show how far the search of Linux's key is, until it ends. Ctrl-C ends no more than that."""
    shown = False
    try:
        for said in progress(Instance(), KeyStore()):
            click.echo(f"\r\033[Ksearching Linux's hash key: {said}", err=True, nl=False)
            shown = True
        if shown:
            click.echo("", err=True)
    except KeyboardInterrupt:
        click.echo(f"\n{output.placed('the search goes on: xdpecmp status')}", err=True)
