"""Commands that are named to the user of `xdpecmp -n NETNS` do there what they are to do."""

from __future__ import annotations

import pytest

from xdpecmp.cli import output

INSIDE = "nsenter --net=/run/netns/blue "


@pytest.fixture(autouse=True)
def blue(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_namespace", "_ip", "_enter"):
        monkeypatch.setattr(output, name, "")
    output.work_in("blue")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("xdpecmp attach eth1", "xdpecmp -n blue attach eth1"),
        ("ip -br link show", "ip -n blue -br link show"),
        ("ip route replace default via 10.0.0.1", "ip -n blue route replace default via 10.0.0.1"),
        *(
            (command, INSIDE + command)
            for command in (
                "sysctl -w net.ipv4.conf.eth1.forwarding=1",
                "sysctl -w net.ipv6.conf.all.forwarding=1",
                "ethtool -K eth1 rxvlan off",
                "ethtool -L eth1 combined 4",
                "ethtool -S eth1",
                "ethtool -k eth1 | grep receive-hashing",
                "nft list ruleset",
                "ip6tables-legacy-save",
                "ipvsadm -Ln",
                "bpftool net",
            )
        ),
        (
            "see: tc qdisc show; tc filter show dev eth1 ingress",
            f"see: {INSIDE}tc qdisc show; {INSIDE}tc filter show dev eth1 ingress",
        ),
        *(
            (text, text)
            for text in (
                "nsenter --net=/run/netns/red ethtool -K eth0 txvlan off",  # says where
                "sysctl -w net.ipv6.flowlabel_reflect=1",  # on the servers
                "sysctl -w net.core.bpf_jit_enable=1",  # of the host as a whole
                "ethtool -K PEER gro on",  # wherever that is
                "tc qdisc tbf on eth1",  # no command
                "an xdpecmp attached elsewhere",
            )
        ),
    ],
)
def test_in_that_namespace(text: str, expected: str) -> None:
    assert output.placed(text) == expected
    assert output.placed(f"found; {text}") == f"found; {expected}"


def test_without_one_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_namespace", "")
    assert output.placed("ethtool -K eth1 rxvlan off") == "ethtool -K eth1 rxvlan off"
