"""`xdpecmp weights`."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import click

from ..control.networkd import networkd_devices
from ..control.weightplan import HeldWeights, NotMirrored, Selector, WeightChange, plan, wait_until
from ..errors import RouteNotFound, shortened
from ..instance.instance import Instance, NotAttached
from ..model.values import Prefix, RouteKind
from ..netlink import Kernel
from ..observe.columns import Columns
from ..observe.view import View
from . import asjson, output
from .common import ParameterType, json_option
from .routes import PREFIX

_MOST_NAMED = 5

FOLLOW_SECONDS = 5.0
"""How long the agent may take on a large table before we say that it doesn't follow."""


class WeightType(ParameterType[tuple[Selector, int]]):
    """VIA=W, VIA%DEV=W or %DEV=W."""

    name = "via=weight"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Selector, int]:
        selector, equals, weight = value.rpartition("=")
        if not equals or not re.fullmatch(r"-?[0-9]{1,9}", weight):
            text = f"{shortened(value)} is not VIA=WEIGHT, as in 192.0.2.1=3"
            self.fail(text, param, ctx)
        try:
            return Selector.parse(selector), int(weight)
        except ValueError as error:
            self.fail(f"{shortened(value)}: {error}", param, ctx)


@click.command("weights")
@click.argument("prefix", type=PREFIX)
@click.argument("weights", metavar="VIA=W...", type=WeightType(), nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only say what share of the flows would move.")
@click.option("--force", is_flag=True, help="Even if somebody else looks after the weights.")
@json_option
def command(
    prefix: Prefix,
    weights: tuple[tuple[Selector, int], ...],
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Change the weights of a multipath route, in the kernel and so in the data path.

    Next hops that are not named keep their weights. VIA%DEV tells apart next hops with the same
    address, %DEV is one without an address. If a nexthop group holds the weights the group
    changes, and with it all routes that use it. Weights that a routing daemon or another program
    looks after are left alone, unless --force insists. Returns when packets go by the new weights.
    """
    with Kernel() as kernel:
        change = plan(
            kernel.routes_to(prefix), kernel.links(), prefix, weights, partial(_held, kernel)
        )
        networkd = networkd_devices(change.links)
        owner = change.owner(networkd)
        if not dry_run:
            if not force:
                change.check_owner(networkd)
            if change.held:
                held = change.held
                kernel.set_group_weights(held.group.id, held.member_ids, change.new)
            else:
                kernel.set_weights(change.route, change.new)
            _wait_for_data_path(kernel, change)
        if owner:
            output.note(f"{change.belongs(owner)}; {owner.advice}")
    if as_json:
        output.print_json(asjson.weights(change, owner.name if owner else None))
    else:
        _print(change, dry_run)


def _held(kernel: Kernel, nhid: int) -> HeldWeights | None:
    """The group of that id, None if it is a next hop alone. Raises RouteNotFound if it
    changes while it is read."""
    group = kernel.nexthops().get(nhid)
    if group is None or group.single or group.kind is not RouteKind.UNICAST:
        return None
    told = kernel.group_members(nhid)
    if len(told.members) != len(group.members):
        raise RouteNotFound(f"nexthop group {nhid} changes while it is read", "try again")
    users = kernel.group_users(nhid, _MOST_NAMED)
    members = tuple(member for member, _ in told.members)
    return HeldWeights(group, told.protocol, members, told.max_weight, *users)


def _wait_for_data_path(kernel: Kernel, change: WeightChange) -> None:
    """Until the data path has the new weights. Raises NotMirrored; notes that nothing runs."""
    try:
        maps = Instance().open_maps()
    except NotAttached:
        output.note("xdpecmp is not attached here: the kernel alone goes by these weights")
        return
    with maps:
        if change.resilient:
            return  # buckets follow one by one, as they become idle
        view = View(maps, kernel.links())
        if not wait_until(lambda: _mirrored(view, change), FOLLOW_SECONDS):
            raise NotMirrored(
                f"the kernel has the new weights of {change.route.prefix}, the data path not yet",
                "see whether the agent runs: xdpecmp status",
            )


def _mirrored(view: View, change: WeightChange) -> bool:
    route = view.route(change.route.prefix)
    if route is None or route.kind == "pass":
        return route is not None
    wanted = {
        (hop.via, hop.dev, weight) for hop, weight in zip(change.hops(), change.new, strict=True)
    }
    # the data path may leave some out: the dead, the bad under fib_multipath_use_neigh
    return wanted.issuperset((path.via, path.dev, path.weight) for path in route.paths)


def _print(change: WeightChange, dry_run: bool) -> None:
    verb = "would move" if dry_run else "moved"
    what = "flows"
    if change.held and change.resilient:
        verb = "would move" if dry_run else "move"
        verb += f", each once it has been idle for {change.held.group.idle_s:g} s"
        what = "buckets"
    click.echo(f"{change.route.prefix}: {float(change.moved):.2%} of the {what} {verb}")
    if change.held:
        click.echo(_users_text(change.held, dry_run))
    rows = [
        {
            "via": row.hop.via or "on-link",
            "dev": row.hop.dev,
            "weight": f"{row.old_weight} → {row.new_weight}",
            "share": f"{float(row.old_share):.2%} → {float(row.new_share):.2%}",
        }
        for row in change.rows()
    ]
    headings = {"via": "VIA", "dev": "DEV", "weight": "WEIGHT", "share": "SHARE"}
    output.print_table(rows, Columns(headings))


def _users_text(held: HeldWeights, dry_run: bool) -> str:
    verb = "would change" if dry_run else "changed"
    if held.users == 1:
        return f"nexthop group {held.group.id} {verb}, which no other route uses"
    more = held.users - len(held.first_users)
    names = ", ".join(map(str, held.first_users)) + (f" and {more:,} more" if more > 0 else "")
    return f"nexthop group {held.group.id} {verb}, and with it {held.users:,} routes: {names}"
