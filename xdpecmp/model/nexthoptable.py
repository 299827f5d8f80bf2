"""The nexthop objects of a namespace, followed one by one.

An event carries the whole object, so that the table says what the kernel holds without a dump, by
what net/ipv4/nexthop.c does: a next hop that is deleted leaves its groups, and a group goes with
its last member. The buckets of a resilient group move without a word when its members change:
such groups are `unread` until somebody says what they hold now.

An object that no route refers to costs its entry and nothing else: what routes need to know of one
is made up when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from .values import NexthopGroup, Path, RouteKind

Buckets = Mapping[int, Mapping[int, int]]
"""By id of the group, by index of the bucket: id of the member that it holds."""


class Single(NamedTuple):
    """What one message says of a next hop; `path` is None unless it is UNICAST."""

    kind: RouteKind
    path: Path | None


class Group(NamedTuple):
    """What one message says of a group: its members by id and weight."""

    kind: RouteKind
    members: tuple[tuple[int, int], ...]
    resilient: bool
    bucket_count: int
    idle_s: float = 0.0
    unbalanced_s: float = 0.0


class NexthopUpdate(NamedTuple):
    """One object as the kernel announces it: new, changed or (None) gone."""

    id: int
    meaning: Single | Group | None


class BucketUpdate(NamedTuple):
    """One bucket of a resilient group that holds another member now."""

    group: int
    bucket: int
    member: int


class NexthopTable(Mapping[int, NexthopGroup]):
    """All nexthop objects by id; what there is to each is made up when it is first asked for."""

    def __init__(
        self, objects: Mapping[int, Single | Group] | None = None, buckets: Buckets | None = None
    ) -> None:
        self._objects = dict(objects or {})
        self._buckets = {group: dict(held) for group, held in (buckets or {}).items()}
        self._combined: dict[int, NexthopGroup] = {}
        self._groups_of: dict[int, set[int]] = {}
        """By id of a next hop, the groups that it is in."""
        self.unread: set[int] = set()
        """Resilient groups whose buckets may have moved without a word."""
        self.removed: set[int] = set()
        """Objects that were gone at some time during the last `apply`, though they may be back."""
        for nhid, found in self._objects.items():
            self._join(nhid, found)

    # --- what is there ----------------------------------------------------------------------------

    def __getitem__(self, nhid: int) -> NexthopGroup:
        known = self._combined.get(nhid)
        if known is None:
            found, held = self._objects[nhid], self._buckets.get(nhid, {})
            known = self._combined[nhid] = _combine(nhid, found, self._objects, held)
        return known

    def __iter__(self) -> Iterator[int]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, nhid: object) -> bool:
        return nhid in self._objects

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NexthopTable):
            return self._objects == other._objects and self._buckets == other._buckets
        return dict(self) == other

    __hash__ = None  # type: ignore[assignment]  # it changes

    def fits(self, buckets: Buckets) -> bool:
        """Whether these buckets are those of all resilient groups."""
        return all(
            bool(_places(found, buckets.get(nhid, {})))
            for nhid, found in self._objects.items()
            if isinstance(found, Group) and found.resilient
        )

    # --- updates ----------------------------------------------------------------------------------

    def apply(
        self, updates: Iterable[NexthopUpdate | BucketUpdate], watched: Container[int] = ()
    ) -> dict[int, NexthopGroup | None]:
        """Do what the kernel says that it did; returns what those of the `watched` objects were
        that may be others now (None: not there). Updates may be older than the table: those of one
        object come in the kernel's order, and the last one is as new as the table or newer."""
        before: dict[int, NexthopGroup | None] = {}
        self.removed.clear()

        def touch(nhid: int) -> None:
            if nhid in watched and nhid not in before:
                before[nhid] = self.get(nhid)
            self._combined.pop(nhid, None)

        for update in updates:
            if isinstance(update, BucketUpdate):
                if update.group in self._objects:
                    touch(update.group)
                    self._buckets.setdefault(update.group, {})[update.bucket] = update.member
            elif update.meaning is None:
                self._remove(update.id, touch)
            else:
                self._put(update.id, update.meaning, touch)
        return before

    def set_buckets(self, group: int, held: Mapping[int, int]) -> None:
        """What a resilient group holds now."""
        self._buckets[group] = dict(held)
        self._combined.pop(group, None)
        self.unread.discard(group)

    def _put(self, nhid: int, meaning: Single | Group, touch: Callable[[int], None]) -> None:
        before = self._objects.get(nhid)
        if before == meaning and not (isinstance(meaning, Group) and meaning.resilient):
            return
        for each in (nhid, *self._groups_of.get(nhid, ())):
            touch(each)
        if isinstance(before, Group):
            self._leave(nhid, before)
        self._objects[nhid] = meaning
        self._join(nhid, meaning)
        if isinstance(meaning, Group) and meaning.resilient:
            self.unread.add(nhid)
        else:
            self._buckets.pop(nhid, None)
            self.unread.discard(nhid)

    def _remove(self, nhid: int, touch: Callable[[int], None]) -> None:
        parents = list(self._groups_of.get(nhid, ()))
        for each in (nhid, *parents):
            touch(each)
        gone = self._objects.pop(nhid, None)
        if gone is not None:
            self.removed.add(nhid)
        self._buckets.pop(nhid, None)
        self.unread.discard(nhid)
        if isinstance(gone, Group):
            self._leave(nhid, gone)
        for parent in parents:
            group = self._objects[parent]
            assert isinstance(group, Group)
            left = tuple(member for member in group.members if member[0] != nhid)
            if left:
                self._put(parent, group._replace(members=left), touch)
            else:
                self._remove(parent, touch)

    def _join(self, nhid: int, meaning: Single | Group) -> None:
        if isinstance(meaning, Group):
            for member, _ in meaning.members:
                self._groups_of.setdefault(member, set()).add(nhid)

    def _leave(self, nhid: int, group: Group) -> None:
        for member, _ in group.members:
            groups = self._groups_of.get(member, set())
            groups.discard(nhid)
            if not groups:
                self._groups_of.pop(member, None)


def _combine(
    nhid: int,
    found: Single | Group,
    objects: Mapping[int, Single | Group],
    held: Mapping[int, int],
) -> NexthopGroup:
    """A group of which something is missing (or that makes no sense otherwise) is UNSUPPORTED: it
    changed while it was read."""
    if isinstance(found, Single):
        return NexthopGroup(nhid, found.kind, (found.path,) if found.path else (), single=True)
    kinds, paths = set(), []
    for member, weight in found.members:
        single = objects.get(member)
        # Groups do not nest.
        kinds.add(single.kind if isinstance(single, Single) else RouteKind.UNSUPPORTED)
        if isinstance(single, Single) and single.path is not None:
            paths.append(single.path._replace(weight=weight))
    kind = found.kind
    if kind is RouteKind.UNICAST:
        # A blackhole can only be alone in a group (valid_group_nh).
        kind = kinds.pop() if len(kinds) == 1 else RouteKind.UNSUPPORTED
    buckets: tuple[int, ...] = ()
    if found.resilient and kind is RouteKind.UNICAST:
        buckets = _places(found, held)
        if not buckets:
            kind = RouteKind.UNSUPPORTED
    return NexthopGroup(
        nhid,
        kind,
        tuple(paths),
        single=False,
        resilient=found.resilient,
        buckets=buckets,
        idle_s=found.idle_s,
        unbalanced_s=found.unbalanced_s,
    )


def _places(group: Group, held: Mapping[int, int]) -> tuple[int, ...]:
    """The place of the member that each bucket holds; () if it does not fit the group."""
    places = {member: place for place, (member, _) in enumerate(group.members)}
    try:
        return tuple(places[held[index]] for index in range(group.bucket_count))
    except KeyError:
        return ()
