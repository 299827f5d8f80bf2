"""The process that searches Linux's hash key.

    python -m xdpecmp.control.keysearch PARENT

It looks once more whether the key can be had at once, and else tries all 2^32 seeds (Linux 6.11),
by one process a CPU, at idle priority. What it finds goes into the file that every agent of the
host looks at (`instance.keystore`). It says nothing but why it has failed, on standard output; it
ends with the process that started it, and the next one goes on where it was.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from types import FrameType

from ..agent.signals import undisturbed
from ..errors import XdpecmpError, what_failed
from ..hashing.evidence import Choice, explains, is_confirmed
from ..instance.keystore import KeyStore, Progress
from ..model.hashkey import HashKey, Origin
from ..netlink.choices import ask_linux
from ..netlink.namespace import fresh
from ..program.keysearch import SEEDS, STEP, Question, Searcher
from .hashkey import Finder

NOT_FOUND = "no seed explains Linux's choices: this kernel hashes otherwise than we compute"

_RECORD_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def steps(number: int, processes: int, start: int, end: int = SEEDS) -> range:
    """The first seeds of the steps that a process takes, of so many processes that share what is
    left from `start` on."""
    begin = start // STEP * STEP
    return range(begin + number * STEP, end, processes * STEP)


def tried(reached: Sequence[int], start: int) -> int:
    """All seeds below this one are tried; `reached`: how far each process is within its steps, 0
    before it has begun."""
    return max(start, min((each // STEP * STEP for each in reached), default=start))


def search(store: KeyStore) -> str:
    """Find the key and keep it; returns why there is none, "" where there is."""
    with closing(Finder(store)) as finder:
        state = finder.result()
    if state.key is not None:
        return _kept(store)
    if not finder.choices or not state.searching:
        return state.missing
    before = store.progress() or Progress(0)
    found = _search(store, before.tried)
    if found is None and before.tried:  # what is said of an interrupted one may be wrong
        found = _search(store, 0)
    if found is None:
        store.forget_progress()
        return f"{state.missing}; {NOT_FOUND}"
    with undisturbed():
        store.keep(found)
    return _kept(store)


def _kept(store: KeyStore) -> str:
    """What agents look at, or it would be searched for ever."""
    return "" if store.load() else "it was found, and could not be kept in /run/xdpecmp"


def _search(store: KeyStore, start: int) -> HashKey | None:
    processes = len(os.sched_getaffinity(0))
    choices = ask_linux(narrow=2)
    with Searcher(processes) as searcher, ExitStack() as stack:
        one = _Search(choices, searcher, processes, start)
        stack.callback(one.end)
        one.begin()
        begun = time.monotonic()
        while one.goes_on():
            far = one.tried()
            per_second = (far - start) / (time.monotonic() - begun + 1e-9)
            with undisturbed():
                store.record_progress(Progress(far, per_second))
            time.sleep(_RECORD_SECONDS)
        return one.key


class _Search:
    """Several processes, each with its part of the seeds."""

    def __init__(
        self, choices: Sequence[Choice], searcher: Searcher, processes: int, start: int
    ) -> None:
        """All seeds are tried on the first of the choices, which says most."""
        self._choices, self._searcher = choices, searcher
        self._question = Question(choices[0].words(), choices[0].low, choices[0].high)
        self._processes, self._start, self._parent = processes, start, os.getpid()
        self._running: dict[int, int] = {}
        """Process id → a pipe that says which seed it has found."""
        self.key: HashKey | None = None

    def begin(self) -> None:
        for number in range(self._processes):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    self._be_child(number, write)
                    status = 0
                finally:
                    os._exit(status)
            os.close(write)
            self._running[pid] = read

    def _be_child(self, number: int, tell: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _end_with(self._parent, signal.SIGKILL)
        _step_back()
        for start in steps(number, self._processes, self._start):
            for seed in self._searcher.step(number, self._question, start):
                if explains(HashKey.of_seed(seed, Origin.SEARCH), self._choices):
                    os.write(tell, seed.to_bytes(4, sys.byteorder))
                    return

    def goes_on(self) -> bool:
        """Whether there is something to wait for. Raises XdpecmpError if a process failed."""
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            with open(self._running.pop(pid), "rb") as told:
                found = told.read(4)
            if status:
                raise XdpecmpError("a process that searched the key failed", "try again")
            if found:
                seed = int.from_bytes(found, sys.byteorder)
                key = HashKey.of_seed(seed, Origin.SEARCH)
                self.key = key if is_confirmed(key, self._choices) else None
        return self.key is None and bool(self._running)

    def tried(self) -> int:
        """All seeds below this one."""
        return tried([self._searcher.reached(i) for i in range(self._processes)], self._start)

    def end(self) -> None:
        """Leave none of them behind. At idle priority they would take their time to end."""
        for pid, told in self._running.items():
            with suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(told)
        self._running.clear()


def _step_back() -> None:
    """Take nothing that anybody else wants. Nothing is done from here on that takes a lock of the
    kernel's which others wait for."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _leave_the_agent() -> None:
    """Its session goes before others as a whole (sched(7), autogroup), and so does the agent."""
    with suppress(OSError):
        os.setsid()
    os.setpriority(os.PRIO_PROCESS, 0, 0)


def _end_with(parent: int, number: int) -> None:
    """Have the kernel send us that signal when our parent ends, however it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(1)


def main() -> int:
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _end_with(int(sys.argv[1]), signal.SIGTERM)
    _leave_the_agent()
    store = KeyStore()
    try:
        # not in the network namespace of the agent, which ends once nobody else is in it
        with fresh(), store.searching() as ours:
            why = search(store) if ours else ""
    except XdpecmpError as error:
        why = error.message
    except OSError as error:
        why = what_failed(error)
    print(why)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
