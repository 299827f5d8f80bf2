"""Compiled programs as values, which belong to no instance, and a cache of them.

Compiling takes most of the time of an `attach`, and gives the same result each time: so images are
kept in a cache, by a hash over all that they depend on (`build`).
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import places

CACHE = Path("/var/cache/xdpecmp")
_KEPT = 16
"""Images in the cache; older ones are deleted."""

_INSTRUCTION = 8
"""Bytes of struct bpf_insn (include/uapi/linux/bpf.h)."""
_IMMEDIATE = 4
"""Offset of its field `imm`."""
_LOAD_64 = 0x18
"""BPF_LD | BPF_DW | BPF_IMM."""
_PSEUDO_MAP_FD = 1
"""BPF_PSEUDO_MAP_FD in `src_reg`: the immediate value is a map's descriptor."""


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map: what BPF_MAP_CREATE takes, and bcc's descriptions of its key and value."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Image:
    """Maps and programs."""

    maps: Sequence[MapSpec]
    functions: Mapping[str, bytes]
    """Name → BPF instructions, which refer to maps by their index in `maps`."""

    @staticmethod
    def map_references(code: bytes) -> Iterator[int]:
        """Offsets of the references to maps in the instructions: four bytes each, in host order."""
        for at in range(0, len(code), _INSTRUCTION):
            if code[at] == _LOAD_64 and code[at + 1] >> 4 == _PSEUDO_MAP_FD:
                yield at + _IMMEDIATE

    def code(self, function: str, fds: Sequence[int]) -> bytes:
        """The instructions of a program, linked to these descriptors of `maps`."""
        linked = bytearray(self.functions[function])
        for at in self.map_references(bytes(linked)):
            number = int.from_bytes(linked[at : at + 4], sys.byteorder)
            linked[at : at + 4] = fds[number].to_bytes(4, sys.byteorder)
        return bytes(linked)

    def dump(self) -> str:
        """As JSON."""
        functions = {name: base64.b64encode(raw).decode() for name, raw in self.functions.items()}
        return json.dumps({"maps": [asdict(spec) for spec in self.maps], "functions": functions})

    @classmethod
    def parse(cls, text: str) -> Image:
        """The image from the result of `dump`. Raises ValueError, KeyError, TypeError or
        AttributeError for anything else."""
        found = json.loads(text)
        functions = {name: base64.b64decode(raw) for name, raw in found["functions"].items()}
        return cls([MapSpec(**spec) for spec in found["maps"]], functions)


# --- the cache ----------------------------------------------------------------------------------


def cached(key: str) -> Image | None:
    """The image with that key; None if there is none that can be read, or if anybody other than
    root could have written it."""
    path = CACHE / f"{key}.json"
    if not (places.is_private(CACHE) and places.is_private(path)):
        return None
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return Image.parse(path.read_text())
    return None


def keep(key: str, image: Image) -> None:
    """Keeps an image for the next time. If that fails, the next time takes longer."""
    with suppress(OSError, places.Untrusted):
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        places.make_directory(CACHE)
        places.write_file(CACHE / f"{key}.json", image.dump())
        kept = sorted(CACHE.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_KEPT]:
            path.unlink(missing_ok=True)


def forget(key: str) -> None:
    """Deletes that image."""
    with suppress(OSError):
        (CACHE / f"{key}.json").unlink()
