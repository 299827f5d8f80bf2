"""When the agent reads everything again."""

from __future__ import annotations

from xdpecmp.agent.loop import Reconciliation

QUIET, LATEST, SHARE = (
    Reconciliation.QUIET_SECONDS,
    Reconciliation.LATEST_SECONDS,
    Reconciliation.SHARE,
)


def after_a_pass(took: float, end: float = 100.0) -> Reconciliation:
    made = Reconciliation()
    made.done(end - took, end)
    return made


def test_once_it_is_quiet() -> None:
    due = after_a_pass(took=0.001)
    assert due.due > 1e9
    for now in (101.0, 101.01, 101.02):
        due.want(now)
    assert due.due == 101.02 + QUIET
    due.done(101.1, 101.101)
    assert due.due > 1e9


def test_even_where_it_never_gets_quiet() -> None:
    due = after_a_pass(took=0.001)
    for step in range(200):
        due.want(101 + step / 100)
    assert due.due == 101 + LATEST


def test_never_more_than_a_part_of_the_time() -> None:
    due = after_a_pass(took=3.0)
    for step in range(3000):
        due.want(101 + step / 100)
    assert due.due == 100 + 3.0 * SHARE


def test_a_doubt_is_not_put_off_for_long() -> None:
    for took, now, wanted in ((0.001, 101.0, 101.0), (3.0, 101.0, 103.0), (3.0, 110.0, 110.0)):
        due = after_a_pass(took)
        due.want(now)
        due.need(now)
        assert due.due == wanted
        due.want(now + 0.001)
        assert due.due == wanted, "what comes then does not put it off"
