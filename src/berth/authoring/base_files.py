"""What is inside a base image? The facts that packages must fit: its C library, Pythons and Debian release.

Layers are read as streams and nothing is unpacked. The small facts are remembered per base digest in the local
repository, so that a base is read once.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from berth.authoring.base import BaseImage
from berth.authoring.packing import open_layer
from berth.authoring.repository import LocalRepository
from berth.errors import IntegrityError, ManifestInvalid

_MAX_FILE_BYTES = 64 * 1024 * 1024
# Raised when what is read changes, so that remembered facts of older programs are not used.
_FACTS_VERSION = 1
_GLIBC_FILE = re.compile(
    r"^(?:usr/)?lib(?:64|32)?/(?:[a-z0-9_]+-linux-gnu[a-z0-9_]*/)?(?:libc\.so\.6|libc-2\.[0-9.]+\.so)$"
)
_GLIBC_BANNER = re.compile(rb"GNU C Library \([^)]*\) (?:stable|development) release version ([0-9]+)\.([0-9]+)")
_MUSL_PACKAGE = re.compile(r"^P:musl\nV:([0-9]+)\.([0-9]+)", re.MULTILINE)
_PYTHON_FILE = re.compile(r"^(?:usr/local/|usr/|opt/[^/]+/)?bin/python(3\.[0-9]{1,2})$")
_SMALL = re.compile(r"^(?:(?:etc|usr/lib)/os-release|lib/apk/db/installed)$")
# Where Debian keeps what `apt` needs: sources, keys and the list of installed packages.
_DEBIAN = re.compile(
    r"^(?:var/lib/dpkg/status(?:\.d/[^/]+)?|etc/apt/(?:sources\.list|sources\.list\.d/[^/]+|trusted\.gpg(?:\.d/[^/]+)?)"
    r"|usr/share/keyrings/[^/]+|etc/apt/keyrings/[^/]+)$"
)


@dataclass(frozen=True)
class Facts:
    """What packages must fit.

    Attributes:
        libc: "glibc 2.36" or "musl 1.2"; None when no C library was found.
        pythons: minor versions of the Pythons on the usual paths, such as "3.11".
        release: ID, VERSION_ID and VERSION_CODENAME of os-release, as far as given.
    """

    libc: str | None = None
    pythons: tuple[str, ...] = ()
    release: dict[str, str] = field(default_factory=dict)

    @property
    def glibc(self) -> tuple[int, int] | None:
        return self._version("glibc")

    @property
    def musl(self) -> tuple[int, int] | None:
        return self._version("musl")

    def _version(self, kind: str) -> tuple[int, int] | None:
        name, _, version = (self.libc or "").partition(" ")
        major, _, minor = version.partition(".")
        return (int(major), int(minor)) if name == kind else None


@dataclass
class Files:
    """Some files of an image by path without leading slash, and all of its symbolic links."""

    content: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def resolve(self, path: str) -> str:
        """The path after following the links of its folders, as a merged /usr needs it."""
        done: list[str] = []
        parts, steps = path.split("/"), 0
        while parts:
            done.append(parts.pop(0))
            here = "/".join(done)
            target = self.links.get(here) if parts else None
            if target is not None and (steps := steps + 1) < 40:
                joined = target if target.startswith("/") else posixpath.join("/", *done[:-1], target)
                parts = [p for p in posixpath.normpath(joined).split("/") if p] + parts
                done = []
        return "/".join(done)


def facts(repository: LocalRepository, base: BaseImage) -> Facts:
    """The facts about a base whose layers are in the repository. Raises ManifestInvalid."""
    known = _remembered(repository.home, base.digest)
    if known is not None:
        return known
    files = read(
        repository,
        base,
        lambda name: bool(_SMALL.match(name) or _GLIBC_FILE.match(name)),
        listed=lambda name: bool(_PYTHON_FILE.match(name)),
    )
    release = read_release(files.content.get("etc/os-release") or files.content.get("usr/lib/os-release") or b"")
    pythons = sorted({m[1] for n in files.names | set(files.links) if (m := _PYTHON_FILE.match(n))}, key=_minor)
    found = Facts(libc=_libc(files), pythons=tuple(pythons), release=release)
    _remember(repository.home, base.digest, found)
    return found


def debian_files(repository: LocalRepository, base: BaseImage) -> Files:
    """What apt and dpkg keep in a base, and all links. Raises ManifestInvalid."""
    return read(repository, base, lambda name: bool(_DEBIAN.match(name)))


def read(
    repository: LocalRepository,
    base: BaseImage,
    wanted: Callable[[str], bool],
    *,
    listed: Callable[[str], bool] = lambda _: False,
) -> Files:
    """Reads the files of an image that `wanted` names, layer after layer, whiteouts obeyed."""
    found = Files()
    for layer in base.layers:
        try:
            with repository.open_blob(layer.digest) as blob, tarfile.open(fileobj=open_layer(blob), mode="r|") as tar:
                for member in _members(tar):
                    _take(found, tar, member, wanted, listed)
        except (tarfile.TarError, EOFError, ValueError, OverflowError, IntegrityError) as error:
            raise ManifestInvalid(f"A layer of the base image ({layer.digest}) cannot be read: {error}") from error
    return found


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member


def _take(
    found: Files,
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    wanted: Callable[[str], bool],
    listed: Callable[[str], bool],
) -> None:
    name = posixpath.normpath(member.name).lstrip("/")
    folder, _, last = name.rpartition("/")
    if last == ".wh..wh..opq":
        _drop(found, f"{folder}/")
        return
    if last.startswith(".wh."):
        gone = posixpath.join(folder, last.removeprefix(".wh."))
        _drop(found, f"{gone}/")
        _drop(found, gone, exact=True)
        return
    if not member.isdir():
        _drop(found, name, exact=True)
    elif name in found.links:
        del found.links[name]
    if member.issym():
        found.links[name] = member.linkname
        return
    if listed(name):
        found.names.add(name)
    if not wanted(name):
        return
    if member.islnk():
        other = posixpath.normpath(member.linkname).lstrip("/")
        if other in found.content:
            found.content[name] = found.content[other]
    elif member.isfile() and member.size <= _MAX_FILE_BYTES:
        stream = tar.extractfile(member)
        found.content[name] = stream.read() if stream else b""


def _drop(found: Files, text: str, *, exact: bool = False) -> None:
    places: tuple[Any, ...] = (found.content, found.links)
    if exact:
        for place in places:
            place.pop(text, None)
        found.names.discard(text)
        return
    for place in places:
        for name in [n for n in place if n.startswith(text)]:
            del place[name]
    found.names = {n for n in found.names if not n.startswith(text)}


def _libc(files: Files) -> str | None:
    for name, data in sorted(files.content.items()):
        if _GLIBC_FILE.match(name) and (banner := _GLIBC_BANNER.search(data)):
            return f"glibc {int(banner[1])}.{int(banner[2])}"
    apk = files.content.get("lib/apk/db/installed", b"").decode("utf-8", "replace")
    if musl := _MUSL_PACKAGE.search(apk):
        return f"musl {musl[1]}.{musl[2]}"
    return None


def read_release(data: bytes) -> dict[str, str]:
    """ID, VERSION_ID and VERSION_CODENAME of an os-release file."""
    lines = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    return {k: v.strip().strip("\"'") for k, _, v in lines if k in ("ID", "VERSION_ID", "VERSION_CODENAME")}


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


def _cache(home: Path, digest: str) -> Path:
    return home / "bases" / f"{digest.replace(':', '-')}.json"


def _remembered(home: Path, digest: str) -> Facts | None:
    try:
        found = json.loads(_cache(home, digest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.pop("version", None) != _FACTS_VERSION:
        return None
    try:
        return Facts(**{**found, "pythons": tuple(found.get("pythons", ()))})
    except TypeError:
        return None


def _remember(home: Path, digest: str, found: Facts) -> None:
    path = _cache(home, digest)
    path.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as out:
        json.dump({"version": _FACTS_VERSION, **asdict(found)}, out)
    os.replace(out.name, path)
