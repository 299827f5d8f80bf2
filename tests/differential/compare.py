"""One round: the same frames through Linux alone and through Linux with xdpecmp.

For each frame everything that came out is compared: by which link, to which neighbour, and every
byte. Not compared is what the router itself sends, such as ICMP errors, ARP and neighbour
discovery: a frame from one of the router's own addresses (or from a link-local one, or ARP) that is
not a frame of ours. It depends on rate limits and timers, and is not made by the data path.

In the cases of `BETTER` Linux's choice of a path does not count, the bytes do; the path has to be
that of the flow that the ICMP error is about.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from tests.differential import packets as p
from tests.differential.design import (
    DEVICES,
    EGRESS,
    Design,
    design,
    device_mac,
    link_address,
)
from tests.differential.firewalls import FIREWALLS
from tests.differential.frames import Frame, Frames, Key, key_of
from tests.differential.routers import Lab
from tests.differential.wire import Out, Wire

Network = IPv4Network | IPv6Network

FILTERED = 8
"""One in so many frames is sent again with a firewall, first past xdpecmp."""
FORWARDED_SHARE = 0.6
"""What xdpecmp has to forward itself of what Linux forwards, or a round proves nothing."""

BETTER: Mapping[str, Callable[[int, p.Found], bool]] = {
    "ICMP error, hash policies 1 to 3": lambda policy, _: policy != 0,
    "ICMPv6 error behind extension headers": lambda _, error: error.behind_headers,
}
"""Where we do better than Linux on purpose: by hash policy, and what was found in the packet."""


def better(policy: int, frame: Frame) -> str | None:
    """The name of the case, None where Linux is to be followed."""
    error = p.find_error(frame.l3)
    if error is None:
        return None
    return next((name for name, applies in BETTER.items() if applies(policy, error)), None)


@dataclass
class Difference:
    """A frame of which not the same became."""

    why: str
    frame: Frame
    linux: Sequence[Out]
    xdpecmp: Sequence[Out]

    def __str__(self) -> str:
        outs = [f"  Linux    {out}" for out in self.linux] or ["  Linux    nothing"]
        outs += [f"  xdpecmp  {out}" for out in self.xdpecmp] or ["  xdpecmp  nothing"]
        return "\n".join(
            (f"{self.frame.kind}: {self.why}", f"  frame    {self.frame.data.hex()}", *outs)
        )


@dataclass
class Round:
    """What one round found."""

    design: Design
    frames: int = 0
    forwarded: int = 0
    """Frames that Linux forwarded."""
    by_xdp: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    """Frames of each kind that were forwarded."""
    better: Counter[str] = field(default_factory=Counter)
    """Frames of each case of BETTER."""
    moved: Counter[str] = field(default_factory=Counter)
    """Those of them for which Linux's path was another one."""
    followed: int = 0
    """How many of them had to leave by the path of a flow that was seen; of the others, whose quote
    is cut before it tells the flow, only the bytes are compared."""
    past_firewall: int = 0
    """Frames that XDP forwarded while Linux had a firewall."""
    differences: list[Difference] = field(default_factory=list)

    @property
    def wanted_share(self) -> float:
        """The least that `share` must be: less where whole egresses are Linux's."""
        return FORWARDED_SHARE * (1 - len(self.design.left_out) / len(EGRESS)) ** 2

    @property
    def share(self) -> float:
        """Of what was forwarded, what xdpecmp forwarded itself. The first packets of a resilient
        group's buckets pass, so that Linux knows which are in use: of few frames that is much."""
        first = self.reasons.get("BUCKET_USE", 0)
        return self.by_xdp / max(self.forwarded - first, 1)

    def __str__(self) -> str:
        return (
            f"seed {self.design.seed}: policy {self.design.policy} {self.design.mode}, "
            f"{self.frames} frames, {self.forwarded} forwarded, {self.share:.0%} by XDP, "
            f"{sum(self.better.values())} better, {len(self.differences)} differences"
        )


def run_round(seed: int, count: int) -> Round:
    """Build the router of that seed and send `count` frames through it, twice."""
    made = design(seed)
    frames = Frames(made, random.Random(f"frames {seed}")).draw(count)
    with Lab(made) as lab, Wire(lab) as wire:
        linux = wire.send(frames)
        lab.run("attach", lab.attached, "--mode", made.mode)
        lab.wait_for_status(policy4=made.policy, policy6=made.policy)
        rounds = wire.rounds
        xdpecmp = wire.send(frames)
        reasons = lab.json("stats")["reasons"]
        part = frames[: len(frames) // FILTERED]
        lab.load_firewall(FIREWALLS[seed % len(FIREWALLS)])
        filtered = wire.send(part)
        more = lab.reason("FORWARDED") - reasons["FORWARDED"]
        lab.detach()
        alone = wire.send(part)
    result = Round(made, len(frames), reasons=reasons, by_xdp=reasons["FORWARDED"])
    result.by_xdp += reasons["BUCKET_USE"]  # which pass for Linux to count
    # all sentinels are taken off, those that Linux forwarded too: the share is at least this
    result.by_xdp -= len(DEVICES) * rounds
    _compare(result, frames, *(_by_frame(made, frames, outs) for outs in (linux, xdpecmp)))
    both = (_by_frame(made, part, outs) for outs in (alone, filtered))
    for frame, before, after in zip(part, *both, strict=True):
        result.differences += [
            Difference(f"behind a firewall: {why}", frame, before, after)
            for why in _complaints(before, after, [], False)
        ]
    result.past_firewall = more
    return result


def _by_frame(made: Design, frames: Sequence[Frame], outs: Sequence[Out]) -> list[list[Out]]:
    """What came out, by the frame that it came of; fails for what belongs to none."""
    number: dict[Key | None, int] = {key_of(frame.l3): i for i, frame in enumerate(frames)}
    number.pop(None, None)
    own = [ip_network(prefix) for prefix in made.local]
    own += [
        ip_network(link_address(device, host, family))  # the subnet anycast ones too
        for device in range(len(DEVICES))
        for host, family in ((1, 4), (1, 6), (0, 6))
    ]
    own.append(ip_network("fe80::/10"))
    own.append(ip_network("::"))
    found: list[list[Out]] = [[] for _ in frames]
    for out in outs:
        key = key_of(out.l3)
        if key in number:
            found[number[key]].append(out)
        elif not _is_the_routers_own(out, key, own):
            raise AssertionError(f"came out of the router, and no one sent it: {out}")
    return found


def _is_the_routers_own(out: Out, key: Key | None, own: Sequence[Network]) -> bool:
    if key is None:
        return out.frame[12:14] == b"\x08\x06"
    source = ip_address(key[0])
    return any(source in network for network in own)


def _compare(
    result: Round, frames: Sequence[Frame], linux: list[list[Out]], xdpecmp: list[list[Out]]
) -> None:
    for i, frame in enumerate(frames):
        name = None
        if linux[i]:
            result.forwarded += 1
            result.kinds[frame.kind] += 1
            name = better(result.design.policy, frame)
        flow = linux[frame.flow] if frame.flow is not None else []
        if any(DEVICES[out.device] == result.design.accepting for out in flow):
            flow = []  # which is Linux's, whatever is about it
        if name is not None:
            result.better[name] += 1
            result.moved[name] += {out.path for out in linux[i]} != {out.path for out in xdpecmp[i]}
            result.followed += bool(flow)
        for why in _complaints(linux[i], xdpecmp[i], flow, name is not None):
            result.differences.append(Difference(why, frame, linux[i], xdpecmp[i]))


def _complaints(
    linux: Sequence[Out], xdpecmp: Sequence[Out], flow: Sequence[Out], is_better: bool
) -> Iterator[str]:
    """What is wrong with what xdpecmp made of a frame; `flow`: what Linux made of its flow's."""
    if [out.l3 for out in xdpecmp] != [out.l3 for out in linux]:
        yield "other bytes" if xdpecmp and linux else "forwarded by one of both only"
        return
    if not is_better and xdpecmp != linux:
        yield "another path"
    if flow and any(out.header != flow[0].header for out in xdpecmp):
        yield f"not by the path of its flow, which left by {flow[0]}"
    if any(out.header[2:] != (device_mac(out.device), linux[0].header[3], 0) for out in xdpecmp):
        yield "another link-layer header"
