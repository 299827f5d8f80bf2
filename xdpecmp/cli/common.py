"""What several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..instance import Instance
from ..netlink import Kernel
from ..view import View

json_option = click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def view() -> Iterator[View]:
    """The running instance's data path."""
    with Kernel() as kernel, Instance().open_maps() as maps:
        yield View(maps, kernel.links())
