"""Documents say what the code says: pages made from it are current, and what others name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from docs import generate
from tests.capabilities import Since
from tests.unit.test_rooms import FLOORS
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


# --- pages that people write ---------------------------------------------------------------------

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_says_how_to_begin() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 100
    for command in ("make demo", "make test", "vagrant/provision.sh"):
        assert command in text
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text, "a page that README does not lead to"


def table(page: Path, heading: str) -> Iterator[list[str]]:
    """The rows of the table whose first column has that heading, that row included."""
    lines = page.read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    for line in lines[begin:]:
        if not line.startswith("|"):
            return
        if not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_matrix_of_kernels() -> None:
    """docs/kernels.md has all features of `Since`, and its versions."""
    head, *rows = table(ROOT / "docs" / "kernels.md", "feature")
    kernels = {column: name for column, name in enumerate(head) if re.match(r"[0-9.]+$", name)}
    assert "6.1" in kernels.values()
    told = {row[-1].strip("`"): row for row in rows}
    assert told.keys() == Since.__members__.keys()
    for name, row in told.items():
        since = Since[name].value[1]
        assert tuple(map(int, row[head.index("since")].split("."))) == since, name
        for column, kernel in kernels.items():
            has = tuple(map(int, kernel.split("."))) >= since
            assert row[column] == ("yes" if has else "no"), (name, kernel)


def test_the_rooms_are_in_their_order() -> None:
    """docs/design.md has the floors of test_rooms.py."""
    _, *rows = table(ROOT / "docs" / "design.md", "rooms")
    assert [set(re.findall(r"`(\w+)`", row[0])) for row in rows] == list(FLOORS)


@pytest.mark.parametrize("page", ["docs/design.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(page: str) -> None:
    """From the project's root, the package, or `bpf/`; NAME stands for any."""
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:[\w*]+/)*[\w*]+\.(?:py|c|h|def|md|sh))`", text))
    assert len(named) > 10
    places = (ROOT, ROOT / "xdpecmp", ROOT / "bpf")
    patterns = {name: name.replace("NAME", "*") for name in named}
    lost = {
        name
        for name, pattern in patterns.items()
        if not any(any(place.glob(pattern)) for place in places)
    }
    assert lost == set()


def test_the_design_names_every_file_of_the_data_path() -> None:
    _, *rows = table(ROOT / "docs" / "design.md", "file")
    named = {name for row in rows for name in re.findall(r"`([\w./]+)`", row[0])}
    assert named == {path.name + "/" * path.is_dir() for path in (ROOT / "bpf").iterdir()}
