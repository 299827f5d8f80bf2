"""The table of tests/mutation.py fits the sources: every line is there, once, and every test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant
from tests.mutation import ROOT


def test_the_table_is_as_long_as_promised() -> None:
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS) >= 20


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_every_row_applies(mutant: Mutant, tmp_path: Path) -> None:
    (tmp_path / "bpf").mkdir()
    copy = tmp_path / "bpf" / mutant.file
    shutil.copy(ROOT / "bpf" / mutant.file, copy)
    before = mutant.apply(tmp_path)
    assert before == (ROOT / "bpf" / mutant.file).read_text() != copy.read_text()
    assert (ROOT / mutant.tests.partition("::")[0]).exists()


@pytest.mark.parametrize("text", ["", "broken broken"])
def test_a_line_that_is_not_there_once_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf" / "some.h").write_text(text)
    with pytest.raises(ValueError, match=r"some\.h has this line [02] times"):
        Mutant("", "some.h", "broken", "", "").apply(tmp_path)
