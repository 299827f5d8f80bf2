"""A hash seed that Linux keeps to itself: multipath passes to Linux, or goes by one of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.capabilities import Since, since
from tests.net.topology import Anycast, no_checksum_offload
from tests.net.traffic import Flows, Servers
from tests.net.uploads import UPLOAD, upload

pytestmark = pytest.mark.root

WEIGHTS = (1, 2)
FLOWS = 60


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    """Its Linux hashes with a random seed that it does not tell."""
    with Anycast(WEIGHTS, seed=None) as made:
        made.policy(0)
        yield made


@contextmanager
def attached(net: Anycast, *options: str) -> Iterator[str]:
    """Attached for a `with` block; gives what `attach` said."""
    yield net.attach("c0", *options).stderr
    net.detach()
    assert not net.remains()


def reasons(net: Anycast) -> Counter[str]:
    return Counter(net.json("stats")["reasons"])


@pytest.mark.parametrize("family", [4, 6])
def test_without_being_told_so_linux_decides(
    net: Anycast, servers: Servers, flows: Flows, family: int
) -> None:
    """Which moves no flow, and is counted and said."""
    linux = servers.all_answers(flows[family])
    with attached(net) as said:
        assert "multipath routes pass to Linux, since its hash key is unavailable" in said
        assert servers.all_answers(flows[family]) == linux
        moved = reasons(net)
        assert moved["SEED_UNKNOWN"] == FLOWS
        status = net.status()
        assert (status["seed"], status["seed_known"], status["own_seed"]) == (None, False, False)
    assert servers.all_answers(flows[family]) == linux


@pytest.mark.parametrize("mode", ["generic", "native"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_seed_of_our_own_would_part_flows_behind_veths(
    net: Anycast, servers: Servers, flows: Flows, family: int, mode: str
) -> None:
    """Of the packets of one flow some pass there, and Linux would send them elsewhere: see
    tests/vm/test_own_seed.py for where it is used. So Linux decides, which is counted and said,
    through an upgrade too."""
    linux = servers.all_answers(flows[family])
    everywhere = ("e1", "e2", "--mode", mode)
    with attached(net, *everywhere, "--own-seed") as said:
        assert "IPv4 and IPv6 multipath passes to Linux" in said
        assert "would split flows here: what comes in by c0, e1, e2 (veth) may be merged" in said
        for _ in range(2):
            before = reasons(net)["OWN_SEED"]
            assert servers.all_answers(flows[family]) == linux
            assert reasons(net)["OWN_SEED"] - before == FLOWS
            status = net.status()
            assert (status["own_seed"], status["own_seed_in_force"]) == (True, False)
            assert [row["what"] for row in status["passed"]] == ["IPv4 multipath", "IPv6 multipath"]
            assert all("(veth) may be merged" in row["text"] for row in status["passed"])
            assert "would split flows here: what comes in by" in net.run("status").stdout
            net.attach("c0")
        (found, *_) = [row for row in net.json("doctor") if row["check"] == "seed"]
        assert "would split flows here" in found["found"]
        net.attach("c0", "--no-own-seed")
        assert net.status()["own_seed"] is False
    assert servers.all_answers(flows[family]) == linux


def test_bulk_tcp_stays_whole(net: Anycast) -> None:
    """Segments larger than the MTU come in behind a SYN."""
    net.client.run("ethtool", "-K", "eth0", "tx", "on", "tso", "on")
    try:
        with attached(net, "e1", "e2", "--own-seed"):
            for family, source in ((4, "198.18.0.{}"), (6, "2001:db8:c::{}")):
                for i in range(1, 13):
                    assert upload(net, family, source.format(i)) == UPLOAD
    finally:
        no_checksum_offload(net.client)


@since(Since.HASH_SEED)
def test_linuxs_own_is_better(net: Anycast) -> None:
    """Where it becomes known, it is what counts."""
    with attached(net, "--own-seed"):
        net.sysctl("net.ipv4.fib_multipath_hash_seed", 77)
        net.wait_for_status(seed=77, seed_known=True, own_seed=False)
    net.sysctl("net.ipv4.fib_multipath_hash_seed", 0)
