"""Advice about a whole address family: what passes to Linux, by which hash and key flows go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...compile import Config, Resilient, Tables, ownseed
from ...hashing.keys import INNER_SHIFT, Field
from ...instance.instance import FLOW_LABEL_TEXT
from ...model.hashkey import KeyState
from ...model.options import FOLLOW, IGNORE
from ...model.values import Link, Prefix
from ...observe.bypass import sentences
from ...observe.hashkey import why_missing
from ...program.abi import REASON_TEXT, Reason
from .note import Disagreement, Note


def passed_whole(family: int, reason: int) -> Note:
    """A family that passes to Linux."""
    return Note(f"all IPv{family} passes to Linux: {REASON_TEXT[Reason(reason).name]}")


OWN_SEED = Note(ownseed.IN_WORDS)


def own_seed_passes(config: Config, links: Mapping[int, Link]) -> Iterator[Note]:
    """Multipath passes to Linux in spite of a seed of our own."""
    for text, fix in ownseed.passing(config, links):
        yield Note(text, fix)


def key_unknown(state: KeyState, has_setting: bool) -> Note:
    """`has_setting`: whether this kernel lets its seed be set, and so be known."""
    why = why_missing(state) or "it was not looked for"
    if state.searching:
        return Note(
            "multipath routes pass to Linux until its hash key is found, which takes a few minutes "
            f"at most ({why}); to see how far it is",
            "xdpecmp status",
        )
    price = "" if has_setting else ", and what passes to Linux goes by another hash"
    return Note(
        f"multipath routes pass to Linux, since its hash key is unavailable: {why}; to have them "
        f"forwarded here (flows move once{price})",
        f"xdpecmp attach IFACE {'--set-seed' if has_setting else '--own-seed'}",
    )


def policy_unsupported(family: int) -> Note:
    """Multipath routes pass, for another reason than the seed."""
    return Note(
        f"IPv{family} multipath routes pass to Linux: {REASON_TEXT['POLICY_UNSUPPORTED']} "
        f"(sysctl net.ipv{family}.fib_multipath_hash_policy)"
    )


def multipath_families(tables: Tables) -> set[int]:
    """The families that have routes with a choice of next hops: notes about how that is made
    concern nobody else."""

    def has_choice(target: object) -> bool:
        group = tables.groups.get(target) if isinstance(target, tuple) else None
        return isinstance(group, Resilient) or (group is not None and len(group) > 1)

    return {f for f in (4, 6) if any(True for _ in tables.targets.where(has_choice, [f]))}


def passed(
    tables: Tables, links: Mapping[int, Link], key: KeyState, has_seed_setting: bool
) -> Iterator[Note]:
    """What passes to Linux: all of a family, or its multipath routes."""
    config = tables.config
    for family, reason in ((4, config.pass4), (6, config.pass6)):
        if reason not in (Reason.FORWARDED, Reason.FIREWALL):  # of which there is more to say
            yield passed_whole(family, reason)
    families = multipath_families(tables)
    if families:
        yield from own_seed_passes(config, links)
        if ownseed.in_force(config):
            yield OWN_SEED
    reasons = {4: config.pass_multipath4, 6: config.pass_multipath6}
    reasons = {family: reasons[family] for family in sorted(families)}
    if Reason.SEED_UNKNOWN in reasons.values():
        yield key_unknown(key, has_seed_setting)
    for family, reason in reasons.items():
        if reason == Reason.POLICY_UNSUPPORTED:
            yield policy_unsupported(family)


def firewall(tables: Tables, bypassed: bool) -> Iterator[Note]:
    """What of Linux would see forwarded packets, and which of the two holds."""
    for text, _ in sentences(tables.findings, bypassed):
        yield Note(text)


def flow_label_use(tables: Tables) -> Iterator[Note]:
    """When servers have to reflect flow labels."""
    if _hashes_label(tables.config) and 6 in multipath_families(tables):
        choice = FOLLOW if tables.config.follow_label else IGNORE
        yield Note(FLOW_LABEL_TEXT[choice]) if tables.config.policy6 == 0 else LABEL_IN_KEY


def _hashes_label(config: Config) -> bool:
    """Whether the flow label is part of IPv6's key: rt6_multipath_hash()."""
    return config.policy6 in (0, 2) or (
        config.policy6 == 3 and bool(config.fields6 & _LABEL_FIELDS)
    )


_LABEL_FIELDS = Field.FLOW_LABEL | Field.FLOW_LABEL << INNER_SHIFT

LABEL_IN_KEY = Note(
    "the IPv6 hash policy has the flow label in its key, and --flow-label ignore concerns policy 0 "
    "alone: for ICMPv6 errors to reach them, servers must reflect it",
    "sysctl -w net.ipv6.flowlabel_reflect=1",
)


def disagrees(prefix: Prefix) -> str:
    """This very kernel does not choose as we compute."""
    return f"Linux chooses other next hops for {prefix} than xdpecmp does, so flows move"


def disagreement(found: Disagreement) -> Note:
    """What to do if Linux's answers differ. To detach is only advised if real packets confirm
    that it hashes otherwise."""
    prefix, trial = found
    if trial is None:
        return Note(f"{disagrees(prefix)}; see how", f"xdpecmp verify {prefix}")
    if trial.agreed < trial.flows:
        return Note(
            f"{disagrees(prefix)}; see how: xdpecmp verify; leave it to Linux again",
            "xdpecmp detach --all",
        )
    return Note(
        f"Linux's answers for {prefix} are others than xdpecmp computes, though it hashes real "
        "packets alike; see which",
        f"xdpecmp verify {prefix}",
    )
