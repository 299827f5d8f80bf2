"""The command line under each version of its libraries that a supported distribution packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaged import DISTRIBUTIONS, LATER, install
from xdpecmp.cli import COMMANDS

ROOT = Path(__file__).parents[2]

RUN = """
import contextlib, io, json, os, sys, tempfile
import importlib.metadata as metadata
from xdpecmp import cli

def run(arguments):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            sys.argv = ["xdpecmp", *arguments]
            try:
                cli.main()
            except SystemExit as done:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(done.code or 0)
            os._exit(99)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0), err.seek(0)
        return [status, out.read(), err.read()]

versions = {name: metadata.version(name) for name in json.loads(sys.argv[2])}
print(json.dumps([versions, [run(each.split()) for each in json.loads(sys.argv[1])]]))
"""
"""Runs commands, a process each, and prints what came of them."""

SHOWN = ("--version", "--help", *(f"{name} --help" for name in COMMANDS))
REFUSED = {
    "frobnicate": "No such command 'frobnicate'; see xdpecmp --help",
    "-n": "Option '-n' requires an argument; see xdpecmp --help",
    "-n nosuch status": "no network namespace named nosuch; list them: ip netns list",
    "attach": "Missing argument 'IFACE...'; see xdpecmp attach --help",
    "attach lo --mode fast": "see xdpecmp attach --help",
    "detach": "name interfaces, or --all for every one; see xdpecmp detach --help",
    "routes 10.0.0.0/33": "see xdpecmp routes --help",
    "weights 10.0.0.0/8 nonsense": "see xdpecmp weights --help",
    "weights nonsense 10.0.0.1=1": "see xdpecmp weights --help",
    "explain": "see xdpecmp explain --help",
    "demo --policy 7": "see xdpecmp demo --help",
}


@pytest.mark.parametrize("name", [*DISTRIBUTIONS, *LATER])
def test_every_command(name: str) -> None:
    environment = install(name)
    asked = ["", *SHOWN, *REFUSED]
    versions = (DISTRIBUTIONS | LATER)[name]
    wanted = {package: version for package, version in versions.items() if package != "numpy"}
    ran = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(asked), json.dumps(list(wanted))],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found, results = json.loads(ran.stdout)
    assert found == wanted
    done = dict(zip(asked, results, strict=True))

    status, out, err = done[""]
    assert (status, out) == (2, "")
    assert err.startswith("Usage: xdpecmp")
    for arguments in SHOWN:
        status, out, err = done[arguments]
        assert (status, err) == (0, ""), arguments
        assert out
    for arguments, end in REFUSED.items():
        status, out, err = done[arguments]
        assert (status, out) == (2, ""), arguments
        assert err.startswith("xdpecmp: ")
        assert err.endswith(f"{end}\n"), arguments
        assert err.count("\n") == 1
