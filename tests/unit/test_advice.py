"""What `attach` says: sentences about values alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.doctor import IN, OUT, ipv6_multipath
from tests.doctor import World as Router
from xdpecmp.control import advice
from xdpecmp.model.hashkey import NO_KEY, KeyState
from xdpecmp.model.values import Prefix
from xdpecmp.observe.scratch import Trial

PREFIX = Prefix.parse("192.0.2.0/24")


def said(router: Router, **more: object) -> list[str]:
    """The notes of a router on which all is well, unless told otherwise."""
    facts = router.facts()
    told = {
        "bypassed": False,
        "tells_features": True,
        "key": NO_KEY,
        "has_seed_setting": True,
        "found": None,
    } | more
    world = advice.World(facts.snapshot, facts.tables, {IN})
    return [str(note) for note in advice.notes(world, **told)]  # type: ignore[arg-type]


def test_nothing_where_all_is_well() -> None:
    assert said(Router()) == []


def test_the_seed() -> None:
    router = Router()
    router.settings(seed=None)
    (known,), (unknown,) = said(router), said(router, has_seed_setting=False)
    assert known.endswith("xdpecmp attach IFACE --set-seed")
    assert unknown.endswith("xdpecmp attach IFACE --own-seed")


def test_a_key_that_is_searched() -> None:
    """No option helps to it: it takes some minutes."""
    router = Router()
    router.settings(seed=None)
    (note,) = said(router, key=KeyState(missing="no symbol", searching=True))
    assert "until its hash key is found" in note
    assert "no symbol" in note
    assert note.endswith("xdpecmp status")


def test_the_flow_label() -> None:
    router = Router()
    ipv6_multipath(router)
    (note,) = said(router)
    assert "flowlabel_reflect" in note


def test_a_device_that_cannot_transmit() -> None:
    router = Router()
    router.links(IN, xdp_mode="native")
    router.links(OUT, kind="veth", can_transmit_xdp=False)
    assert ["eth2" in note and "cannot transmit" in note for note in said(router)] == [True]
    (note,) = said(router, tells_features=False)
    assert note.endswith("xdpecmp attach eth1 --mode generic)")


@pytest.mark.parametrize(
    ("trial", "command"),
    [
        (None, f"xdpecmp verify {PREFIX}"),
        (Trial(64, 64), f"xdpecmp verify {PREFIX}"),
        (Trial(64, 32), "xdpecmp detach --all"),
    ],
)
def test_a_disagreement_is_the_last_word(trial: Trial | None, command: str) -> None:
    notes = said(Router(), found=advice.Disagreement(PREFIX, trial))
    assert notes[-1].endswith(command)


def test_advice_asks_nobody() -> None:
    """It imports neither the mirror nor what reads the kernel."""
    asking = {"Kernel", "Mirror", "Maps", "Instance", "has_seed"}
    for path in Path(advice.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert asking.isdisjoint(alias.name for alias in node.names), path
