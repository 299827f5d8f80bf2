"""Why a packet goes where it goes: the program's decision, beside those of the reference model in
Python and of Linux.

`program` runs a variant of the attached program, which writes its decision down instead of carrying
it out. `decision` is what it decided and what the reference model says, `group` what it chose from,
`linux` what Linux can be asked about the same packet and whether both agree, `again` what Linux is
asked a second time, `arrival` where the packet comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...model.values import NextHop, Prefix
from ...netlink import Kernel
from ...program.abi import GroupKind, Reason
from ...program.maps import Maps
from .again import Judge
from .arrival import Ingress, ingress_of, stack
from .decision import Decision, HashSettings, Reference, reference
from .group import ResilientGroup, ThresholdGroup, ThresholdPath, group_of, named_as_linux
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
    "Reference",
    "ResilientGroup",
    "ThresholdGroup",
    "ThresholdPath",
    "ask",
    "compare",
    "explain",
    "hash_settings",
    "in_moved_bucket",
    "ingress_of",
    "label_can_be_asked",
    "question",
    "reference",
    "stack",
]


@dataclass(frozen=True)
class Explained:
    """Everything about one frame."""

    decision: Decision
    prefix: Prefix | None
    chosen: NextHop | None
    group: ThresholdGroup | ResilientGroup | None
    reference: Reference | None
    comparison: Comparison

    @property
    def reference_agrees(self) -> bool | None:
        """Whether Python computes the same hash; None if one of both has none."""
        if self.decision.hash is None or self.reference is None:
            return None
        return self.reference.hash == self.decision.hash

    @property
    def differs(self) -> bool:
        """Whether there is a contradiction anywhere."""
        return self.comparison.agrees is False or self.reference_agrees is False


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
    destination, number = decision.destination, decision.nexthop
    chosen = None if number is None else named_as_linux(maps, number, destination)
    kind, first, _ = decision.group
    looked_up = kind != GroupKind.PASS or first != Reason.FORWARDED
    has_hash = decision.hash is not None
    return Explained(
        decision=decision,
        prefix=maps.matched(destination) if destination and looked_up else None,
        chosen=chosen,
        group=group_of(maps, decision),
        reference=reference(decision.packet, decision.settings) if has_hash else None,
        comparison=_compared(kernel, decision, chosen, judge or Judge(kernel)),
    )


def _compared(
    kernel: Kernel, decision: Decision, chosen: NextHop | None, judge: Judge
) -> Comparison:
    """With Linux's answer, unless that is wrong or about a bucket that it has moved."""
    comparison = judge.judge(decision, chosen, compare(decision, chosen, ask(kernel, decision)))
    answer = comparison.answer
    if (
        comparison.agrees is False
        and answer is not None
        and in_moved_bucket(decision, answer, kernel.nexthops())
    ):
        why = "Linux has moved this bucket; here it stays while packets use it"
        return Comparison(answer, None, why)
    return comparison
