"""What `attach` was asked for: one value, kept in one file of the instance and given to `compile`.

Whoever attaches again without saying an option gets it as it was.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

FLOW_LABEL = FOLLOW, IGNORE = ("follow", "ignore")
"""Whether IPv6's hash policy 0 looks at the flow label: as Linux, or not."""


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for the whole instance."""

    flow_label: str = FOLLOW
    """One of FLOW_LABEL."""
    own_seed: int | None = None
    """What to hash with if Linux's key is not known; None: nothing, such routes pass."""
    find_key: bool = True
    """Whether to read Linux's hash key from kernel memory, or else to search it, if the sysctl does
    not tell it."""
    bypass_firewall: bool = False
    """Whether to forward what firewalls, NAT and traffic control of Linux will not see then."""

    def updated(self, **wishes: Any) -> Options:
        """With what was said; None stands for "as it was"."""
        return replace(self, **{name: wish for name, wish in wishes.items() if wish is not None})

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Options:
        """What `dump` gave; what another version wrote besides is left out. Raises ValueError."""
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("options that are no JSON object")
        return cls(
            **{field.name: found[field.name] for field in fields(cls) if field.name in found}
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """An interface that was asked for, by a name that the key of a mapping is."""

    mode: str = "auto"
    """One of attachment.MODES."""
    ifindex: int = 0
    """The device that our program was last attached to. If that very device has no program of
    ours any more, somebody has taken it off; another one of that name is to be attached."""
