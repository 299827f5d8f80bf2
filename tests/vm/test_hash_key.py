"""A host as it is installed: one command without options, and multipath goes by Linux's key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.waiting import wait_until
from tests.capabilities import Since, kernel_has, require_stock_kernel
from tests.net.topology import Anycast
from tests.net.traffic import Servers
from xdpecmp.control.hashkey import confirmed
from xdpecmp.instance.keystore import KeyStore, Progress
from xdpecmp.netlink.choices import ask_linux
from xdpecmp.program.keyread import KEY_SYMBOL, SEED_SYMBOL
from xdpecmp.program.keysearch import STEP

pytestmark = pytest.mark.root

FLOWS = 250
RESTRICT = Path("/proc/sys/kernel/kptr_restrict")


class AsInstalled(Anycast):
    """Somebody else's router with three paths, on a default host."""

    finds_key = True


@pytest.fixture(scope="module")
def net() -> Iterator[AsInstalled]:
    symbols = Path("/proc/kallsyms").read_text()
    known = any(f" {name}\n" in symbols for name in (SEED_SYMBOL, KEY_SYMBOL))
    require_stock_kernel(known, "variables in /proc/kallsyms (CONFIG_KALLSYMS_ALL)")
    with AsInstalled((1, 1, 1), seed=None) as made:
        made.policy(0)
        yield made


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    KeyStore().forget()
    yield
    KeyStore().forget()
    KeyStore().forget_progress()


def test_no_flow_moves_and_nearly_all_is_forwarded(net: AsInstalled) -> None:
    """500 flows by Linux alone, by attach, by an upgrade, by Linux again."""
    with Servers(net) as servers, servers.flows(4, FLOWS) as four, servers.flows(6, FLOWS) as six:
        flows = [*four, *six]
        linux = servers.all_answers(flows)
        net.attach("c0", "e1", "e2", "e3")
        status = net.json("status")
        assert (status["key_origin"], status["seed_known"], status["seed"]) == (
            "memory",
            True,
            None,
        )
        for _ in ("attach", "upgrade"):
            before = net.reason("FORWARDED")
            assert servers.all_answers(flows) == linux
            assert net.reason("FORWARDED") - before >= 0.95 * 2 * len(flows)
            net.attach("c0")
        assert net.run("verify", "--flows", "50").status == 0
        net.detach()
        assert servers.all_answers(flows) == linux
    assert not net.remains()


def test_the_next_attach_has_it_from_the_file(net: AsInstalled) -> None:
    """In another namespace too, and though memory can be read no longer."""
    net.attach("c0")
    net.detach()
    kept = KeyStore().load()
    assert kept is not None
    assert confirmed([kept], ask_linux()) == kept
    before = RESTRICT.read_text()
    RESTRICT.write_text("2")
    try:
        net.attach("c0")
        assert net.status()["key_origin"] == "memory"
    finally:
        RESTRICT.write_text(before)
        net.detach()


def test_why_it_cannot_be_read(net: AsInstalled) -> None:
    """Then it is searched, since 6.11; before, multipath passes to Linux, and it is said why."""
    before = RESTRICT.read_text()
    RESTRICT.write_text("2")
    try:
        said = net.attach("c0").stderr
        (seed,) = [row for row in net.json("doctor") if row["check"] == "seed"]
        status = net.json("status")
        assert "kernel.kptr_restrict=2" in status["key_missing"]
        assert (status["key_origin"], status["seed_known"]) == (None, False)
        for text in (said, seed["found"]):
            assert "kernel.kptr_restrict=2" in text
        if kernel_has(Since.HASH_SEED):
            assert "until its hash key is found" in said
            wait_until(lambda: net.status()["key_search"], "it is searched", 120)
        else:
            assert "its hash key is unavailable" in said
            assert seed["fix"] == "xdpecmp attach IFACE --own-seed"
    finally:
        RESTRICT.write_text(before)
        net.detach()
    assert not net.remains()
    assert not KeyStore().is_searched()


def test_a_search_finds_what_memory_says(net: AsInstalled) -> None:
    """Of the whole space only the last steps: the search had been interrupted."""
    if not kernel_has(Since.HASH_SEED):
        pytest.skip("before Linux 6.11 there is no seed to search")
    net.attach("c0")
    net.detach()
    store = KeyStore()
    kept = store.load()
    assert kept is not None
    store.forget()
    store.record_progress(Progress(max(0, (kept.key0 & 0xFFFFFFFF) // STEP - 2) * STEP))
    before = RESTRICT.read_text()
    RESTRICT.write_text("2")
    try:
        net.attach("c0")
        wait_until(lambda: net.status()["seed_known"], "the key is found", 300)
        assert net.status()["key_origin"] == "search"
        assert net.run("verify", "--flows", "20").status == 0
    finally:
        RESTRICT.write_text(before)
        net.detach()
    found = store.load()
    assert found is not None
    assert (found.key0, found.key1) == (kept.key0, kept.key1)
