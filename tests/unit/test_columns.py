"""Tables fold, or do without what matters least; they never lose a number, and do not wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from xdpecmp.observe.columns import LOOK_AHEAD, Columns, lines

COLUMNS = Columns(
    {"via": "VIA", "dev": "DEV", "packets": "PACKETS", "prog_id": "ID", "text": "MEANING"},
    optional=("text",),
    folds="text",
)
ROW = {
    "via": "2001:db8:1234:5678::1",
    "dev": "enp129s0f0np0",
    "packets": 1234567,
    "prog_id": 1256,
    "text": "it is larger than the MTU of the device that it would leave by",
}


def shown(width: int | None, columns: Columns = COLUMNS) -> list[str]:
    return list(lines([ROW], columns, width))


def test_nothing_is_cut_without_a_terminal() -> None:
    heading, row = shown(None)
    assert heading.split() == ["VIA", "DEV", "PACKETS", "ID", "MEANING"]
    assert row.endswith(str(ROW["text"]))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_no_number_is_lost(width: int) -> None:
    words = " ".join(shown(width)).split()
    assert {"1,234,567", "1256", "2001:db8:1234:5678::1", "enp129s0f0np0"} <= set(words)
    if width >= 40:
        assert max(map(len, shown(width))) <= width


def test_a_text_is_folded_within_its_column() -> None:
    found = shown(80)
    assert len(found) > 2
    start = found[0].index("MEANING")
    assert " ".join(line[start:] for line in found[1:]) == ROW["text"]


def test_the_least_important_column_goes_first() -> None:
    columns = Columns(dict.fromkeys(("a", "b", "c"), "XXXXXXXXXX"), optional=("b", "c"))
    row = {"a": "a", "b": "b", "c": "c"}
    assert [len(next(lines([row], columns, width)).split()) for width in (34, 33, 22, 21)] == [
        *(3, 2, 2, 1)
    ]


def test_a_long_first_cell_gets_a_line_of_its_own() -> None:
    """Rather than that all rows take two lines for the sake of a few."""
    columns = Columns({"prefix": "PREFIX", "dev": "DEV"}, lead=True)
    rows = [
        {"prefix": "10.0.0.0/8", "dev": "e1"},
        {"prefix": f"{'2001:db8:' * 3}:/64", "dev": "e2"},
    ]
    assert list(lines(rows, columns, 24)) == [
        f"{'PREFIX':<19}  DEV",
        f"{'10.0.0.0/8':<19}  e1",
        rows[1]["prefix"],
        f"{'':<19}  e2",
    ]
    assert len(list(lines(rows, columns, 80))) == 3
    assert next(lines(rows, columns, 12)) == "PREFIX"


def test_ids_have_no_separators() -> None:
    columns = Columns({"prog_id": "PROGRAM", "packets": "PACKETS"})
    assert list(lines([{"prog_id": 1256, "packets": 1256}], columns)) == [
        "PROGRAM  PACKETS",
        "   1256    1,256",
    ]


def test_nothing_in_it() -> None:
    assert list(lines([], Columns({"via": "VIA"}), 80)) == ["VIA"]


def test_the_first_line_does_not_wait_for_the_last_row() -> None:
    asked = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal asked
        for asked in range(10 * LOOK_AHEAD):  # noqa: B007
            yield ROW

    found = lines(rows(), COLUMNS, 80)
    next(found)
    assert asked < LOOK_AHEAD


def test_in_a_pipe_a_row_is_a_line() -> None:
    """Also one whose first cell is longer than those that were looked at."""
    columns = Columns({"prefix": "PREFIX", "dev": "DEV"}, lead=True)
    rows = [{"prefix": "10.0.0.0/8", "dev": "e1"}] * LOOK_AHEAD
    rows += [{"prefix": "198.51.100.128/25", "dev": "e1"}]
    assert len(list(lines(rows, columns))) == 1 + len(rows)
    assert len(list(lines(rows, columns, 80))) == 2 + len(rows)


def test_what_comes_late_may_be_wider_and_is_not_cut() -> None:
    rows = [{"via": "1"}] * LOOK_AHEAD + [{"via": "2001:db8:1234:5678::1"}]
    assert list(lines(rows, Columns({"via": "VIA"}), 10))[-1] == "2001:db8:1234:5678::1"
