"""tries: after each change the maps hold what is wanted, whatever they held before.

The kernel's maps are dictionaries here; tests/bpf has the real ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from errno import ENOMEM
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdpecmp.compile import masked
from xdpecmp.dataplane import tries as module
from xdpecmp.dataplane.lookup import Changed, Covering
from xdpecmp.dataplane.tries import Tries
from xdpecmp.model.packed import Keys, Layered, Numbers, Packed, prefixes_in
from xdpecmp.model.values import Prefix
from xdpecmp.program.abi import DIRECT_BLOCK as BLOCK
from xdpecmp.program.abi import Reason

FDS = {"routes4": 4, "routes6": 6}
KEY_SIZE = {4: 8, 6: 20}


MEMORY = {
    "direct16": np.zeros(1 << 16, np.uint16),
    "direct24": np.zeros(1 << 24, np.uint16),
    "direct32": np.zeros((2, 256), np.uint16),  # so that some packets still go by the trie
}
"""One for all tests, which says nothing right until something was written."""


class Maps:
    """The calls of libbpf that are made, and what came of them; and the maps in memory."""

    fds = FDS

    def __init__(self) -> None:
        self.control = SimpleNamespace(epoch6=0)
        self.maps: dict[int, dict[bytes, bytes]] = {4: {}, 6: {}}
        self.written: list[bytes] = []
        self.full = False

    def map_update_batch(self, fd: int, keys: bytes, values: bytes, count: int) -> None:
        if self.full:
            raise OSError(ENOMEM, "full")
        size = KEY_SIZE[fd]
        assert (len(keys), len(values)) == (count * size, count * 4)
        for i in range(count):
            key = keys[i * size : (i + 1) * size]
            self.written.append(key)
            self.maps[fd][key] = values[i * 4 : i * 4 + 4]

    def map_delete(self, fd: int, key: bytes) -> None:
        self.written.append(key)
        del self.maps[fd][key]  # the real one may be absent; ours must not be asked for such

    def map_batches(self, fd: int) -> Iterator[tuple[bytes, bytes, int]]:
        rows = sorted(self.maps[fd].items(), reverse=True)
        for start in range(0, max(len(rows), 1), 3):
            some = rows[start : start + 3]
            yield b"".join(k for k, _ in some), b"".join(v for _, v in some), len(some)

    @property
    def epoch6(self) -> int:
        return int(self.control.epoch6)

    def memory(self, name: str) -> Any:
        return MEMORY[name]

    def __getitem__(self, name: str) -> Any:
        assert name == "control"
        return SimpleNamespace(entries=[self.control])

    def found4(self, address: bytes) -> int:
        """The entry of `groups` as bpf/lookup.c finds it; of a trie here, the longest match."""
        number = int.from_bytes(address, "big")
        direct = int(MEMORY["direct16"][number >> 16] or MEMORY["direct24"][number >> 8])
        if direct & BLOCK:
            direct = int(MEMORY["direct32"][direct ^ BLOCK, number & 0xFF])
        if direct:
            return direct
        held = self.held()
        prefixes = (Prefix(masked(address, length), length) for length in range(32, -1, -1))
        return next((held[p] for p in prefixes if p in held), int(Reason.NO_ROUTE))

    def held(self) -> dict[Prefix, int]:
        return {
            Prefix(key[4:], int.from_bytes(key[:4], "little")): int.from_bytes(value, "little")
            for held in self.maps.values()
            for key, value in held.items()
        }


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Maps:
    made = Maps()
    monkeypatch.setattr(module, "libbpf", made)
    return made


ADDRESSES = [bytes([10, i, 0, 0]) for i in range(4)] + [
    bytes([32, i]) + bytes(14) for i in range(4)
]
prefixes = st.sampled_from(
    [Prefix(masked(a, length), length) for a in ADDRESSES for length in (8, 16, 24, 28)]
)
wanted = st.tuples(
    st.dictionaries(prefixes, st.integers(0, 3), max_size=8),
    st.lists(st.none() | st.integers(20, 25), min_size=4, max_size=4),
    st.dictionaries(prefixes, st.none() | st.integers(20, 25), max_size=4),
)
steps = st.lists(
    st.one_of(
        wanted.map(lambda parts: ("sync", parts)),
        wanted.map(lambda parts: ("same prefixes", parts)),
        wanted.map(lambda parts: ("change", parts)),
        st.just(("restart", None)),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(steps)
def test_the_maps_hold_what_is_wanted(script: list[tuple[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        maps = Maps()
        patch.setattr(module, "libbpf", maps)
        tries: Tries[int] = Tries(maps)  # type: ignore[arg-type]
        now: Layered[int] = Layered.of({})
        for step, parts in script:
            if step == "restart":
                tries = Tries(maps)  # type: ignore[arg-type]
                assert dict(tries.held) == maps.held()
                continue
            assert parts is not None
            base, meanings, changes = parts
            before, epoch = {p: n for p, n in maps.held().items() if p.family == 6}, maps.epoch6
            if step == "change":
                tries.change(changes, lambda target: target + 100)
                now.changes.update(changes)
            else:
                packed = now.base if step == "same prefixes" else Packed.of(base)
                enough = [*meanings, *([None] * len(now.meanings))]
                now = Layered(packed, enough, dict(changes))
                tries.sync(now, lambda target: target + 100)
            expected = {prefix: target + 100 for prefix, target in now.items()}
            assert maps.held() == expected
            assert dict(tries.held) == expected
            after = {p: n for p, n in expected.items() if p.family == 6}
            assert (maps.epoch6 != epoch) == (before != after)
            for address in ADDRESSES[:4]:
                lengths = (32, 31, 28, 24, 16, 8, 0)
                covers = (Prefix(masked(address, length), length) for length in lengths)
                longest = next((expected[p] for p in covers if p in expected), Reason.NO_ROUTE)
                assert maps.found4(address) == longest


class Recorder:
    """A look-up structure that holds all that it is told."""

    most_changes = 2

    def __init__(self, family: int) -> None:
        self.family = family
        self.held: dict[Prefix, int] = {}
        self.rebuilt = 0

    def rebuild(self, keys: Keys, numbers: Numbers) -> None:
        self.rebuilt += 1
        self.held = dict(zip(prefixes_in(keys), numbers.tolist(), strict=True))

    def change(self, changes: Iterable[Changed], covering: Covering) -> None:
        for prefix, old, new in changes:
            assert self.held.pop(prefix, None) == old
            if new is not None:
                self.held[prefix] = new
            assert covering(prefix) is None


@pytest.mark.parametrize("family", [4, 6])
def test_a_structure_may_stand_in_front_of_either_trie(
    maps: Maps, monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    made = Recorder(family)
    monkeypatch.setattr(module, "IN_FRONT", (lambda _: made,))
    tries: Tries[int] = Tries(maps)  # type: ignore[arg-type]
    size = 4 if family == 4 else 16
    prefixes = [Prefix(bytes([i, *bytes(size - 1)]), 8) for i in range(5)]
    for count, rebuilt in ((2, 1), (5, 2), (4, 2)):  # two more, three more, one less
        tries.sync(Layered.of(dict.fromkeys(prefixes[:count], 40)), int)
        assert (made.held, made.rebuilt) == (maps.held(), rebuilt)
    tries.change({prefixes[0]: 50, prefixes[1]: None}, int)
    assert (made.held, made.rebuilt) == (maps.held(), 2)


def test_only_what_differs_is_written(maps: Maps) -> None:
    ten, eleven, twelve = (Prefix(bytes([i, 0, 0, 0]), 8) for i in (10, 11, 12))
    tries: Tries[str] = Tries(maps)  # type: ignore[arg-type]
    numbers = {"a": 30, "b": 31, "c": 32}
    tries.sync(Layered.of({ten: "a", eleven: "b", twelve: "b"}), numbers.__getitem__)
    assert len(maps.written) == 3
    maps.written.clear()
    tries.sync(Layered.of({ten: "a", eleven: "b", twelve: "c"}), numbers.__getitem__)
    tries.change({ten: "a", eleven: None}, numbers.__getitem__)
    assert maps.written == [b"\x08\0\0\0\x0c\0\0\0", b"\x08\0\0\0\x0b\0\0\0"]


def test_after_a_failure_the_maps_are_read_again(maps: Maps) -> None:
    """It is not known how far the kernel got."""
    ten, eleven = Prefix(bytes([10, 0, 0, 0]), 8), Prefix(bytes([11, 0, 0, 0]), 8)
    tries: Tries[int] = Tries(maps)  # type: ignore[arg-type]
    tries.sync(Layered.of({ten: 1}), lambda target: target)
    maps.full = True
    target = Layered.of({ten: 2, eleven: 3})
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            tries.sync(target, lambda target: target)
    maps.full = False
    tries.sync(target, lambda target: target)
    assert maps.held() == {ten: 2, eleven: 3}
