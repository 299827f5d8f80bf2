"""The two hash functions of Linux's multipath routing: SipHash-2-4 and, under policy 3, jhash.

The reference model of bpf/siphash.h and jhash.h. What is hashed is in `keys`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from ..model.hashkey import HashKey

SipState = tuple[int, int, int, int]
"""v0, v1, v2, v3 of SipHash: four unsigned 64-bit numbers."""

_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1


def _rotate_left(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK64


def _sip_rounds(state: SipState, count: int) -> SipState:
    v0, v1, v2, v3 = state
    for _ in range(count):
        v0 = (v0 + v1) & _MASK64
        v1 = _rotate_left(v1, 13) ^ v0
        v0 = _rotate_left(v0, 32)
        v2 = (v2 + v3) & _MASK64
        v3 = _rotate_left(v3, 16) ^ v2
        v0 = (v0 + v3) & _MASK64
        v3 = _rotate_left(v3, 21) ^ v0
        v2 = (v2 + v1) & _MASK64
        v1 = _rotate_left(v1, 17) ^ v2
        v2 = _rotate_left(v2, 32)
    return v0, v1, v2, v3


def _sip_start(key0: int, key1: int) -> SipState:
    return (
        key0 ^ 0x736F6D6570736575,
        key1 ^ 0x646F72616E646F6D,
        key0 ^ 0x6C7967656E657261,
        key1 ^ 0x7465646279746573,
    )


def sip_state(key: HashKey | int) -> SipState:
    """State of SipHash for the kernel's multipath key, nothing hashed yet.

    A number is net.ipv4.fib_multipath_hash_seed and stands for the key that Linux makes of it, as
    wherever a key is asked for: see `HashKey.of_seed`, errors too.
    """
    if isinstance(key, int):
        key = HashKey.of_seed(key)
    return _sip_start(key.key0, key.key1)


def key_halves(state: Sequence[int]) -> tuple[int, int]:
    """The two halves of the key that `sip_state` made this state of."""
    zero = _sip_start(0, 0)
    return state[0] ^ zero[0], state[1] ^ zero[1]


def sip_absorb(state: SipState, words: Iterable[int]) -> SipState:
    """The state after hashing `words` too: unsigned 64-bit, as read little-endian from the key.

    `sip_absorb(sip_state(key), [0] * 4)` is `config.sip_after_zero`.
    """
    for word in words:
        v0, v1, v2, v3 = state
        v0, v1, v2, v3 = _sip_rounds((v0, v1, v2, v3 ^ word), 2)
        state = (v0 ^ word, v1, v2, v3)
    return state


def _sip_message(state: SipState, message: bytes) -> int:
    whole = len(message) & ~7
    state = sip_absorb(state, struct.unpack(f"<{whole // 8}Q", message[:whole]))
    last = int.from_bytes(message[whole:], "little") | (len(message) & 0xFF) << 56
    v0, v1, v2, v3 = sip_absorb(state, [last])
    v0, v1, v2, v3 = _sip_rounds((v0, v1, v2 ^ 0xFF, v3), 4)
    return v0 ^ v1 ^ v2 ^ v3


def siphash24(message: bytes, key0: int, key1: int) -> int:
    """SipHash-2-4 with its 64-bit result (Aumasson and Bernstein, 2012; lib/siphash.c).

    `key0` and `key1` are the two halves of the key, each read little-endian.
    """
    return _sip_message(_sip_start(key0, key1), message)


def siphash32(key_bytes: bytes, key: HashKey | int) -> int:
    """The kernel's 32-bit hash of a flow key as `FlowKey.pack` lays it out.

    The low half of SipHash-2-4, 0 becoming 1: flow_hash_from_keys_seed() in
    net/core/flow_dissector.c. `key` as in `sip_state`, errors too.
    """
    return _sip_message(sip_state(key), key_bytes) & _MASK32 or 1


def jhash_2words(a: int, b: int, initval: int = 0) -> int:
    """Jenkins' hash of two unsigned 32-bit numbers: include/linux/jhash.h."""
    c = (0xDEADBEEF + (2 << 2) + initval) & _MASK32
    a, b = (a + c) & _MASK32, (b + c) & _MASK32
    c = _jenkins(c, b, 14)
    a = _jenkins(a, c, 11)
    b = _jenkins(b, a, 25)
    c = _jenkins(c, b, 16)
    a = _jenkins(a, c, 4)
    b = _jenkins(b, a, 14)
    return _jenkins(c, b, 24)


def _jenkins(value: int, other: int, bits: int) -> int:
    rotated = (other << bits | other >> (32 - bits)) & _MASK32
    return ((value ^ other) - rotated) & _MASK32
