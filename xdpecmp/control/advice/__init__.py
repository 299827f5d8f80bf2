"""What the user of a data path should know: what takes the slow path, and why.

Pure: sentences about a snapshot and what was compiled from it. `attach` prints them all, `doctor`
shows them one by one before anything is attached.

| module | what its sentences are about |
|---|---|
| `families` | a whole address family: what passes to Linux; seed, policy and key of the hash |
| `incoming` | the interfaces that packets come in by |
| `outgoing` | the devices that packets leave by |

`note` has the values: a sentence, and what there is to say something about.
"""

from __future__ import annotations

from ...model.hashkey import KeyState
from .families import (
    OWN_SEED,
    disagreement,
    disagrees,
    firewall,
    flow_label_use,
    key_unknown,
    multipath_families,
    own_seed_passes,
    passed,
    passed_whole,
    policy_unsupported,
)
from .incoming import (
    generic_mode,
    hash_of_the_nic,
    idle_interfaces,
    keeps_offload,
    other_links,
    other_macs,
)
from .note import Disagreement, Note, World
from .outgoing import (
    heeding,
    no_transmit,
    no_transmit_names,
    no_transmit_remedies,
    no_transmit_text,
    whole_only,
)

__all__ = [
    "OWN_SEED",
    "Disagreement",
    "Note",
    "World",
    "disagreement",
    "disagrees",
    "firewall",
    "flow_label_use",
    "hash_of_the_nic",
    "heeding",
    "idle_interfaces",
    "keeps_offload",
    "key_unknown",
    "multipath_families",
    "no_transmit_names",
    "no_transmit_remedies",
    "no_transmit_text",
    "notes",
    "other_links",
    "other_macs",
    "own_seed_passes",
    "passed_whole",
    "policy_unsupported",
    "whole_only",
]


def notes(
    world: World,
    *,
    bypassed: bool,
    key: KeyState,
    tells_features: bool,
    has_seed_setting: bool,
    found: Disagreement | None,
) -> list[Note]:
    """All that there is to say. `bypassed`: whether filters of Linux are; `key`: what is known of
    its hash key beside its sysctl; `tells_features`: whether
    the kernel tells which devices transmit XDP frames (Linux 6.3); `has_seed_setting`: whether its
    hash seed can be set (Linux 6.11); `found`: where it was seen to choose otherwise."""
    return [
        *generic_mode(world),
        *passed(world.tables, world.snapshot.links, key, has_seed_setting),
        *firewall(world.tables, bypassed),
        *no_transmit(world, tells_features),
        *(note for _, note in (*heeding(world), *whole_only(world))),
        *idle_interfaces(world),
        *other_macs(world),
        *other_links(world),
        *hash_of_the_nic(world),
        *flow_label_use(world.tables),
        *([disagreement(found)] if found else []),
    ]
