"""Part 3: the control plane. Attach, memory, route changes on their way into the data path, and
what the agent takes when nothing happens.

It runs as a process of its own (`python -m bench.control`), which says line by line in JSON how far
it is: so nothing that draws on a terminal is at work beside what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xdpecmp.control.hashkey import candidates, confirmed
from xdpecmp.errors import XdpecmpError
from xdpecmp.netlink.choices import ask_linux
from xdpecmp.program.image import CACHE
from xdpecmp.program.keyread import Reader, Unreadable
from xdpecmp.program.keysearch import SEEDS, STEP, Question, Searcher

from . import report
from .changes import HEAVY, LIGHT, Watcher, burst, departures, paces, weight_changes
from .progress import Progress
from .router import ROOT, BenchError, command_line, router, xdpecmp
from .routes import add_routes, make_table
from .spread import settle

SIZES = {1_000: 5, 100_000: 2, 1_000_000: 1}
"""Routes, and how often attaching with so many is measured."""
CHANGES, CHANGES_AT = 200, 1_000
DEPARTURES, DEPARTURES_AT = 10, 1_000_000
_READING_SECONDS = 0.05
"""After so long at work the agent is reading routes."""
BURST, BURST_AT = 100_000, 100_000
IDLE_SECONDS = 10.0
_IDLE_LOOK_SECONDS = 1.0
_FIRST_TIMES = 3
_KEY_TIMES = 20
_PEAK = Path(__file__).parent / "peak.py"

Say = Callable[..., object]
"""Called with `task` and `steps`, with `row`, or with nothing after each step."""


# --- the caller's side ----------------------------------------------------------------------------


def measure(progress: Progress) -> list[dict[str, Any]]:
    """Rows "control", from another process."""
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        child = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        stack.callback(_end, child)
        assert child.stdout is not None
        advance: Callable[[], None] = lambda: None  # noqa: E731
        for line in child.stdout:
            said = json.loads(line)
            if "task" in said:
                advance = stack.enter_context(progress.task(said["task"], said["steps"]))
            elif "row" in said:
                rows.append(said["row"])
            elif "error" in said:
                raise BenchError(*said["error"])
            else:
                advance()
        if child.wait():
            raise BenchError(f"measuring the control plane ended with {child.returncode}")
    return rows


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()  # it takes down what it made
    child.wait()


# --- the process of its own -----------------------------------------------------------------------


@dataclass
class Costs:
    """What attaching took, each time, and the most memory."""

    seconds: list[float] = field(default_factory=list)
    """from exec until packets to all routes are forwarded"""
    command_mib: float = 0.0
    """of the command and of the compiler that it runs, whichever had more"""
    agent_mib: float = 0.0


def _measure_key(say: Say) -> None:
    """What it takes to find Linux's hash key: to ask Linux, to read it, to search it."""
    say(task="hash key", steps=3)
    seconds = []
    for _ in range(_KEY_TIMES):
        begin = time.perf_counter()
        choices = ask_linux()
        seconds.append(time.perf_counter() - begin)
    say(row=report.seconds_row("key_confirm", "hash key: to confirm one by asking", seconds))
    say()
    with contextlib.suppress(Unreadable), contextlib.closing(Reader()) as reader:
        begin = time.perf_counter()
        if confirmed(candidates(reader.read()), choices):
            took = [time.perf_counter() - begin]
            say(row=report.seconds_row("key_read", "hash key: read from kernel memory", took))
    say()
    question = Question(choices[0].words(), choices[0].low, choices[0].low)
    with Searcher(1) as searcher:
        took = []
        for start in range(0, _KEY_TIMES * STEP, STEP):
            begin = time.thread_time()
            searcher.step(0, question, start)
            took.append(time.thread_time() - begin)
    each, cpus = statistics.median(took) / STEP, len(os.sched_getaffinity(0))
    say(row=report.value_row("key_search", "hash key: to try a seed", "ns", each * 1e9, None))
    name = f"hash key: to try all seeds, {cpus} CPUs (extrapolated)"
    say(row=report.value_row("key_search_all", name, "s", each * SEEDS / cpus, None))
    say()


def _measure(say: Say) -> None:
    _measure_key(say)
    for size, attaches in SIZES.items():
        steps = attaches + CHANGES * (size == CHANGES_AT) + (size == BURST_AT) + 1
        steps += 2 * DEPARTURES * (size == DEPARTURES_AT)
        say(task=f"control plane, {size:,} routes", steps=steps)
        with router(f"control{size}", 0, paths=(), own_macs=True) as inside:
            table = make_table(4, size)
            add_routes(inside, table, (HEAVY, LIGHT))
            watcher = Watcher(inside, table)
            if size == min(SIZES):
                _measure_first(watcher, size, say)
            costs = Costs()
            for last in (attaches - 1 - i for i in range(attaches)):
                with _attached(watcher, costs):
                    say()
                    if not last:
                        _measure_changes(watcher, size, say)
                        costs.agent_mib = _peak_mib(_agent(watcher))
            _say_costs(costs, size, say)


def _measure_first(watcher: Watcher, size: int, say: Say) -> None:
    """Attach where nothing was compiled before; Python's own byte code is there, as installed."""
    with _attached(watcher, Costs()):
        pass
    first = Costs()
    for _ in range(_FIRST_TIMES):
        shutil.rmtree(CACHE, ignore_errors=True)
        with _attached(watcher, first):
            pass
    name = f"attach to in sync, {size:,} routes, compiling included"
    say(row=report.seconds_row("attach_first", name, first.seconds, size))


def _measure_changes(watcher: Watcher, size: int, say: Say) -> None:
    """What can be measured once xdpecmp is attached."""
    settle([watcher.one])
    name = f"idle agent, {size:,} routes"
    say(row=report.value_row("idle", name, "% of a core", _idle_share(watcher) * 100, size))
    say()
    if size == CHANGES_AT:
        seconds = list(weight_changes(watcher, CHANGES, say))
        name = f"weight change to the first packet, {size:,} routes"
        say(row=report.seconds_row("change", name, seconds, size))
    if size == DEPARTURES_AT:
        for key, meanwhile, what in (
            ("departure", lambda: None, ""),
            ("departure_in_dump", lambda: _have_all_read(watcher), ", while all routes are read"),
        ):
            seconds = list(departures(watcher, DEPARTURES, meanwhile, say))
            name = f"next hop out of its group to the last packet{what}, {size:,} routes"
            say(row=report.seconds_row(key, name, seconds, size))
    if size == BURST_AT:
        found = burst(watcher, BURST)
        name = f"burst of {BURST:,} route changes, first to last in the kernel"
        say(row=report.seconds_row("burst_kernel", name, [found.kernel_seconds], size))
        name = f"burst of {BURST:,} route changes, from the last to in sync"
        say(row=report.seconds_row("burst", name, [found.sync_seconds], size))
        steps = list(paces(watcher, lambda: None))
        followed = max((step.rate for step in steps if step.is_followed), default=0.0)
        name = f"route changes a second that are followed, {size:,} routes"
        row = report.value_row("pace", name, "1/s", followed, size)
        say(row=row | {"steps": [vars(step) for step in steps]})
        say()


def _say_costs(costs: Costs, size: int, say: Say) -> None:
    say(
        row=report.seconds_row("attach", f"attach to in sync, {size:,} routes", costs.seconds, size)
    )
    for key, who, mib in (
        ("attach_memory", "attach", costs.command_mib),
        ("agent_memory", "the agent", costs.agent_mib),
    ):
        name = f"peak memory of {who}, {size:,} routes"
        say(row=report.value_row(key, name, "MiB", mib, size))


@contextlib.contextmanager
def _attached(watcher: Watcher, costs: Costs) -> Iterator[None]:
    """xdpecmp attached to the router for a `with` block, and what that took."""
    namespace = watcher.inside.namespace
    command = [sys.executable, "-S", "-E", str(_PEAK), *command_line(namespace, "attach", "in0")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"attach: {done.stderr.strip()}")
    try:
        said = json.loads(done.stdout)
        watcher.attach()
        late: float | None = 0.0
        if watcher.look()[0] < len(watcher.hosts):
            late = watcher.seconds_until(time.perf_counter())
        if late is None:
            raise BenchError("attach says it is done, but not all routes are forwarded")
        costs.seconds.append(said["seconds"] + late)
        costs.command_mib = max(costs.command_mib, said["kib"] / 1024)
        yield
    finally:
        xdpecmp(namespace, "detach", "--all")


def _agent(watcher: Watcher) -> Path:
    """The agent's folder in /proc."""
    status = json.loads(xdpecmp(watcher.inside.namespace, "status", "-j"))
    return Path("/proc") / str(status["agent_pid"])


def _peak_mib(process: Path) -> float:
    lines = (process / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def _idle_share(watcher: Watcher) -> float:
    """The share of one processor that the agent takes while nothing happens."""
    process = _agent(watcher)
    before, begin = _cpu_seconds(process), time.perf_counter()
    while time.perf_counter() - begin < IDLE_SECONDS:
        time.sleep(_IDLE_LOOK_SECONDS)
    return (_cpu_seconds(process) - before) / (time.perf_counter() - begin)


def _have_all_read(watcher: Watcher) -> None:
    """Returns while the agent reads all routes again, as it does when an address comes or goes: at
    once where it has been idle for a while."""
    process, namespace = _agent(watcher), watcher.inside.namespace
    before = _cpu_seconds(process)
    while True:
        time.sleep(_IDLE_LOOK_SECONDS)
        now = _cpu_seconds(process)
        if now - before < _READING_SECONDS / 2:
            break
        before = now
    namespace.ip("address add 198.51.100.1/32 dev in0")
    while _cpu_seconds(process) - now < _READING_SECONDS:
        time.sleep(_READING_SECONDS / 10)
    namespace.ip("address del 198.51.100.1/32 dev in0")


def _cpu_seconds(process: Path) -> float:
    """What its threads have run so far: the scheduler's own account, in nanoseconds."""
    accounts = (process / "task").glob("*/schedstat")
    return sum(int(account.read_text().split()[0]) for account in accounts) / 1e9


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def _main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))  # by way of every `finally`
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends us
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        with tempfile.TemporaryDirectory() as byte_code:
            os.environ["PYTHONPYCACHEPREFIX"] = byte_code
            _measure(_say)
    except XdpecmpError as error:
        _say(error=[error.message, error.hint])
    return 0


if __name__ == "__main__":
    sys.exit(_main())
