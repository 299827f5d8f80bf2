"""The lines of the data path that tests/mutation.py breaks, and the tests that have to see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.net.test_differential import SEED

HEADERS = "tests/bpf/test_header_reasons.py"
ROUTES = "tests/bpf/test_route_reasons.py"
LEASE = "tests/bpf/test_lease.py"
REWRITE = "tests/bpf/test_rewrite.py"
SELECTION = "tests/bpf/test_selection.py"
TAGS = "tests/bpf/test_tags.py"
QUOTES = "tests/bpf/test_quotes.py"
PARTIAL = "tests/bpf/test_partial_checksums.py"
LOOKUP = "tests/bpf/test_lookup.py"
ABI = "tests/unit/test_abi.py"
_ROUND = "tests/net/test_differential.py::test_the_same_becomes_of_every_frame"
GENERIC = [f"{_ROUND}[{SEED + policy}]" for policy in range(4)]
"""Rounds of the differential test in generic mode, by hash policy."""
NATIVE = [f"{_ROUND}[{SEED + 4 + policy}]" for policy in range(4)]


@dataclass(frozen=True)
class Mutant:
    """One row."""

    what: str
    file: str
    """In bpf/."""
    old: str
    new: str
    tests: str
    """What has to go red, as pytest has it."""

    def apply(self, root: Path) -> str:
        """Break the line in that tree; returns what the file said before. Raises ValueError where
        the line isn't there exactly once."""
        path = root / "bpf" / self.file
        before = path.read_text()
        if (count := before.count(self.old)) != 1:
            raise ValueError(f"{self.file} has this line {count} times: {self.old}")
        path.write_text(before.replace(self.old, self.new))
        return before


MUTANTS = (
    # what leaves
    Mutant("TTL", "rewrite.h", "ip->ttl--;", ";", REWRITE),
    Mutant("hop limit", "rewrite.h", "l3)->hop_limit--;", "l3)->hop_limit -= 2;", REWRITE),
    Mutant("checksum carry", "rewrite.h", "sum + (sum >= 0xffff)", "sum", REWRITE),
    Mutant("checksum corner", "rewrite.h", "(sum >= 0xffff)", "(sum > 0xffff)", REWRITE),
    Mutant("checksum step", "rewrite.h", "+ be16(0x0100);", "+ 0x0100;", REWRITE),
    Mutant(
        "destination MAC",
        "rewrite.h",
        "words[2] = egress->neighbour_word >> 32;",
        "words[2] = egress->device_word >> 32;",
        REWRITE,
    ),
    Mutant(
        "source MAC",
        "rewrite.h",
        "words[5] = egress->device_word >> 32;",
        "words[5] = egress->neighbour_word >> 32;",
        REWRITE,
    ),
    Mutant("trim", "rewrite.h", "if (frame > wanted)", "if (0)", REWRITE),
    Mutant("VLAN push", "rewrite.h", "tag[0].tci = egress->tags >> 16;", "tag[0].tci = 0;", TAGS),
    Mutant("inner VLAN push", "rewrite.h", "egress->tags >> 48;", "egress->tags >> 16;", TAGS),
    Mutant("VLAN pop", "rewrite.h", "if (surplus &&", "if (surplus < 0 &&", TAGS),
    # where it leads
    Mutant("direct row", "lookup.c", "address >> 8 & 0xff", "address & 0xff", LOOKUP),
    Mutant("direct cell", "lookup.c", "address >> 16 & 0xff", "address >> 17 & 0xff", LOOKUP),
    Mutant("direct block", "lookup.c", "= be16(address);", "= be16(address) | 1;", LOOKUP),
    Mutant("direct host", "lookup.c", "group[address >> 24]", "group[address >> 25]", LOOKUP),
    Mutant("block number", "lookup.c", "group & ~DIRECT_BLOCK", "group & 0x7ffe", LOOKUP),
    Mutant("block flag", "abi.h", "DIRECT_BLOCK 0x8000", "DIRECT_BLOCK 0x4000", ABI),
    Mutant(
        "behind the direct tables",
        "lookup.c",
        "id ? &id : routes4.lookup",
        "1 ? &id : routes4.lookup",
        LOOKUP,
    ),
    Mutant("epoch", "lookup.c", "known->epoch == epoch", "known->epoch", LOOKUP),
    Mutant("upper half", "lookup.c", "known->address[0] == address[0]", "1", LOOKUP),
    Mutant("lower half", "lookup.c", "known->address[1] == address[1]", "1", LOOKUP),
    # what may be forwarded
    Mutant("second VLAN tag", "parse.h", "is_tpid(tags[0].proto)", "0", TAGS),
    Mutant("VLAN id", "protocols.h", "VLAN_VID_MASK 0x0fff", "VLAN_VID_MASK 0xffff", TAGS),
    Mutant("header checksum", "checksum.h", "word[4]) == 0xffff", "word[4]) != 0", HEADERS),
    Mutant(
        "IPv4 length", "parse.h", "< sizeof(*ip) || *length > available", "< sizeof(*ip)", HEADERS
    ),
    Mutant("loopback", "parse.h", " || destination == IPV4_LOOPBACK", "", HEADERS),
    Mutant("martian", "parse.h", " || source == IPV4_LOOPBACK", "", HEADERS),
    Mutant("link-local", "protocols.h", "LOCAL 0xfe80", "LOCAL 0xfec0", HEADERS),
    Mutant("fragment flag", "protocols.h", "MASK be16(0x3fff)", "MASK be16(0x1fff)", GENERIC[1]),
    Mutant("last TTL", "admit.c", "ip->ttl <= 1", "ip->ttl < 1", HEADERS),
    Mutant("last hop limit", "admit.c", "ip->hop_limit <= 1", "ip->hop_limit < 1", HEADERS),
    # where it came in and where it goes
    Mutant("our MAC", "admit.c", "if (mac != ingress.mac)", "if (0)", HEADERS),
    Mutant("lease", "ingress.c", "!c || bpf_jiffies64() >=", "!c || 1 >", LEASE),
    Mutant("rp_filter", "lookup.c", "== RP_FILTER_STRICT && !uses", "== 2 && !uses", ROUTES),
    Mutant("our source address", "lookup.c", ">> (bit & 63) & 1))", ">> (bit & 63) & 0))", ROUTES),
    Mutant("MTU", "nexthops.c", "l3_length > d->egress", "l3_length >= d->egress", ROUTES),
    Mutant("redirect", "nexthops.c", "ifindex == p->ingress_ifindex", "ifindex == 0", ROUTES),
    # keys
    Mutant(
        "IPv4 address order",
        "key.h",
        "if (key->destination < key->source) {",
        "if (0) {",
        SELECTION,
    ),
    Mutant(
        "IPv6 address order",
        "key.h",
        "swap = is_less6(key->destination, key->source)",
        "swap = 0",
        SELECTION,
    ),
    Mutant(
        "IPv6 byte order",
        "key.h",
        "bswap64(a[0]) < __builtin_bswap64(b[0])",
        "bswap64(a[0]) < b[0]",
        SELECTION,
    ),
    Mutant(
        "port order",
        "key.h",
        "destination < source ? (source << 16) | destination : ports",
        "ports",
        GENERIC[1],
    ),
    Mutant(
        "place of the protocol",
        "key.h",
        "begin_key(config, (__u64)key->proto << KEY_PROTO_SHIFT);",
        "begin_key(config, (__u64)key->proto << 24);",
        GENERIC[1],
    ),
    Mutant("state after UDP", "key.h", "config->sip_after_udp", "config->sip_start", GENERIC[1]),
    Mutant("state after TCP", "key.h", "config->sip_after_tcp", "config->sip_start", GENERIC[1]),
    Mutant(
        "IPv4 padding", "key.h", "sip_absorb(&s, high);", "sip_absorb(&s, high << 8);", SELECTION
    ),
    Mutant(
        "IPv6 padding",
        "key.h",
        "words[4] = high1 >> 32;",
        "words[4] = high1 >> 32 | 1ULL << 63;",
        SELECTION,
    ),
    Mutant(
        "IPv6 key length",
        "key.h",
        "sip_finish(&s, KEY6_BYTES)",
        "sip_finish(&s, KEY6_BYTES - 4)",
        SELECTION,
    ),
    Mutant(
        "flow label",
        "hash_simple.h",
        "ip->version_class_label & config->label_mask",
        "ip->version_class_label",
        SELECTION,
    ),
    Mutant(
        "label's byte order",
        "hash_deep.h",
        "(be32(w->label) &",
        "(w->label &",
        NATIVE[3],
    ),
    Mutant(
        "field of the ports",
        "hash_deep.h",
        "(field_mask(fields, FIELD_SOURCE_PORT) & 0xffff)",
        "(field_mask(fields, FIELD_DESTINATION_PORT) & 0xffff)",
        GENERIC[3],
    ),
    Mutant(
        "fields of a quote",
        "hash_deep.h",
        "(fields & (FIELD_SOURCE | FIELD_SOURCE_PORT)) << 1",
        "(fields & (FIELD_SOURCE | FIELD_SOURCE_PORT))",
        GENERIC[3],
    ),
    Mutant("jhash", "jhash.h", "INITVAL + (2 << 2)", "INITVAL + (3 << 2)", GENERIC[3]),
    # hash and choice
    Mutant(
        "SipHash rotation",
        "siphash.h",
        "ROTATE_LEFT(s->v3, 21)",
        "ROTATE_LEFT(s->v3, 22)",
        SELECTION,
    ),
    Mutant("SipHash end", "siphash.h", "s->v2 ^= 0xff;", "s->v2 ^= 0xee;", SELECTION),
    Mutant(
        "bound",
        "select.h",
        "((__u64)bound - hash) >> 63",
        "((__u64)bound - hash - 1) >> 63",
        SELECTION,
    ),
    Mutant("halving", "select.h", "s->count / 2 - 1;", "s->count / 2;", SELECTION),
    Mutant("bucket", "select.h", "hash % count;", "hash & (count - 1);", GENERIC[1]),
    # headers behind headers, and quotes
    Mutant("GRE key", "walk.h", "(gre->flags & GRE_KEY ? GRE_OPTION_BYTES : 0)", "0", GENERIC[2]),
    Mutant(
        "inner IHL",
        "walk.h",
        "w->offset += ipv4_header_bytes(ip);",
        "w->offset += 20;",
        GENERIC[3],
    ),
    Mutant("IPv6 fragment", "walk.h", "w->is_fragment = 1;", "w->is_fragment = 0;", GENERIC[1]),
    Mutant("extension length", "walk.h", "(header->length + 1) * 8", "8", GENERIC[1]),
    Mutant(
        "SPI of AH",
        "walk.h",
        "offset += __builtin_offsetof(struct ah_header, spi);",
        "",
        GENERIC[1],
    ),
    Mutant("UDP tunnels", "checksum.h", "is_udp_tunnel(udp->destination)", "0", PARTIAL),
    Mutant("UDP without checksum", "checksum.h", "(!udp->checksum || ", "(", PARTIAL),
    Mutant("partial checksum", "checksum.h", "be16(l3->length - l4->offset)", "0", PARTIAL),
    Mutant("quote's offset", "icmp.h", "offset + sizeof(*icmp);", "offset + 4;", QUOTES),
    Mutant(
        "ICMP types",
        "icmp.h",
        "(family == 4 ? 1 << type",
        "(family == 4 && type != 5 ? 1 << type",
        QUOTES,
    ),
    Mutant(
        "ICMPv6 types",
        "icmp.h",
        "(family == 6 ? 1 << type",
        "(family == 6 && type != 2 ? 1 << type",
        QUOTES,
    ),
    Mutant("quoting fragment", "icmp.h", " && !(ip->fragment & IPV4_OFFSET_MASK)", "", QUOTES),
    Mutant("AH before ICMPv6", "icmp.h", "(ah->length + 2) * 4", "(ah->length + 2) * 8", QUOTES),
)
