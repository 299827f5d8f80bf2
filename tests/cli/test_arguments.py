"""Whatever somebody types, the answer is one plain sentence and exit status 2."""

from __future__ import annotations

import sys

import pytest

from xdpecmp import cli

ODD = (
    "",
    " ",
    "-1",
    "--",
    "0x",
    "0x10",
    "1e3",
    "1_0",
    "+1",
    "٣",
    "²",
    "nan",
    "=",
    "==",
    "=---3",
    "%",
    "%%",
    "/",
    "../../etc",
    "a\nb",
    "\033[2J",
    "\udcff",
    "ü" * 300,
    "9" * 5000,
    "x" * 100_000,
)
ADDRESSES = (
    "192.0.2.1/24",
    "192.0.2.0/33",
    "192.0.2.0/-1",
    "192.0.2.0/٨",
    "192.0.2.0/",
    "192.0.2.0/8/8",
    "1.2.3",
    "1.2.3.4.5",
    "٣.0.0.1",
    "01.2.3.4",
    "::ffff:1.2.3.4.5",
    "::1%lo",
    "fe80::1%",
    "2001:db8::/129",
    "2001:db8:::1",
)
WHERE = (
    ("weights", "{}", "10.0.0.1=2"),
    ("weights", "192.0.2.0/24", "{}"),
    ("weights", "192.0.2.0/24", "{}=3"),
    ("weights", "192.0.2.0/24", "10.0.0.1={}"),
    ("weights", "192.0.2.0/24", "10.0.0.1%{}=0"),
    ("routes", "{}"),
    ("verify", "{}"),
    ("verify", "--flows", "{}"),
    ("verify", "--seed", "{}"),
    ("explain", "{}", "from", "10.0.0.1"),
    ("explain", "10.0.0.1", "from", "{}"),
    ("explain", "10.0.0.1", "{}", "10.0.0.1"),
    ("explain", "10.0.0.1", "from", "10.0.0.1", "sport", "{}"),
    ("explain", "10.0.0.1", "from", "10.0.0.1", "ipproto", "{}"),
    ("explain", "10.0.0.1", "from", "10.0.0.1", "iif", "{}"),
    ("explain", "--hex", "{}"),
    ("explain", "--pcap", "{}"),
    ("attach", "{}"),
    ("attach", "nosuchdevice", "--mode", "{}"),
    ("attach", "nosuchdevice", "--flow-label", "{}"),
    ("detach", "{}"),
    ("doctor", "{}"),
    ("demo", "--requests", "{}"),
    ("demo", "--policy", "{}"),
    ("-n", "{}", "status"),
    ("{}",),
)
PYTHON_WORDS = (
    *("invalid literal", "base 10", "Traceback", "Error(", "Error:", "None", "codec"),
    *("should not have happened", "Only decimal digits", "Expected", "octet"),
)


def said(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str, str]:
    """Exit status, stdout and stderr of the command in this very process."""
    monkeypatch.setattr(sys, "argv", ["xdpecmp", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.mark.parametrize("where", WHERE, ids=" ".join)
def test_odd_arguments(
    where: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for odd in ODD + ADDRESSES:
        arguments = tuple(word.format(odd) if "{}" in word else word for word in where)
        status, out, err = said(arguments, monkeypatch, capsys)
        if odd == "--" and status == 0:
            continue  # ends options, and is nothing alone
        assert (status, out) == (2, ""), (arguments, err)
        assert err.startswith("xdpecmp: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert err[:-1].isprintable(), err
        assert len(err) < 2000
        found = [word for word in PYTHON_WORDS if word in err.replace(odd or "{}", "")]
        assert not found, err


def test_two_seeds_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is looked at, the interfaces included."""
    both = ("attach", "nosuchdevice", "--set-seed", "--own-seed")
    status, out, err = said(both, monkeypatch, capsys)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "choose one" in err
    _, _, err = said(("attach", "nosuchdevice", "--set-seed", "--no-own-seed"), monkeypatch, capsys)
    assert "no network device nosuchdevice" in err
