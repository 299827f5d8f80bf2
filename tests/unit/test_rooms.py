"""Rooms: a module imports only from its own room and from those below it.

Read from the imports, those inside functions and under TYPE_CHECKING too. The order stands here and
nowhere else; what each room is for is in its `__init__.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "xdpecmp"

FLOORS = (
    {"closing", "errors"},
    {"model", "places"},
    {"hashing", "program"},
    {"netlink"},
    {"compile"},
    {"dataplane", "instance"},
    {"agent"},
    {"observe"},
    {"control"},
    {"doctor", "demo"},
    {"cli"},
    {"__main__"},
)
"""The lowest first. Rooms on one floor know nothing of each other."""

HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    """Of a module of the package."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of everything that a module imports from the package."""
    package = ("xdpecmp", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            names = [[*base, *module, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "xdpecmp" and len(name) > 1 and name[1] in HEIGHT:
                yield node.lineno, name[1]


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_each_room_is_on_one_floor() -> None:
    assert len(HEIGHT) == sum(map(len, FLOORS))
    assert {room_of(path) for path in MODULES} - {"__init__"} == set(HEIGHT)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_lead_down(path: Path) -> None:
    room = room_of(path)
    for line, other in imported(path):
        allowed = room in ("__init__", other) or HEIGHT[other] < HEIGHT[room]
        assert allowed, f"{path}:{line}: {room} imports {other}, which is not below it"


@pytest.mark.parametrize("room", [room for room in sorted(HEIGHT) if (PACKAGE / room).is_dir()])
def test_each_room_says_what_lives_there(room: str) -> None:
    said = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    assert len(said.split("\n\n")[-1]) > 80, f"{room} does not say what may live there"
