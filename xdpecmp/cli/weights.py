"""`xdpecmp weights`."""

from __future__ import annotations

from typing import Any

import click

from .. import output
from ..instance import Instance, NotAttached
from ..model import Prefix
from ..netlink import Kernel
from ..tables import Columns
from ..view import View
from ..weights import Change, NotMirrored, Selector, check_owner, plan, wait_until
from .common import json_option
from .routes import PREFIX

FOLLOW_SECONDS = 5.0
"""How long the agent may take on a large table before we say that it doesn't follow."""


class WeightType(click.ParamType[tuple[Selector, int]]):
    """VIA=W, VIA%DEV=W or %DEV=W."""

    name = "via=weight"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Selector, int]:
        selector, equals, weight = value.rpartition("=")
        if not equals or not weight.lstrip("-").isdecimal():
            self.fail(f"{value!r} is not VIA=WEIGHT, as in 192.0.2.1=3", param, ctx)
        try:
            return Selector.parse(selector), int(weight)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


@click.command("weights")
@click.argument("prefix", type=PREFIX)
@click.argument("weights", metavar="VIA=W...", type=WeightType(), nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only say what share of the flows would move.")
@click.option("--force", is_flag=True, help="Even if the route belongs to a routing daemon.")
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
    address, %DEV is one without an address. Returns when packets go by the new weights.
    """
    with Kernel() as kernel:
        change = plan(kernel.routes_to(prefix), kernel.links(), prefix, dict(weights))
        if not dry_run:
            if not force:
                check_owner(change.route)
            kernel.set_weights(change.route, change.new)
            _wait_for_data_path(kernel, change)
    if as_json:
        output.print_json(change.as_json())
    else:
        _print(change, dry_run)


def _wait_for_data_path(kernel: Kernel, change: Change) -> None:
    """Until the data path has the new weights. Raises NotMirrored; notes that nothing runs."""
    try:
        maps = Instance().open_maps()
    except NotAttached:
        output.note("xdpecmp is not attached here: the kernel alone goes by these weights")
        return
    with maps:
        view = View(maps, kernel.links())
        if not wait_until(lambda: _mirrored(view, change), FOLLOW_SECONDS):
            raise NotMirrored(
                f"the kernel has the new weights of {change.route.prefix}, the data path not yet",
                "see whether the agent runs: xdpecmp status",
            )


def _mirrored(view: View, change: Change) -> bool:
    route = view.route(change.route.prefix)
    if route is None or route.kind == "pass":
        return route is not None
    wanted = {
        (change.via(path.nexthop), change.device(path.nexthop), weight)
        for path, weight in zip(change.route.paths, change.new, strict=True)
    }
    # the data path may leave some out: the dead, the bad under fib_multipath_use_neigh
    return wanted.issuperset((path.via, path.dev, path.weight) for path in route.paths)


def _print(change: Change, dry_run: bool) -> None:
    data = change.as_json()
    verb = "would move" if dry_run else "moved"
    click.echo(f"{data['prefix']}: {float(change.moved):.2%} of the flows {verb}")
    rows = [
        {
            "via": row["via"] or "on-link",
            "dev": row["dev"],
            "weight": f"{row['old_weight']} → {row['new_weight']}",
            "share": f"{row['old_share']:.2%} → {row['new_share']:.2%}",
        }
        for row in data["nexthops"]
    ]
    headings = {"via": "VIA", "dev": "DEV", "weight": "WEIGHT", "share": "SHARE"}
    output.print_table(rows, Columns(headings))
