"""What the user of a fresh data path should know: what takes the slow path, and why.

`attach` prints these, `doctor` shows them before anything is attached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from ..agent.loop import EVERYTHING
from ..agent.mirror import Mirror
from ..compile import Config, Resilient, Stacking, Tables, Why, ownseed
from ..compile.offloads import merges_lists, merges_unseen
from ..errors import XdpecmpError
from ..instance.instance import FLOW_LABEL_TEXT
from ..model.options import FOLLOW, IGNORE
from ..model.values import Link, Prefix, Snapshot
from ..netlink import has_seed
from ..netlink.ethtool import SEGMENTS_ALL
from ..observe.bypass import sentences
from ..observe.obstacles import told
from ..observe.scratch import Trial
from ..observe.verify import first_disagreement, trial_of
from ..program.abi import REASON_TEXT, Reason


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


def notes(mirror: Mirror) -> list[str]:
    """All that there is to say, a line each."""
    if mirror.tables is None:
        return []
    world = World(mirror.snapshot, mirror.tables, mirror.attached())
    bypassed = mirror.options.bypass_firewall
    found = [
        *_generic_mode(world),
        *_passed(world.tables, world.snapshot.links),
        *firewall(world.tables, bypassed),
        *_deaf_egress(world, mirror.kernel.tells_features),
        *(found for _, found in (*heeding(world), *whole_only(world))),
        *idle_interfaces(world),
        *other_macs(world),
        *other_links(world),
        *hash_of_the_nic(world),
        *flow_label_use(world.tables),
        *_disagreement(mirror),
    ]
    return [str(note) for note in found]


def keeps_offload(link: Link) -> str:
    """Why generic mode is right there."""
    what = {"tun": "tap", "": "NIC"}.get(link.kind, link.kind)
    return f"generic mode on a {what} keeps checksum offload working"


def _generic_mode(world: World) -> Iterator[Note]:
    found: dict[str, list[str]] = {}
    for link in world.links():
        if link.leaves_checksums and link.xdp_mode == "generic":
            found.setdefault(keeps_offload(link), []).append(link.name)
    for text, names in found.items():
        yield Note(f"{text}: {', '.join(names)}")


def passed_whole(family: int, reason: int) -> Note:
    """A family that passes to Linux."""
    return Note(f"all IPv{family} passes to Linux: {REASON_TEXT[Reason(reason).name]}")


OWN_SEED = Note(ownseed.IN_WORDS)


def own_seed_passes(config: Config, links: Mapping[int, Link]) -> Iterator[Note]:
    """Multipath passes to Linux in spite of a seed of our own."""
    for text, fix in ownseed.passing(config, links):
        yield Note(text, fix)


def seed_unknown(has_setting: bool) -> Note:
    """`has_setting`: whether this kernel lets its seed be set, and so be known."""
    price = "" if has_setting else ", and what passes to Linux goes by another hash"
    return Note(
        "multipath routes pass to Linux, since it keeps its hash seed to itself; to have them "
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


def _passed(tables: Tables, links: Mapping[int, Link]) -> Iterator[Note]:
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
        yield seed_unknown(has_seed())
    for family, reason in reasons.items():
        if reason == Reason.POLICY_UNSUPPORTED:
            yield policy_unsupported(family)


def firewall(tables: Tables, bypassed: bool) -> Iterator[Note]:
    """What of Linux would see forwarded packets, and which of the two holds."""
    for text, _ in sentences(tables.findings, bypassed):
        yield Note(text)


def deaf_names(world: World) -> set[str]:
    """Devices of next hops that frames cannot be redirected to."""
    links = world.snapshot.links
    if not any(link.xdp_mode == "native" for link in links.values()):
        return set()  # generic mode redirects to every device
    return {
        links[adjacency.device].name
        for adjacency in world.tables.nexthops.values()
        if adjacency.reason == Reason.EGRESS_NO_XDP and adjacency.device in links
    }


def deaf_text(names: Collection[str]) -> str:
    return f"what leaves by {', '.join(names)} passes to Linux: it cannot transmit XDP frames"


def deaf_remedies(
    links: Collection[Link], tells: bool, ours: Collection[str] = ()
) -> Iterator[tuple[list[str], Note]]:
    """What helps devices that frames cannot be redirected to, by their names. `tells`: whether the
    kernel knows of them at all (Linux 6.3); `ours`: the interfaces that native programs run on."""
    generic = f"xdpecmp attach {' '.join(sorted(ours)) or 'IFACE'} --mode generic"
    idle = [link.name for link in links if not link.kind and link.xdp_mode != "native"]
    if idle:
        text = "many a NIC sends XDP frames only while it runs a program itself"
        yield idle, Note(text, f"xdpecmp attach {' '.join(idle)}")
    veths = [link.name for link in links if link.kind == "veth"]
    if veths and tells:
        yield veths, Note("a veth can once its peer has GRO on", "ethtool -K PEER gro on")
    elif veths:
        yield veths, Note("before Linux 6.3 nobody can tell; generic mode asks nothing", generic)
    others = [link.name for link in links if link.name not in {*idle, *veths}]
    if others:
        yield others, Note("in generic mode it can, which is slower", generic)


def _deaf_egress(world: World, tells: bool) -> Iterator[Note]:
    names = deaf_names(world)
    links = [link for link in world.snapshot.links.values() if link.name in names]
    ours = [link.name for link in world.links() if link.xdp_mode == "native"]
    for those, remedy in deaf_remedies(links, tells, ours):
        yield Note(f"{deaf_text(sorted(those))} ({remedy})")


def heeding(world: World) -> Iterator[tuple[str, Note]]:
    """Devices that packets leave by, and whose redirects Linux heeds."""
    links = world.snapshot.links
    found = {
        (nexthop.ifindex, 6 if len(nexthop.via) == 16 else 4)
        for nexthop, adjacency in world.tables.nexthops.items()
        if adjacency.reason == Reason.LEARNED
    }
    for ifindex, family in sorted(found):
        name = links[ifindex].name
        which = (name,) if family == 6 else ("all", name)
        keys = " ".join(f"net.ipv{family}.conf.{each}.accept_redirects=0" for each in which)
        late = "; IPv4 is forwarded here five minutes later" if family == 4 else ""
        yield (
            name,
            Note(
                f"IPv{family} that leaves by {name} passes to Linux, which heeds ICMP redirects "
                f"there{late}",
                f"sysctl -w {keys}",
            ),
        )


def whole_only(world: World) -> Iterator[tuple[str, Note]]:
    """Devices that merged packets must not be redirected to, while interfaces may bring such."""
    links = world.snapshot.links
    bringing = [
        link.name
        for link in world.links()
        if link.xdp_mode == "generic" and merges_unseen(links, link)
    ]
    devices = {
        adjacency.device
        for adjacency in world.tables.nexthops.values()
        if not adjacency.takes_anything and adjacency.device in links
    }
    for device in (links[ifindex] for ifindex in sorted(devices) if bringing):
        able = device.kind == "veth" and not device.segments_all
        yield (
            device.name,
            Note(
                f"what comes in by {', '.join(bringing)} and leaves by {device.name} passes to "
                "Linux: in generic mode packets may come merged, and only Linux takes them apart "
                "for it",
                f"ethtool -K {device.name} {' '.join(_OFFLOADS_ON)}" if able else "",
            ),
        )


_OFFLOADS_ON = ("tx on", "sg on", "tso on", *(f"{name} on" for name in SEGMENTS_ALL[7:]))
"""All of them: the first ones have names of their own as a group."""


def idle_interfaces(world: World) -> Iterator[Note]:
    """Interfaces of which all passes to Linux."""
    for link in world.links():
        receiver = Stacking(world.snapshot.links).receiver(link)
        settings = world.snapshot.settings.interfaces.get(receiver.ifindex)
        said = told(world.snapshot.links, link)
        if said is not None:
            obstacle, text, fix = said
            if obstacle.why is not Why.INACTIVE or fix:  # that a link stands by is as it should be
                yield Note(text, fix)
        elif link.xdp_mode == "generic" and merges_lists(world.snapshot.links, link):
            yield Note(
                f"{link.name} merges packets into lists, which generic XDP breaks: all it receives "
                "passes to Linux; to have it forwarded here",
                f"ethtool -K {link.name} rx-gro-list off",
            )
        elif settings and not (settings.forwarding4 or settings.forwarding6):
            yield Note(
                f"{receiver.name} does not forward; if this host is to be a router",
                f"sysctl -w net.ipv4.conf.{receiver.name}.forwarding=1",
            )


def other_macs(world: World) -> Iterator[Note]:
    """Devices with a MAC address of their own on ours, as VRRP has them: their packets come in
    there, and are not ours."""
    stacking = Stacking(world.snapshot.links)
    covered = {tuple(key) for key in world.tables.macs}
    for link in world.links():
        for upper in stacking.other_macs(link):
            forwards = (link.ifindex, upper.mac) in covered or (
                stacking.receiver(link).ifindex,
                upper.mac,
            ) in covered
            yield Note(
                f"{upper} takes what comes in by {link.name} for its own MAC address, "
                f"{upper.mac.hex(':')}: that "
                + ("is forwarded too, as its own" if forwards else "passes to Linux")
            )


def other_links(world: World) -> Iterator[Note]:
    """Links of a bond by which packets come in past our program."""
    stacking = Stacking(world.snapshot.links)
    bonds = {stacking.receiver(link).ifindex for link in world.links() if link.master}
    for ifindex in sorted(bonds):
        missing = [
            link.name
            for link in world.snapshot.links.values()
            if link.master == ifindex and not link.xdp_prog_id
        ]
        bond = world.snapshot.links[ifindex]
        if missing and bond.kind == "bond":
            yield Note(
                f"what {bond.name} receives by {', '.join(missing)} passes to Linux",
                f"xdpecmp attach {bond.name}",
            )


def hash_of_the_nic(world: World) -> Iterator[Note]:
    """Under policy 1 Linux takes a hash that came with the packet (skb->l4_hash) for its own, and
    there is no way for us to see it: fib_multipath_hash(), rt6_multipath_hash()."""
    config = world.tables.config
    policies = {4: config.policy4, 6: config.policy6}
    if not any(policies[family] == 1 for family in multipath_families(world.tables)):
        return
    links = world.links()
    if any(link.kind == "veth" for link in links):
        yield Note(
            "under hash policy 1 Linux goes by the socket's own hash for connections of hosts on "
            "this machine: behind a veth their flows may move; policies 0, 2 and 3 do not"
        )
    others = [link.name for link in links if link.kind != "veth"]
    if others:
        yield Note(
            "under hash policy 1 Linux goes by the NIC's own hash where it supplies one (or RPS "
            "does), and flows move; policies 0, 2 and 3 do not. rxhash off ends it, but with some "
            "drivers also the spreading over receive queues",
            f"ethtool -k {others[0]} | grep receive-hashing",
        )


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


_LABEL_FIELDS = 0x208
"""FIB_MULTIPATH_HASH_FIELD_FLOWLABEL and _INNER_FLOWLABEL: include/net/ip_fib.h."""

LABEL_IN_KEY = Note(
    "the IPv6 hash policy has the flow label in its key, and --flow-label ignore concerns policy 0 "
    "alone: for ICMPv6 errors to reach them, servers must reflect it",
    "sysctl -w net.ipv6.flowlabel_reflect=1",
)


def disagrees(prefix: Prefix) -> str:
    """This very kernel does not choose as we reckon."""
    return f"Linux chooses other next hops for {prefix} than xdpecmp does, so flows move"


def _disagreement(mirror: Mirror) -> Iterator[Note]:
    """Whether this very kernel chooses as we reckon, tried with some flows: the kernel promises no
    stability of its hash."""
    prefix = _disagreeing_route(mirror)
    if prefix is not None:  # unless something has just changed
        mirror.pull(EVERYTHING)
        mirror.push()
        prefix = _disagreeing_route(mirror)
    if prefix is not None and mirror.tables is not None:
        yield disagreement(prefix, trial_of(mirror.tables, prefix))


def disagreement(prefix: Prefix, trial: Trial | None) -> Note:
    """What to do where Linux's answers differ. To detach is only advised if real packets confirm
    that it hashes otherwise; None: that could not be tried."""
    if trial is not None and trial.agreed < trial.flows:
        return Note(
            f"{disagrees(prefix)}; see how: xdpecmp verify; leave it to Linux again",
            "xdpecmp detach --all",
        )
    if trial is not None:
        return Note(
            f"Linux's answers for {prefix} are others than xdpecmp computes, though it hashes real "
            "packets alike; see which",
            f"xdpecmp verify {prefix}",
        )
    return Note(f"{disagrees(prefix)}; see how", f"xdpecmp verify {prefix}")


def _disagreeing_route(mirror: Mirror) -> Prefix | None:
    tables = mirror.tables
    if tables is None:
        return None
    with suppress(XdpecmpError):  # an interface that has just gone: not for `attach` to fail by
        for ifindex in sorted(mirror.attached() & tables.interfaces.keys()):
            prefix = first_disagreement(mirror.kernel, tables, ifindex)
            if prefix is not None:
                return prefix
    return None
