"""What holds for whole interfaces, families and namespaces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.compile.values import LOCAL, QINQ, SERVICE, VIA1, VLAN, hop, links, route, snapshot
from xdpecmp.compile import VlanKey, compile_tables, local4_filter
from xdpecmp.model.hashkey import HashKey, Origin
from xdpecmp.model.options import Options
from xdpecmp.model.values import InterfaceSettings, Prefix, RouteKind, Settings
from xdpecmp.program.abi import CAPACITY, INTERFACE_FLAGS, Reason


def test_vlans_over_our_interfaces_are_ingresses() -> None:
    tables = compile_tables(snapshot(links=links(VLAN, QINQ, SERVICE)), {3})
    assert tables.vlans == {
        VlanKey(3, 0x8100, 100): 4,
        VlanKey(3, 0x88A8, 7): 6,
        VlanKey(3, 0x88A8, 7, 0x8100, 9): 5,
    }
    assert tables.interfaces.keys() == {3, 4, 5, 6}


def test_what_belongs_to_a_bridge_is_no_ingress() -> None:
    enslaved = replace(links()[2], master=9)
    assert compile_tables(snapshot(links=links(enslaved)), {2}).interfaces == {}


@pytest.mark.parametrize(("with_address", "expected"), [(True, 2), (False, 1)])
def test_loose_is_strict_without_an_address(with_address: bool, expected: int) -> None:
    """__fib_validate_source() asks for an address (`no_addr`); a local route is none."""
    local = route("10.1.0.1/32", hop(""), table=LOCAL, kind=RouteKind.LOCAL, protocol=2)
    settings = Settings(seed=1, interfaces={2: InterfaceSettings(rp_filter=2)})
    known = links(
        replace(links()[2], addresses4=frozenset([bytes([10, 0, 0, 1])] if with_address else []))
    )
    for routes in ((), (local,)):
        tables = compile_tables(snapshot(*routes, links=known, settings=settings), {2})
        assert tables.interfaces[2].rp_filter == expected


@pytest.mark.parametrize(
    ("prefix", "looked_up"), [("127.0.0.0/8", False), ("10.9.0.0/16", True), ("10.9.0.1/32", False)]
)
def test_a_local_network_has_sources_looked_up(prefix: str, looked_up: bool) -> None:
    own = route(prefix, hop(""), table=LOCAL, kind=RouteKind.LOCAL, protocol=2)
    assert (compile_tables(snapshot(own), {2}).config.local4 is None) == looked_up


def test_flags() -> None:
    settings = Settings(interfaces={2: InterfaceSettings(forwarding4=True, send_redirects=False)})
    flags = compile_tables(snapshot(settings=settings), {2}).interfaces[2].flags
    assert flags == INTERFACE_FLAGS["FORWARD4"]


def test_an_interface_that_strips_tags_is_no_ingress() -> None:
    """An XDP program would take frames of every VLAN for untagged ones."""
    stripping = replace(links()[2], strips_tags=True)
    assert compile_tables(snapshot(links=links(stripping)), {2}).interfaces == {}


READ = HashKey(3, 4, Origin.MEMORY)


@pytest.mark.parametrize(
    ("settings", "options", "key"),
    [
        (Settings(), Options(), None),
        (Settings(seed=7, found_key=READ), Options(own_seed=5), HashKey.of_seed(7)),
        (Settings(found_key=READ), Options(own_seed=5), READ),
        (Settings(), Options(own_seed=5), HashKey.of_seed(5, Origin.OWN)),
    ],
)
def test_which_key_counts(settings: Settings, options: Options, key: HashKey | None) -> None:
    """Linux's own before a seed of ours; the sysctl first, since it is what Linux goes by then."""
    config = compile_tables(snapshot(settings=settings), {2}, options).config
    assert config.key == key
    assert config.own_seed is (key is not None and key.origin is Origin.OWN)


@pytest.mark.parametrize(
    ("parts", "field", "reason"),
    [
        ({}, "pass4", Reason.FORWARDED),
        ({"custom_rules4": True}, "pass4", Reason.POLICY_RULES),
        ({"custom_rules4": True}, "pass6", Reason.FORWARDED),
        ({"custom_rules6": True}, "pass6", Reason.POLICY_RULES),
        ({"settings": Settings(seed=1, ip_forward_use_pmtu=True)}, "pass4", Reason.SETTING),
        ({"settings": Settings(seed=1, proxy_ndp=True)}, "pass6", Reason.SETTING),
        ({"settings": Settings(seed=1, proxy_ndp=True)}, "pass4", Reason.FORWARDED),
        ({"settings": Settings(seed=1, ipsec=True)}, "pass4", Reason.IPSEC),
        ({"settings": Settings(seed=1, ipsec=True)}, "pass6", Reason.IPSEC),
        # a BPF flow dissector finds what all policies but 0 hash
        (
            {"settings": Settings(seed=1, policy4=1, flow_dissector=True)},
            *("pass_multipath4", Reason.POLICY_UNSUPPORTED),
        ),
        (
            {"settings": Settings(seed=1, policy6=1, flow_dissector=True)},
            *("pass_multipath4", Reason.FORWARDED),
        ),
        ({"settings": Settings(seed=None)}, "pass_multipath4", Reason.SEED_UNKNOWN),
        ({"settings": Settings(seed=None)}, "pass_multipath6", Reason.SEED_UNKNOWN),
        ({"settings": Settings(seed=1)}, "pass_multipath4", Reason.FORWARDED),
        ({"settings": Settings(found_key=READ)}, "pass_multipath4", Reason.FORWARDED),
    ],
)
def test_what_passes_as_a_whole(parts: dict[str, object], field: str, reason: int) -> None:
    assert getattr(compile_tables(snapshot(**parts), {2}).config, field) == reason


@pytest.mark.parametrize(
    ("setting", "field", "policies"),
    [
        ("defragments4", "pass_fragments4", {1, 2, 3}),
        ("defragments6", "pass_fragments6", {*range(4)}),
    ],
)
def test_fragments_that_linux_reassembles_pass(
    setting: str, field: str, policies: set[int]
) -> None:
    """Where it then hashes more than they show."""

    def passes(policy: int, **parts: Any) -> bool:
        settings = Settings(seed=1, policy4=policy, policy6=policy, **parts)
        config = compile_tables(snapshot(settings=settings), {2}).config
        assert not (config.pass_fragments4 and config.pass_fragments6)
        return bool(getattr(config, field))

    assert {policy for policy in range(4) if passes(policy, **{setting: True})} == policies
    assert not any(passes(policy) for policy in range(4))


def test_a_table_too_large_passes_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPACITY, "ROUTES4_MAX", 1)
    fits = compile_tables(snapshot(route("10.0.0.0/8", VIA1)), {2})
    too_many = compile_tables(snapshot(route("10.0.0.0/8", VIA1), route("11.0.0.0/8", VIA1)), {2})
    assert (fits.config.pass4, too_many.config.pass4) == (Reason.FORWARDED, Reason.TABLE_FULL)
    assert too_many.config.pass6 == Reason.FORWARDED


@given(st.sets(st.binary(min_size=4, max_size=4), max_size=40), st.binary(min_size=4, max_size=4))
def test_the_bloom_filter_never_misses(own: set[bytes], other: bytes) -> None:
    words = local4_filter(own)

    def hit(address: bytes) -> bool:
        bit = (int.from_bytes(address, "little") * 0x9E3779B1 & 0xFFFFFFFF) >> 23
        return bool(words[bit >> 6] >> (bit & 63) & 1)

    assert all(hit(address) for address in own)
    assert local4_filter(None) == [2**64 - 1] * len(words)
    assert own or not hit(other)


def test_an_own_address_without_a_local_route_is_no_source() -> None:
    """Linux looks for the address: inet_lookup_ifaddr_rcu()."""
    address = bytes([203, 0, 113, 1])
    known = links(replace(links()[2], addresses4=frozenset({address})))
    tables = compile_tables(snapshot(links=known), {2})
    assert tables.config.local4 == frozenset({address})
    assert tables.routes.get(Prefix(address, 32)) == Reason.ROUTE_LOCAL
