"""Why a packet goes where it goes: the program's decision, beside the Python twin's and Linux's.

`program` runs a variant of the attached program, which writes its decision down instead of carrying
it out. `decision` is what it decided and what Python reckons, `linux` what Linux can be asked about
the same packet and whether both agree, `arrival` where it comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...model.values import NextHop, Prefix
from ...netlink import Kernel
from ...program.abi import GroupKind, Reason
from ...program.maps import Maps
from .again import Judge
from .arrival import Ingress, ingress_of, stack
from .decision import Decision, HashSettings, Twin, twin
from .linux import Comparison, ask, compare, in_moved_bucket, label_can_be_asked, question
from .program import Explainer, hash_settings

__all__ = [
    "Comparison",
    "Decision",
    "Explained",
    "Explainer",
    "HashSettings",
    "Ingress",
    "Judge",
    "Twin",
    "ask",
    "compare",
    "explain",
    "hash_settings",
    "in_moved_bucket",
    "ingress_of",
    "label_can_be_asked",
    "nexthop_of",
    "question",
    "stack",
    "twin",
]


def nexthop_of(maps: Maps, number: int | None, destination: bytes) -> NextHop | None:
    """The next hop of that number as Linux names it: a host on the link has no gateway."""
    if number is None:
        return None
    entry = maps["nexthops"].entries[number]
    via = bytes(entry.via)[: {0: 0, 4: 4, 6: 16}[entry.family]]
    return NextHop(b"" if via == destination else via, entry.ifindex)


@dataclass(frozen=True)
class Explained:
    """Everything about one frame."""

    decision: Decision
    prefix: Prefix | None
    chosen: NextHop | None
    twin: Twin | None
    comparison: Comparison

    @property
    def twin_agrees(self) -> bool | None:
        """Whether Python reckons the same hash; None where one of both has none."""
        if self.decision.hash is None or self.twin is None:
            return None
        return self.twin.hash == self.decision.hash

    @property
    def differs(self) -> bool:
        """Whether there is a contradiction anywhere."""
        return self.comparison.agrees is False or self.twin_agrees is False


def explain(
    explainer: Explainer,
    maps: Maps,
    kernel: Kernel,
    frame: bytes,
    ifindex: int,
    judge: Judge | None = None,
) -> Explained:
    """What becomes of a frame that comes in on that device, and why. `judge`: for several of them,
    since it remembers."""
    decision = explainer.decide(frame, ifindex)
    addresses = decision.addresses
    destination = addresses[1] if addresses else b""
    chosen = nexthop_of(maps, decision.nexthop, destination)
    kind, first, _ = decision.group
    looked_up = kind != GroupKind.PASS or first != Reason.FORWARDED
    comparison = compare(decision, chosen, ask(kernel, decision))
    comparison = (judge or Judge(kernel)).judge(decision, chosen, comparison)
    if (
        comparison.agrees is False
        and comparison.answer is not None
        and in_moved_bucket(decision, comparison.answer, kernel.nexthops())
    ):
        why = "Linux has moved this bucket; here it stays while packets use it"
        comparison = Comparison(comparison.answer, None, why)
    return Explained(
        decision=decision,
        prefix=maps.matched(destination) if destination and looked_up else None,
        chosen=chosen,
        twin=twin(decision.packet, decision.settings) if decision.hash is not None else None,
        comparison=comparison,
    )
