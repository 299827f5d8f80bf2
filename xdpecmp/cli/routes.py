"""`xdpecmp routes`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import click

from ..errors import RouteNotFound
from ..model.values import Prefix
from ..observe.columns import Columns
from ..observe.state import PathState, RouteState
from ..observe.view import View
from . import asjson, output
from .common import ParameterType, json_option, view


class PrefixType(ParameterType[Prefix]):
    """10.0.0.0/8, 2001:db8::/32, default, or an address."""

    name = "prefix"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Prefix:
        try:
            return Prefix.parse(value)
        except ValueError as error:
            self.fail(f"{error}", param, ctx)


PREFIX = PrefixType()


@click.command("routes")
@click.argument("prefix", type=PREFIX, required=False)
@json_option
def command(prefix: Prefix | None, as_json: bool) -> None:
    """Show where each prefix leads, as the data path has it.

    With an address: the route that its packets take. With a prefix: that route alone.
    """
    with view() as data_path:
        routes = data_path.routes() if prefix is None else iter([_chosen(data_path, prefix)])
        if as_json:
            output.print_json_array(asjson.route(route) for route in routes)
        else:
            output.print_table(_rows(routes), COLUMNS)


COLUMNS = Columns(
    {
        "prefix": "PREFIX",
        "kind": "KIND",
        "via": "VIA",
        "dev": "DEV",
        "weight": "WEIGHT",
        "share": "SHARE",
        "state": "STATE",
        "lladdr": "LLADDR",
    },
    optional=("lladdr", "kind"),
    lead=True,
)


def _chosen(data_path: View, prefix: Prefix) -> RouteState:
    """The route of that prefix, or for an address the longest that covers it."""
    route = data_path.chosen(prefix)
    if route is None:
        raise RouteNotFound(f"no route {prefix} in the data path", "list them: xdpecmp routes")
    return route


def _rows(routes: Iterable[RouteState]) -> Iterator[dict[str, object]]:
    """A row for each next hop; the prefix stands in the first."""
    known: dict[int, tuple[object, list[dict[str, object]]]] = {}
    for route in routes:
        lead: dict[str, object] = {"prefix": str(route.prefix), "kind": route.kind}
        if not route.paths:
            yield NOTHING | lead | {"state": (route.reason or "").lower()}
        # thousands of prefixes share their paths, which are one object then
        if id(route.paths) not in known:
            known[id(route.paths)] = route.paths, [_path_row(path) for path in route.paths]
        for row in known[id(route.paths)][1]:
            yield row | lead
            lead = {"prefix": "", "kind": ""}


NOTHING = dict.fromkeys(("via", "dev", "weight", "share", "lladdr"), "")
"""Of a prefix that leads nowhere: what does not apply stays blank."""


def _path_row(path: PathState) -> dict[str, object]:
    return asdict(path) | {"share": f"{float(path.share):.2%}", "via": path.via or "on-link"}
