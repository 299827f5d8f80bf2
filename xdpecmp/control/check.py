"""What `attach` checks once all runs: whether this very kernel chooses as we compute, and what its
user should know."""

from __future__ import annotations

from ..agent.loop import EVERYTHING
from ..agent.mirror import Mirror
from ..model.values import Prefix
from ..netlink import has_seed
from ..observe.quickcheck import disagreeing_route, trial_of
from . import advice


def notes(mirror: Mirror) -> list[str]:
    """All that there is to say, a line each. May read the kernel again, and bring the maps up to
    it."""
    found = _disagreement(mirror)
    said = advice.notes(
        advice.World(mirror.snapshot, mirror.tables, mirror.attached()),
        bypassed=mirror.options.bypass_firewall,
        key=mirror.key_state,
        tells_features=mirror.kernel.tells_features,
        has_seed_setting=has_seed(),
        found=found,
    )
    return [str(note) for note in said]


def _disagreement(mirror: Mirror) -> advice.Disagreement | None:
    """Tried with some flows; again once all is read, since something may just have changed."""
    if _disagreeing_route(mirror) is None:
        return None
    mirror.pull(EVERYTHING)
    mirror.push()
    prefix = _disagreeing_route(mirror)
    if prefix is None:
        return None
    return advice.Disagreement(prefix, trial_of(mirror.tables, prefix))


def _disagreeing_route(mirror: Mirror) -> Prefix | None:
    attached = mirror.attached() & mirror.tables.interfaces.keys()
    return disagreeing_route(mirror.kernel, mirror.tables, attached)
