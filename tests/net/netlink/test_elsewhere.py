"""What other network namespaces have to do with ours, asked of real ones."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from testbed.netns import Namespace, veth
from testbed.waiting import wait_until
from xdpecmp.model.values import Peer
from xdpecmp.netlink import Kernel, elsewhere
from xdpecmp.netlink.elsewhere import Elsewhere, Lookout

pytestmark = pytest.mark.root

OFF = ("txvlan", "off", "tx-vlan-stag-hw-insert", "off")


@pytest.fixture
def lookout(router: Namespace) -> Iterator[Lookout]:
    descriptor = os.open(router.path, os.O_RDONLY)
    yield Lookout(descriptor)
    os.close(descriptor)


def test_uppers_in_named_namespaces_and_those_of_processes(router: Namespace) -> None:
    """Created there, moved there, and gone again."""
    eth0 = router.ifindex("eth0")
    with Namespace("there") as there:
        router.ip(f"link add own0 link eth0 netns {there.name} type macvlan mode passthru")
        process = router.start("unshare", "-n", "sleep", "60")
        wait_until(
            lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino != os.stat(router.path).st_ino,
            "it is in a namespace of its own",
        )
        router.ip("link add own1 link eth1 type macvlan mode source")
        router.ip(f"link set own1 netns {process.pid}")
        with router.enter(), Kernel() as kernel:
            links = kernel.links()
        (own0,) = links[eth0].elsewhere
        assert (own0.name, own0.kind, own0.mode) == ("own0", "macvlan", "passthru")
        assert own0.where == f"namespace {there.name}"
        (own1,) = links[router.ifindex("eth1")].elsewhere
        assert own1.where == f"the namespace of process {process.pid}"
        assert str(own1) == f"own1 (macvlan source, in {own1.where})"
        there.ip("link del own0")
        with router.enter(), Kernel() as kernel:
            assert kernel.links()[eth0].elsewhere == ()


def test_the_other_end_of_a_veth(router: Namespace, peer: Namespace) -> None:
    """In another namespace and in the same one."""
    veth(router, "one", router, "other")

    def peers() -> dict[str, Peer | None]:
        with router.enter(), Kernel() as kernel:
            return {link.name: link.peer for link in kernel.links().values()}

    found = peers()
    assert found["eth0"] == Peer("peer0", str(peer.path), False)
    assert found["one"] == Peer("other", "", False)
    for namespace, device in ((peer, "peer0"), (router, "other")):
        namespace.ip("link add br9 type bridge")
        namespace.ip(f"link set {device} master br9")
    found = peers()
    assert found["eth0"] == Peer("peer0", str(peer.path), True)
    assert found["one"] == Peer("other", "", True)
    for namespace, device in ((peer, "peer0"), (router, "other")):
        namespace.run("ethtool", "-K", device, *OFF)
    found = peers()
    assert found["eth0"] == Peer("peer0", str(peer.path), False)
    assert found["one"] == Peer("other", "", False)


def test_changes_without_an_event(
    router: Namespace, peer: Namespace, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where looking is cheap and where it is not: then what was put off is made up for."""
    eth0 = router.ifindex("eth0")
    ours = frozenset({eth0})
    assert lookout.has_changed(ours)  # it has never looked
    assert lookout.look().peers[eth0] == Peer("peer0", str(peer.path), False)
    assert not lookout.has_changed(ours)
    peer.ip("link add br9 type bridge")
    peer.ip("link set peer0 master br9")
    assert not lookout.has_changed(frozenset({eth0 + 1000}))  # none of ours
    wait_until(lambda: lookout.has_changed(ours), "seen")
    wait_until(lambda: lookout.look().peers[eth0].hides_tags, "told")
    monkeypatch.setattr(elsewhere, "SOON", 0.0)
    peer.ip("link del br9")
    assert lookout.look().peers[eth0].hides_tags  # put off
    wait_until(lambda: lookout.has_changed(ours), "seen")
    assert not lookout.look().peers[eth0].hides_tags
    assert Elsewhere() == Elsewhere({}, {})


def test_looking_that_takes_long_is_not_put_off_for_long(
    router: Namespace, peer: Namespace, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = frozenset({router.ifindex("eth0")})
    monkeypatch.setattr(elsewhere, "IDLE_SHARE", 1_000_000_000)
    monkeypatch.setattr(elsewhere, "LATEST", 0.01)
    assert lookout.has_changed(ours)
    lookout.look()
    assert not lookout.has_changed(ours)  # it has looked, so the next look has to wait
    peer.ip("link add br9 type bridge")
    peer.ip("link set peer0 master br9")
    wait_until(lambda: lookout.has_changed(ours), "seen")
    peer.ip("link del br9")


def test_what_was_put_off_and_found_unchanged_is_not_taken_for_fresh(
    router: Namespace, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    eth0 = router.ifindex("eth0")
    assert lookout.has_changed(frozenset({eth0}))
    lookout.look()
    monkeypatch.setattr(elsewhere, "SHARE", 0)
    lookout._took, lookout._next = 1.0, 0.0
    lookout.look()  # put off
    assert not lookout.has_changed(frozenset({eth0}))
    assert not lookout._is_overdue
    with Namespace("there") as there:
        router.ip(f"link add own0 link eth0 netns {there.name} type macvlan mode source")
        lookout._took, lookout._next = 0.0, 0.0
        assert [upper.name for upper in lookout.look().uppers[eth0]] == ["own0"]
