"""One program and one namespace for all data-path tests; the maps' contents are each test's own."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.bpf.harness")

from testbed.netns import Namespace  # noqa: E402
from tests.bpf.harness import Plane  # noqa: E402
from tests.bpf.objects import new_plane, start_over  # noqa: E402
from tests.bpf.world import World  # noqa: E402
from tests.capabilities import require  # noqa: E402

BPFFS = Path("/sys/fs/bpf")


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """Where the ingress and egress devices are."""
    with Namespace("bpf") as there:
        atexit.register(there.close)  # pytest runs no finalizers where its output is cut off
        yield there


@pytest.fixture(scope="session")
def pins() -> Iterator[Path]:
    """A directory in bpffs of this test run's own, gone afterwards."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", BPFFS], capture_output=True, text=True)
    require(kind.stdout.strip() == "bpf_fs", f"a bpf file system: mount -t bpf bpf {BPFFS}")
    directory = BPFFS / f"xdpecmp-test-{os.getpid()}-{secrets.token_hex(4)}"
    directory.mkdir()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def shared_plane(namespace: Namespace, pins: Path) -> Iterator[Plane]:
    """The program, built once."""
    with namespace.enter():
        plane = Plane(pins, World(namespace))
    try:
        yield plane
    finally:
        plane.close()


@pytest.fixture
def plane(namespace: Namespace, shared_plane: Plane) -> Iterator[Plane]:
    """The program with the usual router in its maps, the test being in the router's namespace."""
    shared_plane.reset()
    with namespace.enter():
        yield shared_plane


@pytest.fixture(scope="module")
def module_plane(
    request: pytest.FixtureRequest, namespace: Namespace, pins: Path, shared_plane: Plane
) -> Iterator[Plane]:
    """A plane of one test module: agents come and go in it."""
    directory = pins / Path(request.module.__file__).stem
    with new_plane(namespace, directory, shared_plane.world) as made:
        yield made


@pytest.fixture
def own_plane(namespace: Namespace, module_plane: Plane) -> Iterator[Plane]:
    """The same with a new agent for each test, which is in the router's namespace."""
    with namespace.enter():
        start_over(module_plane)
        yield module_plane
