"""The two hash functions of Linux's multipath routing: SipHash-2-4 and, under policy 3, jhash.

The reference model of bpf/siphash.h and jhash.h. What is hashed is in `keys`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

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


def sip_state(seed: int) -> SipState:
    """State of SipHash for the kernel's multipath key, nothing hashed yet.

    `seed` is net.ipv4.fib_multipath_hash_seed, unsigned 32-bit; the key is the seed twice in each
    half (fib_multipath_hash_construct_key() in include/net/ip_fib.h). Raises ValueError for a
    seed that does not fit; 0 is a seed like any other here, though the sysctl means "random" by it.
    """
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed {seed} is not an unsigned 32-bit number")
    key = seed << 32 | seed
    return _sip_start(key, key)


def sip_absorb(state: SipState, words: Iterable[int]) -> SipState:
    """The state after hashing `words` too: unsigned 64-bit, as read little-endian from the key.

    `sip_absorb(sip_state(seed), [0] * 4)` is `config.sip_after_zero`.
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


def siphash32(key_bytes: bytes, seed: int) -> int:
    """The kernel's 32-bit hash of a flow key as `FlowKey.pack` lays it out.

    The low half of SipHash-2-4, 0 becoming 1: flow_hash_from_keys_seed() in
    net/core/flow_dissector.c. `seed` as in `sip_state`, errors too.
    """
    return _sip_message(sip_state(seed), key_bytes) & _MASK32 or 1


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
