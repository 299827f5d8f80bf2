"""`attach --flow-label`: whether IPv6's flow label counts, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net.explaining import explain, words
from tests.net.topology import Anycast

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 2, 3)) as made:
        made.attach("c0", "--mode", "native")
        yield made


@pytest.fixture(autouse=True)
def policy_0(net: Anycast) -> Iterator[None]:
    yield
    net.policy(0)


def test_ignored_it_makes_no_difference(net: Anycast) -> None:
    """And attaching again does not change that."""
    hashes = {explain(net, *words(6, flowlabel=i))["hash"] for i in (1, 2, 3)}
    assert len(hashes) == 3
    assert net.json("status")["flow_label"] == "follow"
    done = net.attach("c0", "--flow-label", "ignore")
    try:
        assert "flow label ignored" in done.stderr
        net.attach("c0")
        status = net.json("status")
        assert (status["flow_label"], status["flow_label_matters"]) == ("ignore", True)
        said = [explain(net, *words(6, flowlabel=i)) for i in (0, 1, 2)]
        assert len({each["hash"] for each in said}) == 1
        assert [each["agrees"] for each in said] == [True, None, None]
        assert all(each["twin_agrees"] for each in said)
        assert "flow label ignored" in net.run("status").stdout
        net.policy(1)
        assert not net.json("status")["flow_label_matters"]
        assert "flow label" not in net.run("status").stdout
    finally:
        done = net.attach("c0", "--flow-label", "follow")
    assert net.json("status")["flow_label"] == "follow"


def test_the_note_on_reflection(net: Anycast) -> None:
    """Only where it matters."""
    assert "flowlabel_reflect" in net.attach("c0").stderr
    assert "flowlabel_reflect" in net.run("status").stdout
    net.policy(1)
    assert "flowlabel_reflect" not in net.attach("c0").stderr
