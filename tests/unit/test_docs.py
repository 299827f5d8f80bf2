"""Documents say what the code says: pages made from it are current, and what others name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from docs import generate
from xdpecmp.cli import COMMANDS, cli
from xdpecmp.program.abi import REASON_ADVICE, REASON_TEXT

ROOT = Path(__file__).parents[2]

# --- pages made from the code --------------------------------------------------------------------


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: path.name)
def test_made_pages_are_current(path: Path) -> None:
    assert path.read_text() == generate.PAGES[path](), "stale: make docs"


def test_every_reason_has_a_row() -> None:
    page = generate.reasons_page()
    for name, text in REASON_TEXT.items():
        assert f"| `{name}` | {text} | " in page
    assert not any("|" in advice for advice in REASON_ADVICE.values()), "would end a table's cell"


def plain(text: str) -> str:
    """troff source without escapes and line breaks."""
    text = re.sub(r"\\f.|\\&", "", text)
    for escaped, character in (("\\(aq", "'"), ("\\(ha", "^"), ("\\(ti", "~"), ("\\-", "-")):
        text = text.replace(escaped, character)
    return " ".join(text.replace("\\e", "\\").split())


def test_the_man_page_has_every_command_and_option() -> None:
    page = generate.man_page()
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        section = plain(page.split(f"\n.SS {name}\n")[1].split("\n.S")[0])
        assert f"xdpecmp {name} " in section
        for option in command.params:
            if isinstance(option, click.Option):
                assert ", ".join([*option.opts, *option.secondary_opts]) in section
                assert " ".join((option.help or "").split()) in section
        for paragraph in (command.help or "").split("\n\n"):
            assert " ".join(paragraph.replace("`", "").split()) in section


def test_the_man_page_has_no_stray_request() -> None:
    """A line that begins with a dot or an apostrophe is one, and a backslash begins an escape."""
    for line in generate.man_page().splitlines():
        assert not line.startswith("'")
        if line.startswith("."):
            assert re.match(r'\.(\\"|TH|SH|SS|PP|TP)( |$)', line), line
        assert not re.search(r"\\(?!f[BR]|&|-|e|\(aq|\(ha|\(ti|\(ga|\[u|\" )", line), line


def test_troff_escapes() -> None:
    lines = list(generate._paragraphs("`.a -b`: it's C:\\x → y\n\n.b --long-one ~^`"))
    assert lines == [
        r"\fB.a \-b\fR: it\(aqs C:\ex \[u2192] y",
        ".PP",
        r"\&.b \fB\-\-long\-one\fR \(ti\(ha\(ga",
    ]


def test_groff_has_no_complaint() -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed (apt-get install groff-base)")
    page = ROOT / "packaging" / "xdpecmp.8"
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8", page], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
