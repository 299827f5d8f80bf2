"""What several commands share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..errors import shortened
from ..instance.instance import Instance
from ..netlink import Kernel
from ..observe.view import View

if TYPE_CHECKING:
    ParameterType = click.ParamType
else:

    class ParameterType(click.ParamType):
        """click's, which takes no [type] at run time before 8.4."""

        def __class_getitem__(cls, _: object) -> type:
            return cls


class NumberType(ParameterType[int]):
    """A decimal number within bounds, in plain digits."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if re.fullmatch("[0-9]{1,20}", text) and self.least <= int(text) <= self.most:
            return int(text)
        bounds = f"{self.least} to {self.most}"
        self.fail(f"{shortened(text)} is not a number from {bounds}", param, ctx)


json_option = click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def view() -> Iterator[View]:
    """The running instance's data path."""
    with Kernel() as kernel, Instance().open_maps() as maps:
        yield View(maps, kernel.links())
