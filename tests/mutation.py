"""Does the suite see it when the data path is wrong? Break one line at a time, and demand red.

    make mutate                       all rows
    python -m tests.mutation TTL ...  those with one of the words in `what`

Each row breaks one line in a scratch copy of the tree and runs the tests named for it, up to the
first that fails. A row fails where the tests stay green; where the program doesn't build or load
any more, which proves nothing; or where the line is no longer there exactly once, so that the table
can't rot. First all tests named have to be green without any change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]
_COPIED = ("bpf", "xdpecmp", "testbed", "tests", "pyproject.toml")


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest in that tree: exit status and output."""
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=line", *tests),
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "XDPECMP_FORCE_ROOT_TESTS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def judge(tree: Path, mutant: Mutant) -> str:
    """Break it, test it, restore it: "" where a test failed, else what is wrong with the row."""
    try:
        before = mutant.apply(tree)
    except ValueError as error:
        return str(error)
    try:
        status, output = run_tests(tree, [mutant.tests])
    finally:
        (tree / "bpf" / mutant.file).write_text(before)
    if status == 0:
        return "SURVIVED"
    failed = any(line.startswith("FAILED") for line in output.splitlines())
    if status != 1 or not failed or "cannot build" in output:
        return f"not judged, pytest says {status}: {output[-600:]}"
    return ""


def main(words: Sequence[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(word in m.what for word in words)]
    if not chosen:
        print(f"no row has {' or '.join(words)} in its name")
        return 2
    with tempfile.TemporaryDirectory(prefix="xdpecmp-mutation-") as directory:
        tree = Path(directory)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, symlinks=True)
            else:
                shutil.copy(source, tree / name)
        status, output = run_tests(tree, sorted({mutant.tests for mutant in chosen}))
        if status:
            print(f"the tests are not green to begin with:\n{output}")
            return 2
        wrong = 0
        for mutant in chosen:
            start = time.monotonic()
            verdict = judge(tree, mutant)
            wrong += bool(verdict)
            seconds = time.monotonic() - start
            print(
                f"{mutant.what:24} {mutant.file:10} {seconds:5.1f} s  {verdict or 'red'}",
                flush=True,
            )
    print(f"{len(chosen) - wrong} of {len(chosen)} seen by the tests")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
