"""The package is replaced or removed under a running agent, which goes on as it was."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.waiting import wait_until
from tests.net.command import ROOT
from tests.net.test_agent_life import FLOWS, forget_what_was_built, loaded
from tests.net.topology import DEADLINE, VIP_PREFIX, Anycast
from tests.net.traffic import Servers
from xdpecmp.program import compiler, image
from xdpecmp.program.build import Variant, _cache_key

RUN = "import sys; sys.path.insert(0, {!r}); from xdpecmp.cli import main; main()"
GARBAGE = {".py": "raise RuntimeError('another version')\n", ".c": "#error\n", ".h": "#error\n"}


@pytest.fixture
def net() -> Iterator[Anycast]:
    with Anycast((1, 2, 1)) as made:
        yield made


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A package of its own, as pip installs it."""
    shutil.copytree(
        ROOT / "xdpecmp", tmp_path / "xdpecmp", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def replace(package: Path) -> None:
    for path in package.rglob("*"):
        if path.suffix in GARBAGE:
            path.write_text(GARBAGE[path.suffix])


@pytest.mark.parametrize("what", ["replaced", "removed"])
def test_the_package_is(net: Anycast, copy: Path, what: str) -> None:
    """What is built later is built from the sources of before, and only that is kept."""
    forget_what_was_built()
    program = (sys.executable, "-c", RUN.format(str(copy)))
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    attach = ("attach", "c0", "e1", "--mode", "native")
    assert "import time" in net.run(*attach, program=program, env=environment).stderr
    package = copy / "xdpecmp"
    if what == "replaced":
        replace(package)
    else:
        shutil.rmtree(package)

    net.policy(3)
    with Servers(net) as servers, loaded(servers) as load:

        def all_is_forwarded() -> bool:
            passed = net.reason("FORWARDED")
            load.wait_for_rounds()
            return net.reason("FORWARDED") - passed >= 2 * FLOWS

        wait_until(all_is_forwarded, "the program in use", 3 * DEADLINE)
        net.replace_routes((3, 1))
        for prefix in VIP_PREFIX.values():
            net.wait_for_route(prefix, lambda r: r and len(r.paths) == 2, prefix)
    # whatever else an agent does in its life
    net.ns.ip("nexthop add id 7 via 10.0.1.2 dev e1")
    net.ns.ip("route add 203.0.113.0/24 nhid 7")
    net.wait_for_route("203.0.113.0/24", lambda r: r and r.kind == "single", "by an object")
    net.ns.ip("rule add from 10.9.9.9 table 77")
    wait_until(lambda: bool(net.status()["passed"]), "a rule", DEADLINE)
    net.ns.ip("rule del from 10.9.9.9 table 77")
    net.ns.ip("link add spare0 type veth peer name spare1")
    net.ns.ip("link del e1")
    net.ns.ip("link add e1 type veth peer name spare2")
    wait_until(lambda: len(net.status()["interfaces"]) == 2, "attached again", DEADLINE)
    said = net.instance.log_file.read_text()
    assert [line for line in said.splitlines() if "import time" in line] == []
    assert "cannot" not in said
    assert "passes to Linux" not in said

    # under the key of the sources that the copy was is what they compile to
    request = json.dumps(compiler.request(Variant.DEEP.value))
    key = _cache_key(Variant.DEEP, request, compiler.version())
    kept = image.cached(key)
    assert kept is not None
    assert kept.functions == compiler.compile_image(Variant.DEEP.value).functions
    net.detach()
