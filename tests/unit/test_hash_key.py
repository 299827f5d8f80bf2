"""Linux's hash key: what confirms one, in which order it is looked for, what is kept of it."""

from __future__ import annotations

import json
import os
import random
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.waiting import wait_until
from xdpecmp.control import hashkey
from xdpecmp.control.hashkey import NO_MATCH, Finder, candidates, confirmed, searchable
from xdpecmp.control.keykeeper import KeyKeeper
from xdpecmp.control.keysearch import steps, tried
from xdpecmp.errors import KernelRefused
from xdpecmp.hashing import HASH_SPACE, FlowKey, key_halves, sip_state
from xdpecmp.hashing.evidence import ENOUGH_BITS, Choice, explains, is_confirmed
from xdpecmp.instance.keystore import KeyStore, Progress
from xdpecmp.model.hashkey import HashKey, KeyState, Origin
from xdpecmp.model.options import Options
from xdpecmp.observe.hashkey import search_state, why_missing
from xdpecmp.observe.state import SearchState
from xdpecmp.program.keyread import KEY_SYMBOL, SEED_SYMBOL, Unreadable, find
from xdpecmp.program.keysearch import SEEDS, STEP

KEY = HashKey(0x0123456789ABCDEF, 0xFEDCBA9876543210, Origin.MEMORY)
WRONG = HashKey(0x0123456789ABCDEF, 0xFEDCBA9876543211, Origin.MEMORY)
BITS = 8


def choices(key: HashKey, count: int = 16) -> list[Choice]:
    """What a kernel with that key chooses, on a route with 2^BITS paths."""
    rng = random.Random(count)
    found, width = [], HASH_SPACE >> BITS
    for _ in range(count):
        source, destination = rng.randbytes(4), rng.randbytes(4)
        path = FlowKey(4, source, destination).hash(key) // width
        found.append(Choice(source, destination, path * width, (path + 1) * width - 1))
    return found


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "run")


# --- the key ------------------------------------------------------------------------------------


def test_a_key_is_not_shown() -> None:
    """Neither alone nor in what holds it."""
    key = HashKey.of_seed(0xDEADBEEF, Origin.SEARCH)
    for shown in (repr(key), str(key), f"{KeyState(key)}"):
        assert not [half for half in ("deadbeef", str(0xDEADBEEF), str(key.key0)) if half in shown]
    assert key.seed is None
    assert HashKey.of_seed(7).seed == 7
    assert HashKey.of_seed(7, Origin.OWN).seed == 7


def test_a_key_can_be_told_from_the_state_that_the_maps_hold() -> None:
    assert key_halves(sip_state(KEY)) == (KEY.key0, KEY.key1)


# --- what confirms one ---------------------------------------------------------------------------


def test_bits_are_counted() -> None:
    assert [choice.bits for choice in choices(KEY, 3)] == [BITS] * 3
    whole = Choice(bytes(4), bytes(4), 0, HASH_SPACE - 1)
    assert (whole.bits, whole._replace(high=0).bits) == (0, 31)


@pytest.mark.parametrize("count", [0, 1, ENOUGH_BITS // BITS - 1, ENOUGH_BITS // BITS, 40])
def test_a_key_is_confirmed_by_enough_choices(count: int) -> None:
    found = choices(KEY, count)
    assert explains(KEY, found)
    assert is_confirmed(KEY, found) is (count * BITS >= ENOUGH_BITS)


def test_one_choice_too_many_refutes_it() -> None:
    found = choices(KEY)
    other = Choice(*found[0][:2], *choices(WRONG)[0][2:])
    assert not other.agrees(KEY)
    assert not is_confirmed(KEY, [*found, other])
    assert not is_confirmed(WRONG, found)


def test_the_words_that_are_searched_by() -> None:
    (choice,) = choices(KEY, 1)
    assert struct.pack("<6Q", 0, 0, 0, 0, *choice.words()) == choice.message()


# --- where it is looked for ----------------------------------------------------------------------


class Memory:
    """Stands in for the program that reads."""

    def __init__(self, *readings: tuple[str, bytes], why: str = "") -> None:
        self.readings, self.why, self.asked, self.closed = readings, why, 0, False

    def __call__(self) -> Memory:
        return self

    def read(self) -> Sequence[tuple[str, bytes]]:
        self.asked += 1
        if self.why:
            raise Unreadable(self.why)
        return self.readings

    def close(self) -> None:
        self.closed = True


def whole(key: HashKey) -> tuple[str, bytes]:
    return KEY_SYMBOL, struct.pack("<QQ", key.key0, key.key1)


def look(
    monkeypatch: pytest.MonkeyPatch, store: KeyStore, memory: Memory, key: HashKey = KEY
) -> KeyState:
    monkeypatch.setattr(hashkey, "Reader", memory)
    finder = Finder(store, Options(own_seed=5), lambda: choices(key))
    try:
        return finder.result()
    finally:
        finder.close()


def test_every_symbol_of_the_name_is_a_candidate() -> None:
    seed = struct.pack("<I", 0xCAFE) + b"what stands behind it"[:12]
    found = list(candidates([(SEED_SYMBOL, seed), whole(WRONG), whole(KEY)]))
    assert found == [HashKey.of_seed(0xCAFE, Origin.MEMORY), WRONG, KEY]
    assert confirmed(found, choices(KEY)) == KEY
    assert confirmed(found[:2], choices(KEY)) is None


def test_what_is_read_is_kept(monkeypatch: pytest.MonkeyPatch, store: KeyStore) -> None:
    assert look(monkeypatch, store, Memory(whole(WRONG), whole(KEY))) == KeyState(KEY)
    assert store.load() == KEY
    again = Memory()
    assert look(monkeypatch, store, again) == KeyState(KEY)
    assert not again.asked


def test_a_wrong_one_in_memory_is_never_used(
    monkeypatch: pytest.MonkeyPatch, store: KeyStore
) -> None:
    assert look(monkeypatch, store, Memory(whole(WRONG))) == KeyState(missing=NO_MATCH)
    assert store.load() is None


def test_a_planted_one_is_never_used(monkeypatch: pytest.MonkeyPatch, store: KeyStore) -> None:
    """Nor kept."""
    store.keep(WRONG)
    assert look(monkeypatch, store, Memory(why="lockdown")) == KeyState(missing="lockdown")
    assert store.load() is None
    store.keep(WRONG)
    assert look(monkeypatch, store, Memory(whole(KEY))) == KeyState(KEY)
    assert store.load() == KEY


def test_what_cannot_be_confirmed_is_not_used(
    monkeypatch: pytest.MonkeyPatch, store: KeyStore
) -> None:
    def refuse() -> list[Choice]:
        raise KernelRefused("no namespaces here", 1)

    monkeypatch.setattr(hashkey, "Reader", Memory(whole(KEY)))
    store.keep(KEY)
    finder = Finder(store, Options(own_seed=5), refuse)
    assert finder.result().key is None
    assert "no namespaces here" in finder.result().missing
    assert store.load() == KEY  # it may be right


@pytest.mark.parametrize(
    ("options", "has_seed", "searching"),
    [
        (Options(), True, True),
        (Options(), False, False),
        (Options(own_seed=5), True, False),
        (Options(find_key=False), True, False),
    ],
)
def test_when_it_is_searched(
    monkeypatch: pytest.MonkeyPatch, options: Options, has_seed: bool, searching: bool
) -> None:
    monkeypatch.setattr(hashkey, "has_seed", lambda: has_seed)
    found = searchable(KeyState(missing="why"), options)
    assert found.searching is searching
    assert ("6.11" in found.missing) is not has_seed
    assert searchable(KeyState(KEY), options) == KeyState(KEY)


# --- /proc/kallsyms ------------------------------------------------------------------------------

SYMBOLS = """\
ffffffff81000000 T _stext
ffffffff82000010 b hashrnd
ffffffff82000020 b hashrnd\t[some_module]
ffffffff82000030 b hashrnds
"""


def test_symbols(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(SYMBOLS)
    found = find([SEED_SYMBOL, KEY_SYMBOL], path)
    assert [(each.name, each.address & 0xFF) for each in found] == [
        (KEY_SYMBOL, 16),
        (KEY_SYMBOL, 32),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ffffffff81000000 T _stext\n", "CONFIG_KALLSYMS_ALL"),
        ("0000000000000000 b hashrnd\n", "shows no addresses"),
        (None, "cannot read"),
    ],
)
def test_why_there_is_no_address(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "kallsyms"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Unreadable, match=said):
        find([KEY_SYMBOL], path)


# --- what is kept --------------------------------------------------------------------------------


def test_only_root_reads_what_is_kept(store: KeyStore, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store.keep(KEY)
        store.record_progress(Progress(5))
    finally:
        os.umask(before)
    for path in (tmp_path / "run").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_it_is_kept_for_the_boot(
    store: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.stamp() is None
    store.keep(KEY)
    stamp = store.stamp()
    assert store.load() == KEY
    monkeypatch.setattr("xdpecmp.netlink.netns.boot_id", lambda: "another")
    assert store.load() is None
    store.keep(KEY)
    assert store.stamp() not in (None, stamp)


@pytest.mark.parametrize("text", ["", "[]", "{}", "KEY without key1", "KEY of OWN"])
def test_what_is_no_key_is_none(store: KeyStore, tmp_path: Path, text: str) -> None:
    """Nor one that is said to be no secret."""
    path = tmp_path / "run" / "hash-key"
    store.keep(KEY)
    kept = json.loads(path.read_text())
    wrong = {
        "KEY without key1": json.dumps(kept | {"key1": "x"}),
        "KEY of OWN": json.dumps(kept | {"origin": "OWN"}),
    }
    path.write_text(wrong.get(text, text))
    assert store.load() is None


def test_progress_goes_with_the_key(store: KeyStore) -> None:
    store.record_progress(Progress(STEP, 10.0))
    assert store.progress() == Progress(STEP, 10.0)
    store.keep(KEY)
    assert store.progress() is None


def test_one_searches_at_a_time(store: KeyStore, tmp_path: Path) -> None:
    """And removes what a killed one was about to write."""
    assert not store.is_searched()
    store.record_progress(Progress(5))
    part = tmp_path / "run" / "hash-key.search.0123.part"
    part.touch()
    with store.searching() as ours:
        assert ours
        assert not part.exists()
        assert store.progress() == Progress(5)
        assert store.is_searched()
        with store.searching() as theirs:
            assert not theirs
        assert store.is_searched()
    assert not store.is_searched()


# --- a search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 3, 16])
@pytest.mark.parametrize("start", [0, 5 * STEP, 5 * STEP + 17])
def test_all_seeds_from_the_start_on_are_shared_out(processes: int, start: int) -> None:
    end = 40 * STEP
    taken = [each for i in range(processes) for each in steps(i, processes, start, end)]
    assert sorted(taken) == list(range(5 * STEP if start else 0, end, STEP))


def test_whole_space_is_tried() -> None:
    assert sum(len(steps(i, 3, 0)) for i in range(3)) * STEP == SEEDS


def test_what_is_tried_is_below_all() -> None:
    assert tried([], 7) == 7
    assert tried([0, 9 * STEP], STEP) == STEP  # one has not begun
    assert tried([4 * STEP + 1024, 5 * STEP + 5], STEP) == 4 * STEP


def test_in_words(store: KeyStore) -> None:
    state = KeyState(missing="no symbol", searching=True)
    assert search_state(state, store) is None  # nobody is at it
    with store.searching():
        store.record_progress(Progress(SEEDS // 4, SEEDS / 100))
        said = search_state(state, store)
        assert said == SearchState(tried=SEEDS // 4, of=SEEDS, seconds_left=75.0)
        assert str(said) == "25 % of all seeds tried, 75 s to go at most"
        assert search_state(KeyState(KEY, searching=True), store) is None
    assert why_missing(state) == "no symbol; so all seeds are tried, at idle priority"
    assert why_missing(KeyState()) == ""


# --- the agent's part ----------------------------------------------------------------------------


class Agent:
    """What a keeper sees of its agent."""

    def __init__(self, store: KeyStore, script: str, **state: Any) -> None:
        self.key_state = KeyState(**state)
        self.options = Options()
        self.snapshot = SimpleNamespace(settings=SimpleNamespace(seed=None))
        self.recorded: list[KeyState] = []
        self.keeper = KeyKeeper(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            store,
            lambda: choices(KEY),
            (sys.executable, "-c", script),
        )

    def know_key(self, state: KeyState) -> None:
        self.key_state = state

    def record_key_state(self, state: KeyState) -> None:
        self.recorded.append(state)


def test_a_key_that_somebody_keeps_is_taken(store: KeyStore) -> None:
    agent = Agent(store, "import time; time.sleep(60)", missing="why", searching=True)
    assert not agent.keeper.tend()
    process = agent.keeper._process
    assert process is not None
    assert process.poll() is None
    store.keep(WRONG)
    assert not agent.keeper.tend()
    store.keep(KEY)
    assert agent.keeper.tend()
    assert agent.key_state == KeyState(KEY)
    assert process.poll() is not None  # nothing is left to search
    assert not agent.keeper.tend()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("print('the reason'); raise SystemExit(1)", "the reason"),
        ("raise SystemExit(3)", "the process that searches it has ended with status 3"),
    ],
)
def test_why_a_search_failed_is_said_once(store: KeyStore, script: str, said: str) -> None:
    agent = Agent(store, script, missing="why", searching=True)

    def failed() -> bool:
        agent.keeper.tend()
        return agent.key_state == KeyState(missing=said)

    wait_until(failed, "the search has failed", 10)
    assert agent.recorded == [KeyState(missing=said)]
    agent.keeper.tend()
    assert agent.keeper._process is None


def test_a_kept_key_waits_until_linux_can_be_asked(
    store: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is searched meanwhile: it would end with the same key."""
    agent = Agent(store, "import time; time.sleep(60)", missing="why", searching=True)
    asked = agent.keeper._ask

    def fail() -> Sequence[Choice]:
        raise OSError(24, "Too many open files")

    agent.keeper._ask = fail
    store.keep(KEY)
    for _ in range(3):
        assert not agent.keeper.tend()
        assert agent.keeper._process is None
    assert len(caplog.records) == 1
    assert "not Linux's" not in caplog.text
    agent.keeper._ask = asked
    assert agent.keeper.tend()
    assert agent.key_state == KeyState(KEY)


def test_a_search_that_cannot_begin_is_recorded(store: KeyStore) -> None:
    agent = Agent(store, "", missing="why", searching=True)
    agent.keeper._command = ("/nonexistent",)
    assert not agent.keeper.tend()
    assert agent.recorded == [KeyState(missing="it cannot be searched: No such file or directory")]


def test_nothing_is_searched_where_it_is_of_no_use(store: KeyStore) -> None:
    script = "import time; time.sleep(60)"
    known = Agent(store, script, key=KEY)
    cannot = Agent(store, script, missing="why")
    ours = Agent(store, script, missing="why", searching=True)
    ours.options = Options(own_seed=5)
    told = Agent(store, script, missing="why", searching=True)
    told.snapshot.settings.seed = 7
    for agent in (known, cannot, ours, told):
        assert not agent.keeper.tend()
        assert agent.keeper._process is None
    with store.searching():
        elsewhere = Agent(store, script, missing="why", searching=True)
        assert not elsewhere.keeper.tend()
        assert elsewhere.keeper._process is None


def test_a_search_ends_when_the_sysctl_tells_the_seed(store: KeyStore) -> None:
    agent = Agent(store, "import time; time.sleep(60)", missing="why", searching=True)
    agent.keeper.tend()
    process = agent.keeper._process
    assert process is not None
    agent.snapshot.settings.seed = 7
    agent.keeper.tend()
    assert process.poll() is not None
