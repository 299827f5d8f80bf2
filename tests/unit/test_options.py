"""The options of an instance: kept as JSON, changed one at a time."""

from __future__ import annotations

import pytest

from xdpecmp.model.options import FOLLOW, IGNORE, Options


def test_what_is_kept_comes_back() -> None:
    options = Options(flow_label=IGNORE, own_seed=7)
    assert Options.parse(options.dump()) == options


def test_what_is_not_said_stays() -> None:
    options = Options(own_seed=7)
    assert options.updated(flow_label=None) == options
    assert options.updated(flow_label=IGNORE) == Options(IGNORE, 7)


def test_another_version_knows_more_or_less() -> None:
    assert Options.parse('{"flow_label": "ignore", "colour": "red"}') == Options(IGNORE)
    assert Options.parse("{}") == Options(FOLLOW)


@pytest.mark.parametrize("text", ["", "[]", "7", "{"])
def test_what_is_no_such_file(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's or ours)
        Options.parse(text)
