"""Which of several wheels of a package is the best for a target? (PyPA specifications: file names, platform tags.)"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FILE = re.compile(
    r"^(?P<name>[A-Za-z0-9._]+)-(?P<version>[^-]+)(?:-(?P<build>[0-9][^-]*))?"
    r"-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl$"
)
_SDIST = (".tar.gz", ".zip")
_MANYLINUX = re.compile(r"^(?:many|musl)linux_([0-9]+)_([0-9]+)_")
_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


@dataclass(frozen=True)
class Package:
    """One package as the lock names it: a file that has exactly this content. No address."""

    name: str
    version: str
    filename: str
    sha256: str

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")


def is_sdist(filename: str) -> bool:
    return filename.endswith(_SDIST)


def canonical(name: str) -> str:
    """The name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def rank(filename: str, *, python: str) -> tuple[int, int, tuple[int, int], str, str] | None:
    """How well a wheel that runs on the target fits it; greater is better. None when it is for another Python.

    The order is that of pip and uv: this CPython's own ABI, then abi3 (newer first), then no ABI; a platform's wheel
    before one for any; the newest C library first; then the build number. The file name decides between equals.
    """
    found = _FILE.match(filename)
    if found is None:
        return None
    minor = int(python.partition(".")[2])
    best: tuple[int, int] | None = None
    for tag in found["python"].split("."):
        for abi in found["abi"].split("."):
            if (score := _interpreter(tag, abi, minor)) is not None:
                best = max(best or score, score)
    if best is None:
        return None
    platform = max(_platform(p) for p in found["platform"].split("."))
    return (*best, platform, found["build"] or "", filename)


def _interpreter(tag: str, abi: str, minor: int) -> tuple[int, int] | None:
    version = re.match(r"^(cp|py)3([0-9]{0,2})$", tag)
    if version is None:
        return None
    named = int(version[2]) if version[2] else None
    if version[1] == "cp":
        if named is None or named > minor:
            return None
        if abi == f"cp3{minor}" and named == minor:
            return 4, named
        if abi == "abi3":
            return 3, named
        return (2, named) if abi == "none" and named == minor else None
    if abi != "none" or (named is not None and named > minor):
        return None
    return 1, -1 if named is None else named


def _platform(tag: str) -> tuple[int, int]:
    if tag == "any":
        return -1, -1
    if found := _MANYLINUX.match(tag):
        return int(found[1]), int(found[2])
    return _OLD_NAMES.get(tag.partition("_")[0], (0, 0))
