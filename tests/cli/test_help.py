"""Every command explains itself, all of its options included, and is in the documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from xdpecmp.cli import COMMANDS, cli

ROOT = Path(__file__).parents[2]


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def options(of: click.Command) -> Iterator[click.Option]:
    for parameter in of.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield parameter


def test_there_are_commands() -> None:
    """So that what follows tests something."""
    assert {"attach", "detach", "status", "routes", "weights", "stats"} <= set(COMMANDS)
    assert len(COMMANDS) == len(set(COMMANDS))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(name: str, flag: str) -> None:
    done = CliRunner().invoke(cli, [name, flag], prog_name="xdpecmp")
    assert done.exit_code == 0
    assert f"Usage: xdpecmp {name}" in done.stdout
    assert not done.stderr_bytes
    for option in options(command(name)):
        for spelling in option.opts:
            assert re.search(rf"(?<![\w-]){re.escape(spelling)}(?![\w-])", done.stdout), spelling


@pytest.mark.parametrize("name", COMMANDS)
def test_everything_has_a_text(name: str) -> None:
    text = command(name).help or ""
    first = text.strip().splitlines()[0]
    assert first.endswith("."), "the first line is a sentence, which `xdpecmp --help` shows"
    for option in options(command(name)):
        assert option.help, f"{name} {option.opts}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_shows_it(name: str) -> None:
    done = CliRunner().invoke(cli, ["--help"], prog_name="xdpecmp")
    assert done.exit_code == 0
    assert re.search(rf"^  {name}  +\S", done.stdout, re.MULTILINE)
    assert "--netns" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("page", ["README.md", "docs/operating.md"])
def test_the_documents_show_it(page: str, name: str) -> None:
    """`xdpecmp NAME`, perhaps with `-n NETNS` between."""
    assert re.search(rf"xdpecmp (-n \w+ )?{name}\b", (ROOT / page).read_text())
