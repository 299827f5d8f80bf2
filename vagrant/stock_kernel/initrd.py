"""The initial RAM disk: a static busybox, the modules that 9p and overlayfs take, and `init`."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

from .images import Image, run

_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_HERE = Path(__file__).parent


def build(image: Image, work: Path) -> Path:
    """Make it in the empty folder `work`; returns the archive."""
    tree = work / "initrd"
    (tree / "modules").mkdir(parents=True)
    for name in ("bin", "proc", "sys", "dev", "lower", "upper", "root"):
        (tree / name).mkdir()
    shutil.copy("/bin/busybox", tree / "bin" / "busybox")
    shutil.copy(_HERE / "init", tree / "init")
    (tree / "init").chmod(0o755)
    names = [_add(module, tree / "modules") for module in _with_dependencies(image)]
    (tree / "modules" / "order").write_text("".join(f"{name}\n" for name in names))
    archive = work / "initrd.cpio"
    listing = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    made = f"--file={archive}"
    run("cpio", "--create", "--format=newc", "--quiet", made, cwd=tree, stdin=listing)
    return archive


def _with_dependencies(image: Image) -> list[Path]:
    """The modules' files, each after those it needs; what is built in has none."""
    found: dict[Path, None] = {}
    for module in _MODULES:
        where = ("-d", str(image.directory), "-S", image.release)
        advice = f"fetch it again: rm -r {image.directory}"
        shown = run("modprobe", *where, "--show-depends", module, advice=advice)
        for line in shown.splitlines():
            kind, path, *_ = line.split()
            if kind == "insmod":
                found[Path(path)] = None
    return list(found)


def _add(module: Path, directory: Path) -> str:
    """Copy a module, uncompressed: busybox's insmod knows no xz."""
    content = module.read_bytes()
    name = module.name
    if module.suffix == ".xz":
        content, name = lzma.decompress(content), module.stem
    (directory / name).write_bytes(content)
    return name
