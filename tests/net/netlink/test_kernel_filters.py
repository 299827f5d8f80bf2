"""What the kernel is asked about firewalls, and what of its events is heard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.netns import Namespace
from testbed.waiting import wait_until
from xdpecmp.model.values import Filters
from xdpecmp.netlink import Kernel, Monitor
from xdpecmp.netlink.firewall.iptables import Table

SET = (
    "table inet t { set s { type ipv4_addr; }\nchain c { type filter hook input priority 0;\n}\n}\n"
)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("filters") as made:
        yield made


@pytest.fixture
def kernel(namespace: Namespace) -> Iterator[Kernel]:
    with namespace.enter():
        made = Kernel()
    with made:
        yield made


def nft(namespace: Namespace, ruleset: str) -> None:
    namespace.run("nft", "-f", "-", input=ruleset)


def read(kernel: Kernel) -> Filters:
    return kernel.filters(kernel.links().values())


def test_nothing(kernel: Kernel) -> None:
    assert read(kernel) == Filters()


def test_nobody_makes_a_table_by_looking(namespace: Namespace, kernel: Kernel) -> None:
    read(kernel)
    kernel.filters_changed()
    with namespace.enter():
        for name in ("ip_tables_names", "ip6_tables_names"):
            path = Path("/proc/thread-self/net") / name
            assert not path.exists() or path.read_text() == ""
    assert namespace.run("nft", "list", "ruleset").stdout == ""


def test_fragments_are_reassembled_by_who_tracks(namespace: Namespace, kernel: Kernel) -> None:
    nft(
        namespace,
        "table ip t { chain c { type filter hook input priority 0; ct state new accept\n}\n}\n",
    )
    snapshot = kernel.snapshot()
    assert (snapshot.filters.defragments4, snapshot.filters.defragments6) == (True, False)
    assert (snapshot.settings.defragments4, snapshot.settings.defragments6) == (True, False)


def test_thousands_of_chains_and_rules(namespace: Namespace, kernel: Kernel) -> None:
    """Of which none is on the way."""
    lines = ["table inet t {"]
    for number in range(2000):
        lines += [f"chain c{number} {{", f"tcp dport {number} drop", "}"]
    lines += ["chain i { type filter hook input priority 0; policy drop;", "tcp dport 9 jump c9"]
    nft(namespace, "\n".join([*lines, "}", "}", ""]))
    assert read(kernel) == Filters()
    nft(namespace, "table inet t { chain f { type filter hook forward priority 0; jump c1\n}\n}\n")
    assert [each.what for each in read(kernel).found] == ["nftables chain inet t f"]


def test_filters_that_change_without_an_event(namespace: Namespace, kernel: Kernel) -> None:
    read(kernel)
    assert not kernel.filters_changed()
    namespace.run("iptables-legacy", "-P", "FORWARD", "DROP")
    assert kernel.filters_changed()
    read(kernel)
    assert not kernel.filters_changed()
    namespace.run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
    assert kernel.filters_changed()


def test_a_policy_of_a_large_table(namespace: Namespace, kernel: Kernel) -> None:
    """Of which only the policy changes: neither the number of rules nor their size."""
    rules = [f"-A INPUT -s 10.9.{number // 256}.{number % 256} -j DROP" for number in range(400)]
    table = ["*filter", ":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT", *rules, "COMMIT", ""]
    namespace.run("iptables-legacy-restore", input="\n".join(table))
    assert read(kernel) == Filters()
    assert not kernel.filters_changed()
    namespace.run("iptables-legacy", "-P", "FORWARD", "DROP")
    assert kernel.filters_changed()
    assert read(kernel) != Filters()


def test_a_table_of_which_no_policy_counts_is_not_read_again(
    namespace: Namespace, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large: rules filter in any case. That they come and go is seen all the same."""
    namespace.run("iptables-legacy", "-A", "FORWARD", "-s", "10.9.9.9", "-j", "DROP")
    assert read(kernel) != Filters()

    def refuse(_table: Table) -> bytes:
        raise AssertionError("read")

    with monkeypatch.context() as patch:
        patch.setattr(Table, "entries", refuse)
        assert not kernel.filters_changed()
    namespace.run("iptables-legacy", "-F", "FORWARD")
    assert kernel.filters_changed()


def test_who_has_not_read_knows_nothing(kernel: Kernel) -> None:
    assert kernel.filters_changed()


def drained(monitor: Monitor) -> bool:
    """Whether filters may have changed, by all events up to now."""
    return monitor.drain().filters


def test_rules_are_heard_and_elements_are_not(namespace: Namespace, kernel: Kernel) -> None:
    with kernel.monitor() as monitor:
        nft(namespace, SET)
        assert drained(monitor)
        for number in range(20):
            nft(namespace, f"add element inet t s {{ 10.0.0.{number} }}\n")
        nft(namespace, "delete element inet t s { 10.0.0.1 }\n")
        assert not drained(monitor)
        nft(namespace, "add element inet t s { 10.9.9.9 }\nadd rule inet t c tcp dport 9 drop\n")
        assert drained(monitor)
        nft(namespace, "flush ruleset\n")
        assert drained(monitor)


def test_traffic_control_is_heard(namespace: Namespace, kernel: Kernel) -> None:
    with kernel.monitor() as monitor:
        namespace.run("sh", "-c", "tc qdisc add dev lo clsact")
        assert drained(monitor)
        namespace.run("sh", "-c", "tc filter add dev lo ingress u32 match u32 0 0 flowid 1:1")
        assert drained(monitor)
        namespace.run("sh", "-c", "tc qdisc del dev lo clsact")
        wait_until(lambda: drained(monitor), "the end of a qdisc is heard")
