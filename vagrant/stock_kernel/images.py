"""Kernels: which there are, and how they get here.

pyproject.toml lists them, each with the suites and the package of a Debian mirror. The mirrors, of
releases and of their security updates, are those that this host's apt knows (one alone will do),
asked with a state of our own: neither the host's sources and preferences nor what it has installed
matter or change, so a kernel of another release than the host's is as good. An image is unpacked
into build/kernels/VERSION and stays there until `make clean`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .errors import VmError

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "kernels"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Image:
    """An unpacked kernel: usr/lib/modules/RELEASE, and the image there or in boot."""

    directory: Path
    release: str

    @property
    def kernel(self) -> Path:
        """What QEMU boots."""
        beside = self.modules / "vmlinuz"  # since Debian 13's backports
        return beside if beside.exists() else self.directory / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """To be seen as /usr/lib/modules/RELEASE."""
        return self.directory / "usr" / "lib" / "modules" / self.release


def known() -> dict[str, tuple[list[str], str]]:
    """Suites and package by version, as pyproject.toml lists them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = settings["tool"]["xdpecmp"]["kernels"]
    return {version: (each["suites"], each["package"]) for version, each in listed.items()}


def find(version: str) -> Image:
    """The image of a listed version, fetched where it is not here yet."""
    listed = known()
    if version not in listed:
        raise VmError(f"no kernel {version!r} in pyproject.toml; choose: {', '.join(listed)}")
    directory = CACHE / version
    if not directory.is_dir():
        suites, package = listed[version]
        print(f"stock-kernel: fetching {package} of {' or '.join(suites)}", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as temporary:
                fetched = _fetch(Path(temporary), suites, package)
                fetched.rename(directory)
        finally:  # nothing of root's in a user's tree; some shared folders refuse, and need it not
            reference = f"--reference={ROOT}"
            subprocess.run(["chown", "-Rhf", reference, str(CACHE.parent)], check=False)
    (release,) = (each.name for each in (directory / "usr" / "lib" / "modules").iterdir())
    return Image(directory, release)


def _fetch(work: Path, suites: list[str], metapackage: str) -> Path:
    """Download and unpack; the unpacked tree."""
    apt = _Apt(work, suites)
    apt.fetch("download", *apt.kernel_packages(metapackage))
    tree = work / "tree"
    for archive in work.glob("*.deb"):
        run("dpkg-deb", "-x", str(archive), str(tree))
    shutil.rmtree(tree / "usr" / "share", ignore_errors=True)
    if not (tree / "usr" / "lib" / "modules").is_dir():  # until Debian 12
        shutil.copytree(tree / "lib", tree / "usr" / "lib", dirs_exist_ok=True)
        shutil.rmtree(tree / "lib")
    (tree / "lib").symlink_to("usr/lib")  # where kmod looks
    for modules in (tree / "usr" / "lib" / "modules").iterdir():
        run("depmod", "-b", str(tree), modules.name)
    return tree


class _Apt:
    """apt with some suites of the host's Debian mirrors, and nothing installed."""

    def __init__(self, work: Path, suites: list[str]) -> None:
        self._work = work
        (work / "lists" / "partial").mkdir(parents=True)
        sources = work / "sources.list"
        mirrors = [(_mirror(suite), suite) for suite in suites]
        if not any(mirror for mirror, _ in mirrors):
            raise VmError(
                "the kernels in pyproject.toml are Debian's, and apt knows no Debian mirror with "
                "package lists here: run this on Debian; there: apt-get update"
            )
        for mirror, suite in mirrors:
            if not mirror:
                print(f"stock-kernel: apt knows no mirror of {suite}: not looked at", flush=True)
        option = f"[signed-by={_KEYRING}]"
        lines = (f"deb {option} {uri} {suite} main\n" for uri, suite in mirrors if uri)
        sources.write_text("".join(lines))
        options = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Default-Release": "",
            "Dir::State::lists": work / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "",  # the download goes into a folder of ours
        }
        self._options = [f"-o{key}={value}" for key, value in options.items()]
        self.fetch("update")

    def fetch(self, *arguments: str) -> None:
        """What goes to the mirror."""
        advice = "check the network, and that debian-archive-keyring is up to date"
        run("apt-get", "-qq", *self._options, *arguments, cwd=self._work, advice=advice)

    def kernel_packages(self, metapackage: str) -> list[str]:
        """The packages that the metapackage stands for now: the image, which has all in it or, in
        newer releases, its parts beside it."""
        images = self._dependencies(metapackage, "linux-image-")
        if not images:
            raise VmError(f"{metapackage}: depends on no linux-image: see pyproject.toml")
        parts = ("linux-binary-", "linux-modules-", "linux-base-")
        return images + [name for part in parts for name in self._dependencies(images[0], part)]

    def _dependencies(self, package: str, beginning: str) -> list[str]:
        lines = run("apt-cache", *self._options, "depends", package).splitlines()
        return [
            name
            for kind, _, name in (line.strip().partition(": ") for line in lines)
            if kind == "Depends" and name.startswith(beginning)
        ]


def _mirror(suite: str) -> str | None:
    """Where the host's own sources have such suites from; None: not at all."""
    label = "Debian-Security" if suite.endswith("-security") else "Debian"
    which = ("Created-By: Packages", "Origin: Debian", f"Label: {label}")
    found = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *which).split()
    return found[0] if found else None


def run(
    *command: str,
    cwd: Path | None = None,
    stdin: str = "",
    advice: str = "check free space: df -h",
) -> str:
    """What the command prints. Raises VmError with the last of what it complains about."""
    done = subprocess.run(
        command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise VmError(f"preparing the kernel: {command[0]} failed ({why}); {advice}")
    return done.stdout
