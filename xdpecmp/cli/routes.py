"""`xdpecmp routes`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import click

from .. import output
from ..compile import covers
from ..errors import RouteNotFound
from ..model import Prefix
from ..view import RouteView
from .common import json_option, view


class PrefixType(click.ParamType[Prefix]):
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
        routes = list(data_path.routes())
    if prefix is not None:
        routes = [_chosen(prefix, routes)]
    if as_json:
        output.print_json([route.row() for route in routes])
        return
    output.print_table(
        _rows(routes),
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
    )


def _chosen(prefix: Prefix, routes: Iterable[RouteView]) -> RouteView:
    """The route of that prefix, or for an address the longest that covers it."""
    is_address = prefix.length == len(prefix.address) * 8
    fitting = [
        route
        for route in routes
        if route.prefix == prefix or (is_address and covers(route.prefix, prefix))
    ]
    if not fitting:
        raise RouteNotFound(f"no route {prefix} in the data path", "list them: xdpecmp routes")
    return max(fitting, key=lambda route: route.prefix.length)


def _rows(routes: Iterable[RouteView]) -> Iterator[dict[str, object]]:
    """A row for each next hop; the prefix stands in the first."""
    for route in routes:
        lead: dict[str, object] = {"prefix": str(route.prefix), "kind": route.kind}
        if not route.paths:
            yield lead | {"state": (route.reason or "").lower()}
        for path in route.paths:
            row = path.row() | {"share": f"{float(path.share):.2%}", "via": path.via or "on-link"}
            yield lead | row
            lead = {"prefix": "", "kind": ""}
