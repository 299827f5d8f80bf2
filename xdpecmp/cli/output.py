"""One way to print: data as a table for people or as JSON for programs, notes on stderr."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..netlink import netns as namespaces
from ..observe.columns import LOOK_AHEAD, Columns, lines

if TYPE_CHECKING:
    from rich.console import Console

_BOLD = "1"


def print_json(data: object) -> None:
    """Data on stdout, as one JSON document."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_json_array(rows: Iterable[object]) -> None:
    """The same for an array that may be long: an element a line, each written when it is there."""
    before = "[\n"
    for row in rows:
        sys.stdout.write(f"{before}  {json.dumps(row)}")
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")


def print_line(text: str) -> None:
    """A line on stdout, at once. (click's echo turns a closed pipe into an exit status of 1.)"""
    print(text, flush=True)


def width() -> int | None:
    """Of the terminal in characters; None if stdout is none, and nothing has to be narrow."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(rows: Iterable[Mapping[str, Any]], columns: Columns) -> None:
    """A table on stdout, the first lines before the last rows are there."""
    text = iter(lines(rows, columns, width()))
    print(styled(next(text), _BOLD))
    for line in islice(text, LOOK_AHEAD):
        print(line)
    sys.stdout.flush()
    for line in text:
        print(line)
    sys.stdout.flush()


def styled(text: str, style: str) -> str:
    """In a terminal, in that style (SGR parameters); NO_COLOR turns colours off."""
    plain = not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb"
    if plain or ("NO_COLOR" in os.environ and style != _BOLD):
        return text
    return f"\033[{style}m{text}\033[0m"


def console() -> Console:
    """The terminal, for what is drawn live."""
    from rich.console import Console  # not for commands that draw nothing: it takes its time

    return Console(soft_wrap=True)


def is_terminal() -> bool:
    """Whether somebody looks at stdout."""
    return sys.stdout.isatty()


def note(text: str) -> None:
    """Something the user should know, on stderr."""
    print(f"note: {placed(text)}", file=sys.stderr)


_namespace = _ip = _enter = ""


def work_in(netns: str) -> None:
    """Commands that are named from now on are for that network namespace, as `-n NETNS` said."""
    global _namespace, _ip, _enter
    _namespace = shlex.quote(netns)
    path = str(namespaces.file_of(netns))
    _enter = f"nsenter --net={shlex.quote(path)} "
    is_named = "/" not in netns and path == str(namespaces.NAMED / netns)  # as ip(8) has it
    _ip = f"ip -n {_namespace} " if is_named else f"{_enter}ip "


_OURS = re.compile(
    r"\bxdpecmp (?=(?:attach|detach|status|routes|weights|stats|explain|verify|doctor)\b)"
)
_IP = re.compile(
    r"\bip (?=(?:-(?:6|br|d|s) )?(?:link|addr|route|rule|neigh|nexthop|xfrm) "
    r"(?:show|set|add|del|get|replace))"
)
_OTHERS = re.compile(
    r"(nsenter --net=\S+ )?(?<![\w-])"
    r"(sysctl -w net\.(?!ipv6\.flowlabel_reflect)ipv[46]\.|ethtool -[KLSk] (?!PEER\b)|nft list |"
    r"tc (?:qdisc|filter) show|ip6?tables-legacy-save|ipvsadm -|bpftool net\b)"
)
"""What else works on the namespace that it is typed in. Left out is what is for other hosts
(servers reflect flow labels, PEER is somewhere else), or says already where."""


def placed(text: str) -> str:
    """With the commands in it so that they do in that namespace what they are to do."""
    if not _namespace:
        return text
    text = _OURS.sub(lambda _: f"xdpecmp -n {_namespace} ", text)
    text = _IP.sub(lambda _: _ip, text)
    return _OTHERS.sub(lambda found: found[0] if found[1] else _enter + found[2], text)
