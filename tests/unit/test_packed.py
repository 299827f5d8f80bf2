"""packed: what a dictionary of prefixes would say, from arrays and a few changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpecmp.compile import covers, masked
from xdpecmp.model.packed import FAMILIES, Layered, Packed, pack, unpack
from xdpecmp.model.values import Prefix


@st.composite
def prefixes(draw: st.DrawFn, sizes: tuple[int, ...] = (4, 16)) -> Prefix:
    """Few different ones, so that they cover one another and come again."""
    size = draw(st.sampled_from(sizes))
    length = draw(st.sampled_from([0, 1, 8, 9, size * 8 - 1, size * 8]))
    address = (
        bytes([10, draw(st.integers(0, 3))]) + bytes(size - 3) + bytes([draw(st.integers(0, 2))])
    )
    return Prefix(masked(address, length), length)


values = st.integers(0, 3)
layers = st.tuples(
    st.dictionaries(prefixes(), values, max_size=12),
    st.dictionaries(prefixes(), st.none() | values, max_size=6),
)
Layers = tuple[dict[Prefix, int], dict[Prefix, int | None]]


def layered(layers: Layers) -> tuple[Layered[str], dict[Prefix, str]]:
    """With a meaning that is none, and what a dictionary would say."""
    meanings = ["zero", "one", None, "three"]
    base, changes = layers
    told = {prefix: None if n is None else meanings[n] for prefix, n in changes.items()}
    plain = {prefix: meanings[n] for prefix, n in base.items()} | told
    return Layered(Packed.of(base), meanings, told), {p: v for p, v in plain.items() if v}


@given(st.lists(prefixes()))
def test_packed_prefixes_sort_as_prefixes(some: list[Prefix]) -> None:
    for family in FAMILIES:
        mine = [prefix for prefix in some if prefix.family == family]
        assert [unpack(key) for key in sorted(map(pack, mine))] == sorted(mine)


@given(layers, prefixes())
def test_it_says_what_a_dictionary_does(layers: Layers, other: Prefix) -> None:
    found, expected = layered(layers)
    assert dict(found) == expected
    assert len(found) == len(expected)
    for family in FAMILIES:
        assert found.count(family) == sum(prefix.family == family for prefix in expected)
    for prefix in [*expected, other]:
        assert found.get(prefix) == found.lookup(prefix) == expected.get(prefix)
        assert (prefix in found) is (prefix in expected)
    assert set(found.distinct()) >= set(expected.values())
    assert found == Layered.of(expected)


@given(layers)
def test_some_of_them(layers: Layers) -> None:
    found, expected = layered(layers)
    for families in ((4,), (6,), FAMILIES):
        assert dict(found.where(lambda value: value == "one", families)) == {
            p: value for p, value in expected.items() if value == "one" and p.family in families
        }


@given(layers, st.lists(prefixes(), max_size=3))
def test_what_prefixes_cover(layers: Layers, wide: list[Prefix]) -> None:
    found, expected = layered(layers)
    assert found.under(wide) == {
        prefix for prefix in expected if any(covers(cover, prefix) for cover in wide)
    }


@pytest.mark.parametrize("size", [4, 16])
@given(data=st.data())
def test_the_longest_match(size: int, data: st.DataObject) -> None:
    found, expected = layered(data.draw(layers))
    wanted = data.draw(st.lists(prefixes((size,)).map(lambda prefix: prefix.address), max_size=5))
    most = data.draw(st.sampled_from([0, 8, 31, 128]))
    for address, answer in zip(wanted, found.longest(wanted, most), strict=True):
        host = Prefix(address, size * 8)
        fitting = [p for p in expected if covers(p, host) and p.length <= most]
        best = max(fitting, key=lambda prefix: prefix.length, default=None)
        assert answer == (best and expected[best])
