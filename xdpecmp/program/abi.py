"""The numbers and names that the BPF program and the control plane share, read from the C sources.

`bpf/abi.h`, `bpf/reasons.def` and `bpf/icmp_errors.def` are the one place for them; this module
reads those, so that nothing is typed twice. Only the capacities of the maps have their place here.
The layout of structs comes from bcc, which compiles them (see `maps`).
"""

from __future__ import annotations

import hashlib
import re
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

BPF_DIR = Path(__file__).parents[1] / "bpf"
"""The BPF sources: beside this file in a wheel, a link to the project's `bpf/` in a checkout."""

CAPACITY = {
    "INTERFACES_MAX": 4096,
    "VLANS_MAX": 4096,
    "MACS_MAX": 1024,
    "ROUTES4_MAX": 2_000_000,
    "ROUTES6_MAX": 2_000_000,
    "GROUPS_MAX": 32_768,
    "PATHS_MAX": 1 << 20,
    "BUCKETS_MAX": 1 << 18,
    "NEXTHOPS_MAX": 32_768,
    "PATH_STATS_MAX": 32_768 + 1,
    "DEVICES_MAX": 1024,
    "DIRECT16_MAX": 1 << 8,
    "DIRECT24_MAX": 1 << 16,
    "DIRECT32_MAX": 1 << 15,
    "DESTINATIONS_MAX": 4096,
}
"""Capacity of each map, by its name. LPM tries take memory for the entries in use only."""

MAX_PATHS = 1024
"""Paths of one group that the data path searches (bpf/select.h); larger groups pass to Linux."""

MAX_BUCKETS = 65_535
"""Buckets of one resilient group: struct group has 16 bits for them, as the kernel does."""

SOURCES: dict[str, str] = {
    path.relative_to(BPF_DIR).as_posix(): path.read_text()
    for path in sorted(BPF_DIR.rglob("*.[chd]*"))
}
"""The text of every file of BPF_DIR by name, as it was when this process began: that text is
compiled, even if another version has been installed over it meanwhile."""


def _source(name: str) -> str:
    return SOURCES[name]


def _rows(name: str) -> list[tuple[str, ...]]:
    """The X(...) rows of a .def file, each as its arguments; strings without quotes, and joined
    where C joins them."""
    rows = re.findall(r"^X\((.*?)\)$", _source(name), re.MULTILINE | re.DOTALL)
    argument = re.compile(r'"[^"]*"|[^,\s]+')
    return [
        tuple(each.strip('"') for each in argument.findall(re.sub(r'"\s+"', "", row)))
        for row in rows
    ]


def _enum_members(name: str) -> list[str]:
    match = re.search(rf"^enum {name} {{(.*?)^}};", _source("abi.h"), re.MULTILINE | re.DOTALL)
    assert match, f"abi.h has no enum {name}"
    body = re.sub(r"/\*.*?\*/", "", match[1], flags=re.DOTALL)
    return [member.strip() for member in body.split(",") if member.strip()]


def _define(name: str) -> str:
    match = re.search(rf"^#define {name} (\w+)", _source("abi.h"), re.MULTILINE)
    assert match, f"abi.h does not define {name}"
    return match[1]


def _defines(prefix: str) -> dict[str, int]:
    rows = re.findall(rf"^#define {prefix}(\w+) (\w+)", _source("abi.h"), re.MULTILINE)
    return {name: int(value, 0) for name, value in rows}


def _enum(name: str, members: list[str]) -> Any:
    """An IntEnum that counts from 0, as in C. Any, since no type checker reads C."""
    return IntEnum(name, [(member, i) for i, member in enumerate(members)])


_REASONS = _rows("reasons.def")
_ICMP_ERRORS = _rows("icmp_errors.def")

Reason = _enum("Reason", [row[0] for row in _REASONS])
"""Why a packet got its verdict: FORWARDED (0), or why it was passed to Linux (reasons.def)."""

REASON_TEXT: dict[str, str] = {row[0]: row[1] for row in _REASONS}
"""Name of a reason → what the operator reads."""

REASON_ADVICE: dict[str, str] = {row[0]: row[2] for row in _REASONS}
"""Name of a reason → what the operator can do about it, commands in backquotes: docs/reasons.md."""


def _icmp_counter(family: str, number: str, code: str) -> int:
    """The entry of `reason_stats` that classify_icmp() in bpf/icmp.h computes for it."""
    base = int(_define(f"ICMPV{family}_STAT_BASE"), 0) + int(number)
    return base if code == "ANY_CODE" else base + int(_define("ICMP_STAT_FRAG_NEEDED_SHIFT"), 0)


ICMP_ERROR_INDEX: dict[str, int] = {row[0]: _icmp_counter(*row[1:4]) for row in _ICMP_ERRORS}
"""Name of an ICMP error type → its counter in `reason_stats`."""

ICMP_ERROR_TEXT: dict[str, str] = {row[0]: row[4] for row in _ICMP_ERRORS}

GroupKind = _enum("GroupKind", [m.removeprefix("GROUP_") for m in _enum_members("group_kind")])
"""Kind of an entry of `groups`: PASS, SINGLE, THRESHOLD, RESILIENT."""

INDIRECT_INGRESS: int = int(_define("INDIRECT_INGRESS"), 0)
INTERFACE_FLAGS: dict[str, int] = _defines("INTERFACE_")
NEXTHOP_FLAGS: dict[str, int] = _defines("NEXTHOP_")
FRAGMENTS_OF: dict[str, int] = _defines("FRAGMENTS_OF_")
STAT_COUNT: int = int(_define("STAT_COUNT"), 0)
"""Entries of `reason_stats` that the program counts in, per reason or ICMP error."""
STAT_ENTRIES: int = int(_define("STAT_ENTRIES"), 0)
"""All entries of `reason_stats`; the second half holds what earlier layouts counted."""
EXPLAINED_NOTHING: int = int(_define("EXPLAINED_NOTHING"), 0)
DIRECT_BLOCK: int = int(_define("DIRECT_BLOCK"), 0)
"""Flag in an entry of `direct24`: the rest is the number of a block of `direct32`."""
LOCAL4_FILTER_WORDS: int = _defines("LOCAL4_FILTER_")["WORDS"]
LOCAL4_FILTER_MULTIPLIER: int = _defines("LOCAL4_FILTER_")["MULTIPLIER"]
LOCAL4_FILTER_SHIFT: int = _defines("LOCAL4_FILTER_")["SHIFT"]


@cache
def source_id() -> str:
    """Names the BPF sources: programs with equal ids decide alike."""
    digest = hashlib.sha256()
    for text in SOURCES.values():
        digest.update(text.encode())
    return digest.hexdigest()[:12]


@cache
def abi_id() -> str:
    """Names the layout of the maps: programs with equal ids can share pinned maps. Of reasons the
    names and their order count, not what is said about them."""
    text = _source("abi.h") + _source("icmp_errors.def") + repr(list(Reason.__members__))
    return hashlib.sha256((text + repr(CAPACITY)).encode()).hexdigest()[:12]
