"""Linux's own hash key where the sysctl does not tell it: asked for, read, searched, gone by."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.waiting import PATIENCE, wait_until
from tests.capabilities import Since, since
from tests.net.command import ROOT
from tests.net.topology import Anycast
from tests.net.traffic import Servers
from xdpecmp.control import keysearch
from xdpecmp.control.hashkey import NO_MATCH, Finder
from xdpecmp.control.keykeeper import COMMAND
from xdpecmp.hashing.evidence import ENOUGH_BITS, explains, is_confirmed
from xdpecmp.instance.keystore import KeyStore, Progress
from xdpecmp.model.hashkey import HashKey, Origin
from xdpecmp.netlink.choices import NARROW_BITS, ask_linux
from xdpecmp.netlink.namespace import fresh
from xdpecmp.program import keyread
from xdpecmp.program.keysearch import STEP, Question, Searcher

pytestmark = [pytest.mark.root, since(Since.HASH_SEED)]

PLANTED = 41 * STEP + 4321
SECONDS = 20 * PATIENCE
SEARCH_SECONDS = 900 * PATIENCE
"""For all seeds, on a busy machine."""


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


# --- asking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, PLANTED, 2**32 - 1])
def test_linux_confirms_its_key_and_no_other(seed: int) -> None:
    before = here()
    choices = ask_linux(seed=seed)
    assert here() == before
    assert sum(choice.bits for choice in choices) >= ENOUGH_BITS
    assert is_confirmed(HashKey.of_seed(seed), choices)
    for other in (seed - 1, seed ^ 0x10000, 2**31):
        assert not is_confirmed(HashKey.of_seed(other), choices)
    assert not is_confirmed(HashKey(HashKey.of_seed(seed).key0, 0, Origin.MEMORY), choices)


def test_narrow_choices_come_first() -> None:
    choices = ask_linux(narrow=3, seed=7)
    assert all(choice.bits > NARROW_BITS for choice in choices[:3])
    assert is_confirmed(HashKey.of_seed(7), choices)


def test_all_namespaces_have_the_same_key() -> None:
    """So it can be asked for in one of ours: in that of a router it may be another, by sysctl."""
    with fresh():
        Path("/proc/sys/net/ipv4/fib_multipath_hash_seed").write_text("77")
        choices = ask_linux()
    assert not explains(HashKey.of_seed(77), choices)


# --- reading -------------------------------------------------------------------------------------


def test_memory_is_read_where_it_is_mapped() -> None:
    """The first bytes of one function, as often as it is asked for."""
    (symbol,) = keyread.find(["ip_route_input_noref"])
    reader = keyread.Reader()
    try:
        program = reader._compilation.load_by(keyread._load)
    finally:
        reader.close()
    try:
        first = keyread._peek(program, symbol.address)
        assert first is not None
        assert any(first)
        assert keyread._peek(program, symbol.address) == first
        assert keyread._peek(program, 8) is None
    finally:
        os.close(program)


def test_what_stands_at_another_symbol_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As if it were the key's."""
    (symbol,) = keyread.find(["ip_route_input_noref"])
    wrong = [keyread.Symbol(name, symbol.address) for name in ("hashrnd", keyread.SEED_SYMBOL)]
    monkeypatch.setattr(keyread, "find", lambda names: wrong)
    store = KeyStore(tmp_path / "run")
    finder = Finder(store)
    try:
        assert finder.result().missing == NO_MATCH
    finally:
        finder.close()
    assert store.load() is None


def test_a_locked_down_kernel_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "lockdown"
    monkeypatch.setattr(keyread, "_LOCKDOWN", path)
    reader = keyread.Reader()
    try:
        path.write_text("none integrity [confidentiality]\n")
        with pytest.raises(keyread.Unreadable, match="lockdown"):
            reader.read()
        path.write_text("none [integrity] confidentiality\n")
        assert not keyread.is_locked_down()
    finally:
        reader.close()


# --- searching -----------------------------------------------------------------------------------


def test_candidates_are_found_where_they_are() -> None:
    choices = ask_linux(narrow=2, seed=PLANTED)
    question = Question(choices[0].words(), choices[0].low, choices[0].high)
    with Searcher(2) as searcher:
        start = PLANTED // STEP * STEP
        found = searcher.step(1, question, start)
        assert PLANTED in found
        assert all(start <= each < start + STEP for each in found)
        assert all(choices[0].agrees(HashKey.of_seed(each)) for each in found)
        assert [s for s in found if explains(HashKey.of_seed(s), choices)] == [PLANTED]
        assert searcher.reached(1) == start + STEP
        assert PLANTED not in searcher.step(0, question, start + STEP)
        with pytest.raises(OverflowError):  # rather than that candidates are lost
            searcher.step(0, replace(question, low=0, high=(1 << 31) - 1), 0)


def children() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in text.split()}


@pytest.mark.parametrize("start", [0, 30 * STEP])
def test_processes_share_the_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: int
) -> None:
    """From the start, or from where it was interrupted; none of them is left."""
    monkeypatch.setattr(keysearch, "ask_linux", lambda narrow: ask_linux(narrow, seed=PLANTED))
    before = children()
    key = keysearch._search(KeyStore(tmp_path / "run"), start)
    assert key == HashKey.of_seed(PLANTED, Origin.SEARCH)
    assert children() == before


def test_a_search_that_is_told_to_end_does(tmp_path: Path) -> None:
    """With all of its processes, though they are at idle priority; and so it does with who has
    started it."""
    store = KeyStore()
    kept = store.load()
    store.forget()
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            starter = subprocess.Popen(
                [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True
            )
            assert starter.stdout is not None
            searching = int(starter.stdout.readline())
            if Path("/proc/kallsyms").read_text().find(keyread.SEED_SYMBOL + "\n") < 0:
                wait_until(lambda p=searching: len(offspring(p)) > 0, "it has begun", SECONDS)
            family = [searching, *offspring(searching)]
            starter.send_signal(number)
            starter.communicate()
            wait_until(
                lambda f=family: not [pid for pid in f if is_alive(pid)], "all have ended", SECONDS
            )
            wait_until(lambda: not store.is_searched(), "the lock is free", SECONDS)
    finally:
        if kept is not None:
            store.keep(kept)


STARTER = f"""
import os, subprocess, sys
command = [*{COMMAND!r}, str(os.getpid())]
process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
print(process.pid, flush=True)
process.wait()
"""


def offspring(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- attaching -----------------------------------------------------------------------------------


class Unknown(Anycast):
    """A router on a host as it is, whose Linux keeps its seed to itself."""

    finds_key = True


@pytest.fixture(scope="module")
def net() -> Iterator[Unknown]:
    with Unknown((1, 2, 3), seed=None) as made:
        made.policy(0)
        yield made


@pytest.fixture(scope="module")
def key() -> HashKey:
    """The host's, looked for as `attach` does: the first time in a boot that may take its time."""
    store = KeyStore()
    done = subprocess.run(
        [*COMMAND, str(os.getpid())],
        capture_output=True,
        text=True,
        timeout=SEARCH_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "")
    found = store.load()
    assert found is not None
    return found


def secrets(key: HashKey) -> list[str]:
    """Ways in which it could be printed."""
    seed = key.key0 & 0xFFFFFFFF
    return [f"{number:{base}}" for number in (seed, key.key0) for base in ("d", "x", "08x", "X")]


def test_attach_goes_by_it_at_once_and_no_flow_moves(net: Unknown, key: HashKey) -> None:
    with Servers(net) as servers, servers.flows(4, 60) as four, servers.flows(6, 60) as six:
        flows = [*four, *six]
        linux = servers.all_answers(flows)
        said = net.attach("c0", "e1", "e2", "e3").stderr
        try:
            status = net.json("status")
            assert (status["seed"], status["seed_known"]) == (None, True)
            assert status["key_origin"] in ("memory", "search")
            assert (status["key_missing"], status["key_search"]) == (None, None)
            assert not [note for note in said.splitlines() if "seed" in note or "hash key" in note]
            before = net.reason("FORWARDED")
            assert servers.all_answers(flows) == linux
            assert net.reason("FORWARDED") - before >= 0.95 * 2 * len(flows)
            assert net.reason("SEED_UNKNOWN") == 0
            verified = net.run("verify", "--flows", "50")
            doctor = net.run("doctor")
            shown = [verified.stdout, net.run("status").stdout, net.run("status", "-j").stdout]
            shown += [said, doctor.stdout, net.instance.log_file.read_text()]
            pid = net.instance.agent_pid()
            shown.append(Path(f"/proc/{pid}/cmdline").read_text())
            shown += [path.read_text() for path in net.instance.run.glob("*.json")]
            assert not [each for each in secrets(key) if any(each in text for text in shown)]
        finally:
            net.detach()
        assert servers.all_answers(flows) == linux
    assert not net.remains()
    assert KeyStore().load() == key


def test_the_sysctl_goes_first(net: Unknown, key: HashKey) -> None:
    """As it does for Linux; and when it says nothing any more, Linux's own key counts again."""
    net.attach("c0")
    try:
        for _ in range(2):
            net.sysctl("net.ipv4.fib_multipath_hash_seed", 99)
            net.wait_for_status(seed=99, seed_known=True, key_origin="sysctl")
            net.sysctl("net.ipv4.fib_multipath_hash_seed", 0)
            net.wait_for_status(seed=None, seed_known=True)
        assert net.run("verify", "--flows", "20").status == 0
    finally:
        net.sysctl("net.ipv4.fib_multipath_hash_seed", 0)
        net.detach()


def test_a_planted_key_is_not_used(net: Unknown, key: HashKey) -> None:
    """Somebody has written another one into the file; Linux is asked first."""
    store = KeyStore()
    store.keep(HashKey(key.key0 ^ 1, key.key1, key.origin))
    store.record_progress(Progress(max(0, (key.key0 & 0xFFFFFFFF) // STEP - 8) * STEP))
    try:
        net.attach("c0")
        wait_until(lambda: net.status()["seed_known"], "the right key is found", SECONDS)
        assert net.run("verify", "--flows", "20").status == 0
        assert store.load() is not None
        assert explains(store.load() or key, ask_linux())
    finally:
        store.keep(key)
        net.detach()


def test_the_agent_finds_it_and_goes_by_it(net: Unknown, key: HashKey) -> None:
    """What a first attach does where it cannot be read: multipath passes to Linux until it is
    found, which moves no flow. So that this takes no minutes the search has been interrupted just
    before."""
    store = KeyStore()
    store.forget()
    store.record_progress(Progress(max(0, (key.key0 & 0xFFFFFFFF) // STEP - 8) * STEP))
    with Servers(net) as servers, servers.flows(4, 60) as flows:
        linux = servers.all_answers(flows)
        try:
            net.attach("c0")
            assert servers.all_answers(flows) == linux
            wait_until(lambda: net.status()["seed_known"], "the key is found", SECONDS)

            before = net.reason("FORWARDED")
            assert servers.all_answers(flows) == linux
            assert net.reason("FORWARDED") - before >= 0.95 * len(flows)
            found = store.load()
            assert found is not None
            assert (found.key0, found.key1) == (key.key0, key.key1)
            assert store.progress() is None
        finally:
            store.keep(key)
            net.detach()
    assert not net.remains()


def test_a_terminal_shows_how_far_it_is(net: Unknown, key: HashKey) -> None:
    """`attach` stays until it is found; into a file it would not."""
    store = KeyStore()
    store.forget()
    store.record_progress(Progress(max(0, (key.key0 & 0xFFFFFFFF) // STEP - 8) * STEP))
    master, slave = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "xdpecmp", "-n", net.ns.name, "attach", "c0"],
            cwd=ROOT,
            stderr=slave,
            check=True,
            timeout=SECONDS,
        )
        shown = os.read(master, 1 << 16).decode()
        assert "searching Linux's hash key:" in shown
        assert shown.rstrip().endswith("found")
        wait_until(lambda: net.status()["seed_known"], "the key is in force", SECONDS)
    finally:
        os.close(slave)
        os.close(master)
        store.keep(key)
        net.detach()
