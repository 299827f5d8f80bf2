"""Packet → flow keys → hash: the reference model of bpf/key.h, hash_simple.h and hash_deep.h.

By hash policy (`Policy`), as fib_multipath_hash() in net/ipv4/route.c and rt6_multipath_hash() in
net/ipv6/route.c. How a packet is read is in `headers`, the hash functions in `siphash`.
"""

from __future__ import annotations

import struct
import sys
from enum import IntEnum, IntFlag
from typing import Literal, NamedTuple

from ..model.hashkey import HashKey
from .headers import Walk, be32, quote_offset, trimmed
from .siphash import jhash_2words, siphash32


class Policy(IntEnum):
    """net.ipv4.fib_multipath_hash_policy, and that of net.ipv6 (ip-sysctl.rst in the kernel's
    documentation)."""

    L3 = 0
    """Addresses; for IPv6 with flow label and next header."""
    L4 = 1
    """Addresses, ports, protocol."""
    INNER_L3 = 2
    """As L3, of the innermost IP header."""
    CUSTOM = 3
    """The fields that fib_multipath_hash_fields names, outer and inner."""


POLICIES = tuple(Policy)


class Field(IntFlag):
    """Bits of fib_multipath_hash_fields; those of the inner header are INNER_SHIFT further left
    (include/net/ip_fib.h)."""

    SOURCE = 0x01
    DESTINATION = 0x02
    PROTO = 0x04
    FLOW_LABEL = 0x08
    SPORT = 0x10
    DPORT = 0x20


INNER_SHIFT = 6
DEFAULT_FIELDS = 0x7
"""The kernel's default of fib_multipath_hash_fields."""

_ALL_FIELDS = (1 << INNER_SHIFT) - 1
_ADDRESSES = Field.SOURCE | Field.DESTINATION
_FIELDS_OF_L4 = _ADDRESSES | Field.PROTO | Field.SPORT | Field.DPORT
_FIELDS_OF_L3 = {4: _ADDRESSES, 6: _ADDRESSES | Field.PROTO | Field.FLOW_LABEL}

_ADDRESS_SIZE = {4: 4, 6: 16}
_ByteOrder = Literal["little", "big"]


class FlowKey(NamedTuple):
    """What a hash is computed from: the fields of a packet that the hash policy looks at.

    Fields that the policy leaves out are 0. Numbers are in host order.
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
    label_as_on_the_wire: bool = True
    """Whether the label is hashed in network byte order (policy 0) or in the host's (2 and 3, whose
    label comes from the flow dissector)."""

    def for_policy(self, policy: int, fields: int = DEFAULT_FIELDS) -> FlowKey:
        """This key without the fields that `policy` leaves out, of a packet without encapsulation.

        For flows given by their fields, without a packet: `FlowKeys(policy, key).hash(secret)` is
        the hash of their packets. Raises ValueError for a policy that does not exist.
        """
        _check_policy(policy)
        if policy == Policy.L3:
            return self._only(_FIELDS_OF_L3[self.family])
        if policy == Policy.L4:
            return self._only(_FIELDS_OF_L4)
        key = self._replace(label_as_on_the_wire=self.family == 4)
        return key._only(_FIELDS_OF_L3[self.family] if policy == Policy.INNER_L3 else fields)

    def _only(self, fields: int) -> FlowKey:
        """With these fields alone."""
        zero = bytes(_ADDRESS_SIZE[self.family])
        label = self.flow_label if self.family == 6 and fields & Field.FLOW_LABEL else 0
        return self._replace(
            source=self.source if fields & Field.SOURCE else zero,
            destination=self.destination if fields & Field.DESTINATION else zero,
            proto=self.proto if fields & Field.PROTO else 0,
            sport=self.sport if fields & Field.SPORT else 0,
            dport=self.dport if fields & Field.DPORT else 0,
            flow_label=label,
            label_as_on_the_wire=self.label_as_on_the_wire or not label,
        )

    def reversed(self) -> FlowKey:
        """The key of the flow's other direction."""
        return self._replace(
            source=self.destination, destination=self.source, sport=self.dport, dport=self.sport
        )

    def pack(self) -> bytes:
        """The bytes that the kernel hashes: 48 for IPv4, 72 for IPv6.

        `struct flow_keys` (include/net/flow_dissector.h) from its field `basic` on, once
        __flow_hash_consistentify() has put addresses in order, and ports: both directions of a flow
        have the same bytes. Raises ValueError if the addresses do not belong to the family,
        struct.error if a number is out of range.
        """
        size = _ADDRESS_SIZE.get(self.family)
        if len(self.source) != size or len(self.destination) != size:
            raise ValueError(f"not two IPv{self.family} addresses: {self}")
        byte_order = sys.byteorder if self.family == 4 else "big"  # IPv6: memcmp()
        label = struct.pack("!I" if self.label_as_on_the_wire else "=I", self.flow_label)
        return b"".join(
            (
                struct.pack("!2xBx4s16x4x", self.proto, label),
                *_in_order(struct.pack("!H", self.sport), struct.pack("!H", self.dport)),
                bytes(4),
                *_in_order(self.source, self.destination, byte_order),
                bytes(4),
            )
        )

    def hash32(self, secret: HashKey | int) -> int:
        """The kernel's 32-bit hash; `secret` and errors as in `sip_state` and `pack`."""
        return siphash32(self.pack(), secret)

    def hash(self, secret: HashKey | int) -> int:
        """The 31-bit hash of a flow of which this is the only key: policies 0, 1 and 2."""
        return self.hash32(secret) >> 1


class FlowKeys(NamedTuple):
    """All keys that a packet's hash is computed from."""

    policy: int
    outer: FlowKey | None = None
    """Policies 0, 1 and 3."""
    inner: FlowKey | None = None
    """Of the innermost IP header: policies 2, and 3 where there is encapsulation."""
    is_followed: bool = True
    """False if the walk through the headers broke: then the data path passes the packet to Linux,
    unless it is an ICMP error, of which the quoted bytes are enough."""

    @property
    def only(self) -> FlowKey | None:
        """The one key of policies 0, 1 and 2; None under policy 3."""
        return None if self.policy == Policy.CUSTOM else self.outer or self.inner

    def hash(self, secret: HashKey | int) -> int:
        """The 31-bit hash of the packet; `secret` as in `sip_state`, errors too."""
        if self.only:
            return self.only.hash(secret)
        outer, inner = (key.hash32(secret) if key else 0 for key in (self.outer, self.inner))
        return jhash_2words(outer, inner) >> 1


def flow_keys(
    packet: bytes, policy: int, fields: int = DEFAULT_FIELDS, follow_label: bool = True
) -> FlowKeys:
    """The keys of an IPv4 or IPv6 packet under a hash policy.

    `packet` begins at the IP header; bytes beyond its length field (Ethernet padding) are ignored.
    `fields` is fib_multipath_hash_fields, for policy 3; `follow_label` False leaves out the flow
    label under policy 0, as `attach --flow-label ignore` does. An ICMP error has the keys of the
    packet that it quotes; under policy 3 they are reversed, since the error goes the other way.
    IPv6 jumbograms are not supported; their hop-by-hop header sends them to Linux.

    Raises ValueError for a policy that does not exist and for packets that Linux would not route:
    neither IPv4 nor IPv6, or lengths that disagree.
    """
    _check_policy(policy)
    packet, family = trimmed(packet)
    start = quote_offset(packet, family)
    walk = Walk(packet, start, family)
    if policy == Policy.L3:
        return FlowKeys(policy, _l3_key(packet, walk, follow_label))
    if policy != Policy.CUSTOM:
        fields = _FIELDS_OF_L4 if policy == Policy.L4 else _ALL_FIELDS << INNER_SHIFT
    outer = inner = None
    if chosen := fields & _ALL_FIELDS:
        walk.pass_extension_headers()
        outer = _key(walk, policy, chosen, is_quote=start > 0)
    if chosen := fields >> INNER_SHIFT & _ALL_FIELDS:
        walk.go_to_innermost()
        if policy == Policy.INNER_L3 or walk.is_encapsulated:
            chosen = _FIELDS_OF_L3[walk.family] if policy == Policy.INNER_L3 else chosen
            inner = _key(walk, policy, chosen, is_quote=start > 0)
    return FlowKeys(policy, outer, inner, is_followed=not walk.is_broken)


def flow_hash(
    packet: bytes,
    policy: int,
    secret: HashKey | int,
    fields: int = DEFAULT_FIELDS,
    follow_label: bool = True,
) -> int:
    """The 31-bit hash of a packet; arguments and errors as in `flow_keys` and `sip_state`."""
    return flow_keys(packet, policy, fields, follow_label).hash(secret)


def flow_key(packet: bytes, policy: int) -> FlowKey:
    """The one key that policy 0, 1 or 2 makes of a packet; ValueError also for policy 3."""
    key = flow_keys(packet, policy).only
    if key is None:
        raise ValueError(f"hash policy {policy} has more than one key: flow_keys()")
    return key


def _check_policy(policy: int) -> None:
    if policy not in POLICIES:
        raise ValueError(f"hash policy {policy} is not supported, only 0 to 3 are")


def _l3_key(packet: bytes, walk: Walk, follow_label: bool) -> FlowKey:
    """Policy 0: next header and label are those of the IPv6 header itself, without a walk."""
    if walk.family == 4:
        return FlowKey(4, *walk.addresses())
    label = be32(packet, walk.ip) & 0xFFFFF if follow_label else 0
    return FlowKey(6, *walk.addresses(), walk.proto, flow_label=label)


def _key(walk: Walk, policy: int, fields: int, is_quote: bool) -> FlowKey:
    key = FlowKey(
        walk.family,
        *walk.addresses(),
        walk.proto,
        *walk.ports(),
        walk.label if walk.family == 6 else 0,
        label_as_on_the_wire=policy < Policy.INNER_L3 or walk.family == 4,
    )
    if is_quote and policy == Policy.CUSTOM:
        key = key.reversed()
    return key._only(fields)


def _in_order(
    source: bytes, destination: bytes, byte_order: _ByteOrder = sys.byteorder
) -> tuple[bytes, bytes]:
    """Swaps them if destination < source, as numbers in `byte_order`.

    The kernel compares ports and IPv4 addresses as numbers in the host's byte order.
    """
    if int.from_bytes(destination, byte_order) < int.from_bytes(source, byte_order):
        return destination, source
    return source, destination
