"""100,000 frames through Linux without xdpecmp and with it: the same must become of each.

See tests/differential. One number makes a round again: `python -m tests.differential --seed N`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from testbed.waiting import PATIENCE
from tests.capabilities import Since, require_kernel, since
from tests.differential import packets as p
from tests.differential import wire
from tests.differential.__main__ import command, failures
from tests.differential.compare import BETTER, Round, better, run_round
from tests.differential.design import MODES, POLICIES, STACKED
from tests.differential.frames import Frame

SEED = 20_000
ROUNDS = 10
"""Eight are every hash policy in both modes; policies 0 and 1, as in most networks, come twice."""
FRAMES = 10_000 if PATIENCE == 1 else 500
KINDS = {
    *("plain", "fragment", "tunnel", "big", "error", "flow", "stub quote", "cut tunnel quote"),
    *("hop count 2", "hop count 3", "hop count 255", "length", "source", "destination"),
    *("tag", "partial checksum", "unfinished", "merged", "mutated"),
}
"""Kinds of frames of which Linux forwards some, in both families."""
KINDS4 = {"options", "checksum"}
KINDS6 = {"extension headers"}


@pytest.fixture(scope="module")
def rounds() -> Iterator[list[Round]]:
    """Filled by the rounds, for those who look at all of them."""
    require_kernel(Since.HASH_SEED)
    done: list[Round] = []
    yield done
    for result in done:
        print(result)


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_the_same_becomes_of_every_frame(rounds: list[Round], seed: int) -> None:
    result = run_round(seed, FRAMES)
    print(result)
    wrong = failures(result)
    again = f"again: {command(seed, FRAMES)}"
    assert not wrong, "\n".join((again, f"router: {result.design}", *wrong))
    rounds.append(result)


def test_the_rounds_together(rounds: list[Round]) -> None:
    """What they were to cover they covered; each case of the named list came, and is needed."""
    if ROUNDS * FRAMES < 100_000:
        pytest.skip("emulated, we have no time for so many frames that each case has to come")
    if len(rounds) < ROUNDS:
        pytest.fail("the rounds have to run before, and to pass")
    assert sum(result.frames for result in rounds) >= 100_000
    assert {(r.design.policy, r.design.mode) for r in rounds} == {
        (policy, mode) for policy in POLICIES for mode in MODES
    }
    designs = [result.design for result in rounds]
    assert {design.stacked for design in designs} == {*STACKED}
    assert {bool(design.accepting) for design in designs} == {False, True}
    assert {(bool(design.offloads), design.mode) for design in designs} >= {
        (poor, mode) for poor in (False, True) for mode in MODES
    }
    assert {design.rp_filter for design in designs if design.addressless} >= {2}
    kinds: Counter[str] = sum((result.kinds for result in rounds), Counter())
    wanted = {f"v{family} {kind}" for family in (4, 6) for kind in KINDS}
    wanted |= {f"v4 {kind}" for kind in KINDS4} | {f"v6 {kind}" for kind in KINDS6}
    assert wanted <= kinds.keys(), f"never forwarded: {sorted(wanted - kinds.keys())}"
    better_ones = sum(result.better.total() for result in rounds)
    assert sum(result.followed for result in rounds) > 0.8 * better_ones
    moved: Counter[str] = sum((result.moved for result in rounds), Counter())
    assert moved.keys() == BETTER.keys()
    assert all(moved.values()), f"Linux does as well: {moved}"


@since(Since.HASH_SEED)
def test_frames_lost_by_the_harness_are_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that come out and exceed our buffers fail the test."""
    monkeypatch.setattr(wire, "_RECEIVE_BUFFER", 4096)
    monkeypatch.setattr(wire, "DEADLINE_S", 0.5)
    with pytest.raises(wire.HarnessLostFrames):
        run_round(SEED, 600)


def frame(l3: bytes) -> Frame:
    return Frame(b"", l3, "")


def test_what_counts_as_better_than_linux() -> None:
    """The list has to be as short as it says, or it hides differences."""
    ends = {4: (b"\x0b\0\0\1", b"\x32\1\0\1"), 6: (b"\x20\1" + b"\1" * 14, b"\x20\1" + b"\2" * 14)}
    quote = {4: p.ipv4(*ends[4], p.UDP, bytes(8)), 6: p.ipv6(*ends[6], p.UDP, bytes(8))}
    error4 = b"\3\4" + bytes(6) + quote[4]
    error6 = b"\2\0" + bytes(6) + quote[6]
    behind = p.chain([p.options_header(p.DESTINATION), p.ah(1)], p.ICMPV6, error6)
    fragment = p.chain([p.fragment_header(0, 1, 1)], p.ICMPV6, error6)
    by_policy = "ICMP error, hash policies 1 to 3"
    by_headers = "ICMPv6 error behind extension headers"
    for name, l3, under_0, under_1 in (
        ("plain", quote[4], None, None),
        ("IPv6", quote[6], None, None),
        ("error", p.ipv4(*ends[4], p.ICMP, error4), None, by_policy),
        ("IPv6 error", p.ipv6(*ends[6], p.ICMPV6, error6), None, by_policy),
        ("behind headers", p.ipv6(*ends[6], *behind), by_headers, by_policy),
        ("fragment", p.ipv4(*ends[4], p.ICMP, error4, fragment=1), None, None),
        ("IPv6 fragment", p.ipv6(*ends[6], *fragment), None, None),
        ("options", p.ipv4(*ends[4], p.ICMP, error4, options=bytes(4)), None, None),
        ("echo", p.ipv4(*ends[4], p.ICMP, b"\x08" + error4[1:]), None, None),
        ("IPv6 echo", p.ipv6(*ends[6], p.ICMPV6, b"\x80" + error6[1:]), None, None),
        ("stub quote", p.ipv4(*ends[4], p.ICMP, error4[:27]), None, None),
        ("IPv6 stub quote", p.ipv6(*ends[6], p.ICMPV6, error6[:47]), None, None),
        ("quote in the padding", p.ipv4(*ends[4], p.ICMP, error4, length=47), None, None),
    ):
        assert better(0, frame(l3)) == under_0, name
        assert better(1, frame(l3)) == under_1, name
