"""The request that gives a nexthop group other weights: nothing else of it changes."""

from __future__ import annotations

import struct

import pytest

from xdpecmp.netlink.groupweights import with_group_weights
from xdpecmp.netlink.wire import attribute, attribute_map

HEADER = 8
ID, GROUP, TYPE, RES_GROUP, OP_FLAGS, HW_STATS = 1, 2, 3, 12, 14, 16
U16, U32 = struct.Struct("=H"), struct.Struct("=I")


def message(members: list[tuple[int, int]], *more: bytes, protocol: int = 11) -> bytes:
    """As the kernel dumps it: members by id, and weight - 1."""
    block = b"".join(struct.pack("=IHH", member, weight, 0) for member, weight in members)
    head = struct.pack("=BBBxI", 0, 0, protocol, 0)
    return head + attribute(ID, U32.pack(9)) + attribute(GROUP, block) + b"".join(more)


def test_weights_change_and_nothing_else() -> None:
    before = message(
        [(1, 0), (7, 4)],
        attribute(TYPE, U16.pack(1)),
        attribute(RES_GROUP, attribute(1, U16.pack(32)) + attribute(4, bytes(8))),
        attribute(OP_FLAGS, U32.pack(1 << 31)),
        attribute(HW_STATS, U32.pack(1)),
    )
    request = with_group_weights(before, [1, 7], [256, 65_535])
    assert request is not None
    assert request[:HEADER] == before[:HEADER]
    found = attribute_map(request, HEADER, len(request))
    assert found == {
        ID: U32.pack(9),
        GROUP: struct.pack("=IHHIHH", 1, 255, 0, 7, 65_534, 0),
        TYPE: U16.pack(1),
        HW_STATS: U32.pack(1),
    }


@pytest.mark.parametrize("members", [[1], [7, 1], [1, 7, 8], [1, 8]])
def test_a_group_with_other_members_by_now(members: list[int]) -> None:
    assert with_group_weights(message([(1, 0), (7, 4)]), members, [1] * len(members)) is None


def test_an_object_that_is_no_group() -> None:
    single = struct.pack("=BBBxI", 2, 0, 0, 0) + attribute(ID, U32.pack(9))
    assert with_group_weights(single, [1], [1]) is None
