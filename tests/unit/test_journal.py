"""The agent's log: an error that lasts takes a few lines, not one a second, and no disk fills."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xdpecmp.agent.journal import FIRST_SECONDS, LIMIT, LONGEST_SECONDS, Repetitions


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("xdpecmp.agent", logging.WARNING, "", 0, text, arguments, None)


def test_the_same_line_comes_at_growing_intervals() -> None:
    clock = Clock()
    repetitions = Repetitions(clock)
    written = []
    for second in range(24 * 3600):
        clock.now = float(second)
        each = record("cannot follow the kernel: %s", "no buffer space")
        if repetitions.filter(each):
            written.append((second, each.getMessage()))
    assert written[0] == (0, "cannot follow the kernel: no buffer space")
    assert written[1] == (
        FIRST_SECONDS,
        "cannot follow the kernel: no buffer space (9 more since)",
    )
    assert len(written) < 12 + 24 * 3600 / LONGEST_SECONDS


def test_other_lines_are_not_held_back() -> None:
    repetitions = Repetitions(Clock())
    for _ in range(2):
        assert repetitions.filter(record("one")) == repetitions.filter(record("two"))
    assert repetitions.filter(record("three %d", 1))
    assert repetitions.filter(record("three %d", 2))


def test_what_is_remembered_is_bounded() -> None:
    repetitions = Repetitions(Clock())
    for number in range(1000):
        repetitions.filter(record(f"line {number}"))
    assert len(repetitions._known) < 100


WRITE = """
import logging, sys
from pathlib import Path
from xdpecmp.agent import journal
journal.to_file(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    logging.info("line %d %s", number, "x" * 100)
"""


def write(path: Path, lines: int) -> None:
    subprocess.run([sys.executable, "-c", WRITE, path, str(lines)], check=True)


def test_it_is_appended_to(tmp_path: Path) -> None:
    """What an agent said before it died is not lost by the remedy."""
    log = tmp_path / "agent.log"
    log.write_text("why it died\n")
    write(log, 2)
    assert log.read_text().startswith("why it died\n")
    assert log.read_text().count("line ") == 2
    assert log.stat().st_mode & 0o777 == 0o600


def test_it_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    write(log, 6000)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"agent.log", "agent.log.1"}
    assert max(sizes.values()) < LIMIT + 1000
    assert "line 5999 " in log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="root may write where others may not")
def test_where_nothing_can_be_written_nothing_fails() -> None:
    write(Path("/proc/nowhere/agent.log"), 10)
