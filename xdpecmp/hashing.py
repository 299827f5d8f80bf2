"""Which next hop a packet gets: the Python twin of key.h, siphash.h and select.h.

It is the oracle that the data path is tested against, and the maths behind `weights --dry-run`
and `verify`. Pure functions over values; no input or output.

Three steps, each as Linux does it:

1. *key*: `flow_key` takes from a packet what the hash policy looks at (fib_multipath_hash() in
   net/ipv4/route.c, rt6_multipath_hash() in net/ipv6/route.c, __skb_flow_dissect() in
   net/core/flow_dissector.c);
2. *hash*: `FlowKey.hash` is SipHash-2-4 over the kernel's `struct flow_keys`, cut to 31 bits;
3. *select*: `bounds` and `select` are hash-threshold (RFC 2992) as fib_rebalance() and
   fib_select_multipath() in net/ipv4/fib_semantics.c compute it.

One deliberate difference: an ICMP error is keyed by the packet that it embeds under *both*
policies, and behind IPv6 extension headers too, so that it follows its flow. Linux does that under
policy 0 only.

Left out: policies 2 and 3; the L4 hash of a NIC, which Linux prefers to its own under policy 1;
resilient groups and `fib_multipath_use_neigh`, which depend on more than the flow.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal, NamedTuple

HASH_BITS = 31
HASH_SPACE = 1 << HASH_BITS
"""Number of different hashes: they run from 0 to HASH_SPACE - 1."""

MAX_EXTENSION_HEADERS = 8
"""How many IPv6 extension headers the data path walks (Linux: 16)."""

IPPROTO_HOPOPTS = 0
IPPROTO_ICMP = 1
IPPROTO_ROUTING = 43
IPPROTO_FRAGMENT = 44
IPPROTO_AH = 51
IPPROTO_ICMPV6 = 58
IPPROTO_DSTOPTS = 60

_OPTION_HEADERS = frozenset({IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_DSTOPTS})
# Where the four bytes that count as ports stand: proto_ports_offset() in the kernel.
# TCP, UDP, DCCP, ESP (its SPI), AH (its SPI), SCTP, UDP-Lite.
_PORTS_OFFSET = {6: 0, 17: 0, 33: 0, 50: 0, IPPROTO_AH: 4, 132: 0, 136: 0}
_ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})  # icmp_is_err()
_ICMPV6_ERRORS = frozenset({1, 2, 3, 4})  # icmpv6_is_err()
_ICMP_HEADER = 8
_IP_HEADER = {4: 20, 6: 40}
_ADDRESS_SIZE = {4: 4, 6: 16}
_IP_MF_OR_OFFSET = 0x3FFF
_IP_OFFSET = 0x1FFF

_ByteOrder = Literal["little", "big"]

# --- hash ----------------------------------------------------------------------------------------

SipState = tuple[int, int, int, int]
"""v0, v1, v2, v3 of SipHash: four unsigned 64-bit numbers."""

_MASK64 = (1 << 64) - 1


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
    seed that does not fit; 0 is taken as it is, though the kernel reads it as "random".
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


def siphash31(key_bytes: bytes, seed: int) -> int:
    """The kernel's 31-bit multipath hash of a flow key that is laid out and in order already.

    Low 32 bits of SipHash-2-4, 0 becoming 1 (__flow_hash_from_keys() in
    net/core/flow_dissector.c), without the lowest bit (`mhash >> 1` in fib_multipath_hash()).
    `seed` as in `sip_state`, errors too.
    """
    hash32 = _sip_message(sip_state(seed), key_bytes) & 0xFFFFFFFF
    return (hash32 or 1) >> 1


# --- key -----------------------------------------------------------------------------------------


class FlowKey(NamedTuple):
    """What the hash is computed from: the fields of a packet that the hash policy looks at.

    Fields that the policy leaves out are 0. Numbers are in host order; they go into the hash in
    network order.
    """

    family: int
    """4 or 6."""
    source: bytes
    """Packed: 4 or 16 bytes, as is `destination`."""
    destination: bytes
    proto: int = 0
    """IP protocol or next header, 8 bits."""
    sport: int = 0
    """16 bits; for ESP and AH the ports are the halves of the SPI."""
    dport: int = 0
    flow_label: int = 0
    """20 bits, IPv6 only."""

    def for_policy(self, policy: int) -> FlowKey:
        """This key without the fields that `policy` (0 or 1) leaves out.

        For flows named by their fields, without a packet. Raises ValueError for other policies.
        """
        _check_policy(policy)
        if policy == 1:
            return self._replace(flow_label=0)
        if self.family == 4:
            return FlowKey(4, self.source, self.destination)
        return self._replace(sport=0, dport=0)

    def pack(self) -> bytes:
        """The bytes that the kernel hashes: 48 for IPv4, 72 for IPv6.

        `struct flow_keys` (include/net/flow_dissector.h) from its field `basic` on, once
        __flow_hash_consistentify() has put addresses and ports in order, each on their own: both
        directions of a flow have the same key. Raises ValueError where the addresses do not
        belong to the family, struct.error where a number is out of range.
        """
        size = _ADDRESS_SIZE.get(self.family)
        if len(self.source) != size or len(self.destination) != size:
            raise ValueError(f"not two IPv{self.family} addresses: {self}")
        byte_order = sys.byteorder if self.family == 4 else "big"  # IPv6: memcmp()
        return b"".join(
            (
                struct.pack("!2xBxI16x4x", self.proto, self.flow_label),
                *_in_order(struct.pack("!H", self.sport), struct.pack("!H", self.dport)),
                bytes(4),
                *_in_order(self.source, self.destination, byte_order),
                bytes(4),
            )
        )

    def hash(self, seed: int) -> int:
        """The 31-bit hash of this flow; `seed` and errors as in `sip_state` and `pack`."""
        return siphash31(self.pack(), seed)


def _in_order(
    source: bytes, destination: bytes, byte_order: _ByteOrder = sys.byteorder
) -> tuple[bytes, bytes]:
    """Swap if destination < source, both being numbers in `byte_order`.

    The kernel compares ports and IPv4 addresses as they lie in memory, in the host's byte order.
    """
    if int.from_bytes(destination, byte_order) < int.from_bytes(source, byte_order):
        return destination, source
    return source, destination


def flow_key(packet: bytes, policy: int) -> FlowKey:
    """The flow key of an IPv4 or IPv6 packet under hash policy 0 or 1.

    `packet` begins at the IP header; what follows the end that its length field gives (Ethernet
    padding) is cut off. An ICMP error has the key of the packet that it embeds. IPv6 jumbograms
    are not known here; their hop-by-hop header sends them to Linux.

    Raises ValueError for a policy other than 0 and 1 and for packets that Linux would not route:
    neither IPv4 nor IPv6, or lengths that disagree.
    """
    _check_policy(policy)
    packet, family = _trimmed(packet)
    return _header_key(_quoted(packet, family) or packet, family, policy)


def _check_policy(policy: int) -> None:
    if policy not in (0, 1):
        raise ValueError(f"hash policy {policy} is not supported, only 0 and 1 are")


def _trimmed(packet: bytes) -> tuple[bytes, int]:
    """The packet without trailing bytes, and its family; ip_rcv_core() and ip6_rcv_core()."""
    family = packet[0] >> 4 if packet else 0
    if family not in _IP_HEADER or len(packet) < _IP_HEADER[family]:
        raise ValueError("neither a whole IPv4 nor a whole IPv6 header")
    if family == 4:
        header, length = _ihl_bytes(packet), _be16(packet, 2)
    else:
        header, length = _IP_HEADER[6], _IP_HEADER[6] + _be16(packet, 4)
    if not _IP_HEADER[family] <= header <= length <= len(packet):
        raise ValueError(f"lengths of the IPv{family} packet disagree")
    return packet[:length], family


def _header_key(packet: bytes, family: int, policy: int) -> FlowKey:
    """The key of this very packet, whole or a quote, whose IP header is there."""
    if family == 4:
        source, destination = packet[12:16], packet[16:20]
        if policy == 0:
            return FlowKey(4, source, destination)
    else:
        source, destination = packet[8:24], packet[24:40]
        if policy == 0:
            flow_label = int.from_bytes(packet[1:4], "big") & 0xFFFFF
            return FlowKey(6, source, destination, packet[6], flow_label=flow_label)
    transport = _transport(packet, family)
    return FlowKey(family, source, destination, transport.proto, *_ports(packet, transport))


class _Transport(NamedTuple):
    """Where the headers of IP end."""

    proto: int
    offset: int
    """Bytes from the IP header; may lie beyond the end of the packet."""
    fragment: bool = False
    """Any fragment, the first one included; in IPv6, any packet with a fragment header."""
    lacks_start: bool = False
    """The bytes at `offset` are not known to be the header of `proto`."""


def _transport(packet: bytes, family: int) -> _Transport:
    if family == 6:
        return _transport6(packet)
    fragment = _be16(packet, 6)
    return _Transport(
        packet[9],
        _ihl_bytes(packet),
        fragment=bool(fragment & _IP_MF_OR_OFFSET),
        lacks_start=bool(fragment & _IP_OFFSET),
    )


def _transport6(packet: bytes) -> _Transport:
    """Walk the extension headers as __skb_flow_dissect() does.

    It stops behind a fragment header, and at a header that is cut off or one too many: then the
    protocol is the number of that header.
    """
    proto, offset = packet[6], _IP_HEADER[6]
    for _ in range(MAX_EXTENSION_HEADERS):
        header = packet[offset : offset + 8]
        if proto == IPPROTO_FRAGMENT and len(header) == 8:
            return _Transport(header[0], offset + 8, fragment=True, lacks_start=True)
        if proto not in _OPTION_HEADERS or len(header) < 2:
            break
        proto, offset = header[0], offset + (header[1] + 1) * 8
    return _Transport(proto, offset)


def _ports(packet: bytes, transport: _Transport) -> tuple[int, int]:
    """Source and destination port, or zeros; __skb_flow_get_ports()."""
    if transport.fragment or transport.proto not in _PORTS_OFFSET:
        return 0, 0
    offset = transport.offset + _PORTS_OFFSET[transport.proto]
    if len(packet) < offset + 4:
        return 0, 0
    return _be16(packet, offset), _be16(packet, offset + 2)


def _quoted(packet: bytes, family: int) -> bytes:
    """What an ICMP error embeds, from the embedded IP header on; b"" if there is no whole one.

    ip_multipath_l3_keys() and ip6_multipath_l3_keys(), except that IPv6 extension headers may
    precede, though no fragment header. The embedded header is taken on trust, as there: neither
    its version nor its lengths are checked.
    """
    proto, errors = (
        (IPPROTO_ICMP, _ICMP_ERRORS) if family == 4 else (IPPROTO_ICMPV6, _ICMPV6_ERRORS)
    )
    transport = _transport(packet, family)
    icmp = packet[transport.offset :]
    if transport.proto != proto or transport.lacks_start:
        return b""
    if len(icmp) < _ICMP_HEADER + _IP_HEADER[family] or icmp[0] not in errors:
        return b""
    return icmp[_ICMP_HEADER:]


def _be16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "big")


def _ihl_bytes(packet: bytes) -> int:
    return (packet[0] & 0x0F) * 4


# --- select --------------------------------------------------------------------------------------


def bounds(weights: Sequence[int | None]) -> tuple[int, ...]:
    """The upper bound of each path: it takes hashes up to and including that one.

    `weights` are those of the paths in the kernel's order; None stands for a path that is out of
    use (dead, or linkdown where that is ignored), whose bound is -1. fib_rebalance() in
    net/ipv4/fib_semantics.c; rt6_multipath_rebalance() and nh_group_v4/v6 agree with it. Raises
    ValueError for a weight below 1.
    """
    alive = [weight for weight in weights if weight is not None]
    if any(weight < 1 for weight in alive):
        raise ValueError(f"weights must be at least 1: {list(weights)}")
    total = sum(alive)
    cumulative = 0
    result = []
    for weight in weights:
        if weight is None:
            result.append(-1)
            continue
        cumulative += weight
        # DIV_ROUND_CLOSEST_ULL((u64)w << 31, total) - 1
        result.append(((cumulative << HASH_BITS) + total // 2) // total - 1)
    return tuple(result)


def select(bounds: Sequence[int], hash31: int) -> int:
    """Index of the path that takes this hash: the first one whose bound is not below it.

    Raises LookupError where no path does: all are out of use.
    """
    for index, bound in enumerate(bounds):
        if hash31 <= bound:  # never so for -1
            return index
    raise LookupError(f"no path takes hash {hash31}: bounds {list(bounds)}")


def shares(bounds: Sequence[int]) -> tuple[Fraction, ...]:
    """The exact part of all hashes that each path takes: they sum to 1 unless all are dead."""
    result = []
    taken = -1
    for bound in bounds:
        result.append(Fraction(max(bound - taken, 0), HASH_SPACE))
        taken = max(taken, bound)
    return tuple(result)


def moved_share(
    old: Sequence[tuple[Hashable, int]], new: Sequence[tuple[Hashable, int]]
) -> Fraction:
    """The exact part of all hashes that get another member: the flows that a change moves.

    `old` and `new` are paths as (member, bound) in the kernel's order; a member is whatever
    stands for where packets go, for instance a NextHop. It may occur several times. Hashes that
    nobody takes (all paths dead) count as moved if somebody takes them on the other side.
    """
    cuts = sorted({-1, HASH_SPACE - 1, *(bound for _, bound in old), *(bound for _, bound in new)})
    moved = sum(
        high - low for low, high in pairwise(cuts) if _member(old, high) != _member(new, high)
    )
    return Fraction(moved, HASH_SPACE)


def _member(paths: Sequence[tuple[Hashable, int]], hash31: int) -> tuple[Hashable, ...]:
    """(member,) that takes this hash, () if none."""
    return next(((member,) for member, bound in paths if hash31 <= bound), ())
