"""Compiled programs: what a compiler made of the BPF sources, free of any instance, as a value.

Compiling takes most of an `attach`, and gives the same each time: so images are kept in a cache, by
all that goes into one.
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
"""Images in the cache; the oldest ones go."""

_INSTRUCTION = 8
_IMMEDIATE = 4
"""Offset in an instruction."""
_LOAD_64 = 0x18
_PSEUDO_MAP_FD = 1


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
    """Name → BPF instructions, which name maps by their place in `maps`."""

    @staticmethod
    def map_references(code: bytes) -> Iterator[int]:
        """Where in the instructions maps are named: offsets of four bytes in host order."""
        for at in range(0, len(code), _INSTRUCTION):
            if code[at] == _LOAD_64 and code[at + 1] >> 4 == _PSEUDO_MAP_FD:
                yield at + _IMMEDIATE

    def code(self, function: str, fds: Sequence[int]) -> bytes:
        """The instructions of a program for these descriptors of `maps`."""
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
        """What `dump` gave. Raises ValueError, KeyError, TypeError or AttributeError for
        anything else."""
        found = json.loads(text)
        functions = {name: base64.b64decode(raw) for name, raw in found["functions"].items()}
        return cls([MapSpec(**spec) for spec in found["maps"]], functions)


# --- the cache ----------------------------------------------------------------------------------


def cached(key: str) -> Image | None:
    """The image kept under that name; None where there is none that can be read, or somebody other
    than root could have written it."""
    path = CACHE / f"{key}.json"
    if not (places.is_private(CACHE) and places.is_private(path)):
        return None
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return Image.parse(path.read_text())
    return None


def keep(key: str, image: Image) -> None:
    """Keep an image for the next time. Where that fails, the next time takes longer."""
    with suppress(OSError, places.Untrusted):
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        places.make_directory(CACHE)
        places.write_file(CACHE / f"{key}.json", image.dump())
        kept = sorted(CACHE.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_KEPT]:
            path.unlink(missing_ok=True)


def forget(key: str) -> None:
    """Do not use that image again."""
    with suppress(OSError):
        (CACHE / f"{key}.json").unlink()
