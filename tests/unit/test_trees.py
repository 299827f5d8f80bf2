"""Which folder of the project may import from which other one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ALLOWED: dict[str, set[str]] = {
    "xdpecmp": set(),
    "testbed": set(),
    "vagrant": set(),
    "bench": {"xdpecmp", "testbed"},
    "tests": {"xdpecmp", "testbed", "vagrant"},
}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first name of each absolute import, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.lineno, node.module.split(".")[0]


@pytest.mark.parametrize("tree", ALLOWED)
def test_imports_from_allowed_folders_only(tree: str) -> None:
    modules = sorted((ROOT / tree).rglob("*.py"))
    assert modules
    for path in modules:
        for line, other in imported(path):
            allowed = other == tree or other not in ALLOWED or other in ALLOWED[tree]
            assert allowed, f"{path}:{line}: {tree} imports from {other}"
