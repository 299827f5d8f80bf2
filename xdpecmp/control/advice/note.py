"""What advice is about, and what it consists of."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ...compile import Tables
from ...model.values import Link, Prefix, Snapshot
from ...observe.scratch import Trial


class Note(NamedTuple):
    """A sentence, and the command that it leads to."""

    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.fix}" if self.fix else self.text


class World(NamedTuple):
    """What there is to say something about."""

    snapshot: Snapshot
    tables: Tables
    attached: Collection[int]
    """Indexes of our interfaces."""

    def links(self) -> list[Link]:
        """Our interfaces."""
        return [self.snapshot.links[ifindex] for ifindex in sorted(self.attached)]


class Disagreement(NamedTuple):
    """A route for which Linux said that it chooses otherwise than we compute."""

    prefix: Prefix
    trial: Trial | None
    """What real packets did in a scratch namespace; None if that could not be tried."""
