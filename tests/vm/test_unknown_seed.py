"""Linux keeps its hash seed to itself, and xdpecmp may not look for the key (see test_hash_key.py).

Nobody can tell then which way it sends a flow. So xdpecmp leaves multipath routes to Linux, which
keeps flows where they are whatever becomes of xdpecmp; all else is forwarded as ever. It says so,
and what would have them forwarded (see tests/net/test_seed.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.capabilities import Since, kernel_has
from tests.net.topology import Anycast
from tests.net.traffic import by_server
from tests.vm.asking import asked, flows_and_answers


@pytest.fixture
def net() -> Iterator[Anycast]:
    with Anycast((1, 1), seed=None) as made:
        yield made


def test_flows_stay_where_linux_has_them(net: Anycast) -> None:
    """Through attach, upgrade, the agent's death and detach. The answers, which go by routes with a
    single next hop, are forwarded."""
    with flows_and_answers(net) as (servers, flows, recorded):
        assert set(by_server(recorded)) == {1, 2}
        passed = {"SEED_UNKNOWN": len(flows), "FORWARDED": len(flows)}
        for _ in ("attach", "upgrade"):
            net.attach("c0", "e1", "e2")
            assert asked(net, servers, flows, recorded) == passed
        net.kill_agent()
        assert servers.all_answers(flows) == recorded
        net.attach("c0")
        assert asked(net, servers, flows, recorded) == passed
        net.detach()
        assert servers.all_answers(flows) == recorded


def test_attach_and_status_say_so(net: Anycast) -> None:
    (note,) = [line for line in net.attach("c0").lines if "seed" in line]
    assert note.startswith("note: multipath routes pass to Linux")
    advice = "--set-seed" if kernel_has(Since.HASH_SEED) else "--own-seed"
    assert note.endswith(f"xdpecmp attach IFACE {advice}")
    status = net.json("status")
    assert (status["seed"], status["seed_known"]) == (None, False)
    assert (status["key_origin"], status["key_search"]) == (None, None)
    assert "--no-find-key" in status["key_missing"]
    text = net.run("status").stdout
    assert "key not known" in text
    assert "IPv4 multipath: multipath, and the kernel's hash key is not known" in text


def test_setting_a_seed_is_refused_where_there_is_none(net: Anycast) -> None:
    """And nothing is left of the attempt."""
    if kernel_has(Since.HASH_SEED):
        net.attach("c0", "--set-seed")
        assert net.status()["seed_known"]
        return
    done = net.run("attach", "c0", "--set-seed", status=2)
    assert len(done.lines) == 1
    assert "6.11" in done.stderr
    assert "--own-seed" in done.stderr
    assert net.remains() == []
