"""How is a tar from somebody else written to disk without letting it out of its folder?

Only regular files, folders and links that stay inside are written, with modes 0755 and 0644. Refused, each with the
entry's name: absolute paths, `..`, names given twice (also when they differ only in case or Unicode form), anything
below a link, links that point outside, devices, pipes, whiteouts, odd characters, and more than `Limits` allows.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from berth.errors import IntegrityError

_BUFFER_BYTES = 1024 * 1024
_MAX_HEADER_BYTES = 1024 * 1024
_LONG_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(frozen=True)
class Limits:
    """The most that is written from one archive."""

    entries: int = 200_000
    total_bytes: int = 64 * 1024**3
    name_bytes: int = 4096
    depth: int = 100


def extract(stream: BinaryIO, destination: Path, *, below: str = "", limits: Limits | None = None) -> list[str]:
    """Writes the part of a tar that lies below the folder `below` into `destination`, that prefix stripped.

    Args:
        stream: an uncompressed tar, read once from start to end.
        destination: an existing empty folder.
        below: folder in the archive, such as "opt/model"; everything else is checked but not written.
    Returns:
        The names written, relative to `destination`, in the archive's order.
    Raises:
        IntegrityError: anything in the archive is refused; what was written before stays, so extract into a folder
            that is thrown away on errors.
    """
    return _Extraction(destination, below, limits or Limits()).run(stream)


class _Member(tarfile.TarInfo):
    """Refuses long headers before tarfile reads them into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG_HEADERS and self.size > _MAX_HEADER_BYTES:
            raise IntegrityError(f"The archive holds a header of {self.size} bytes.")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


class _Extraction:
    def __init__(self, destination: Path, below: str, limits: Limits) -> None:
        self.destination = destination
        self.below = tuple(p for p in below.split("/") if p)
        self.limits = limits
        self.seen: dict[str, str] = {}
        self.kinds: dict[tuple[str, ...], str] = {(): "folder"}
        self.bytes_left = limits.total_bytes
        self.written: list[str] = []

    def run(self, stream: BinaryIO) -> list[str]:
        try:
            with tarfile.open(fileobj=stream, mode="r|", errorlevel=2, tarinfo=_Member) as archive:
                for number, member in enumerate(_members(archive)):
                    if number >= self.limits.entries:
                        raise IntegrityError(f"The archive holds more than {self.limits.entries} entries.")
                    self._take(archive, member)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise IntegrityError(f"The archive is damaged: {error}.") from error
        return self.written

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = self._parts(member)
        if not parts:
            return
        kind = _kind(member)
        self._once(parts, member.name, kind)
        self.kinds[parts] = kind
        inside = parts[: len(self.below)] == self.below
        if kind == "file":
            self.bytes_left -= member.size
            if member.size < 0 or self.bytes_left < 0:
                raise IntegrityError(f"The archive unpacks to more than {self.limits.total_bytes} bytes.")
        if not inside or len(parts) == len(self.below):
            if inside and kind != "folder":
                raise _refused(member, "must be a folder")
            return
        target = self.destination.joinpath(*parts[len(self.below) :])
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            target.mkdir(exist_ok=True)
            target.chmod(0o755)
            return
        if kind == "file":
            self._file(archive, member, target)
        elif kind == "link":
            self._symlink(member, parts, target)
        else:
            self._hardlink(member, target)
        self.written.append("/".join(parts[len(self.below) :]))

    def _parts(self, member: tarfile.TarInfo) -> tuple[str, ...]:
        name = member.name
        if name.startswith("/") or member.name.startswith("\\"):
            raise _refused(member, "is an absolute path")
        parts = tuple(p for p in name.split("/") if p not in ("", "."))
        if ".." in parts:
            raise _refused(member, "leaves the folder by ..")
        if len(parts) > self.limits.depth or len(name.encode("utf-8", "surrogateescape")) > self.limits.name_bytes:
            raise _refused(member, "has too long a path")
        problem = next((found for part in parts if (found := name_problem(part))), None)
        if problem:
            raise _refused(member, problem)
        return parts

    def _once(self, parts: tuple[str, ...], name: str, kind: str) -> None:
        """Refuses names that are one name on some file system, and anything below what is not a folder."""
        for depth in range(1, len(parts) + 1):
            here = parts[:depth]
            key = "/".join(folded(p) for p in here)
            exact = "/".join(here)
            known = self.seen.setdefault(key, exact)
            if known != exact:
                raise IntegrityError(f"The archive's entries {known!r} and {exact!r} are one name on some systems.")
            if depth < len(parts):
                if self.kinds.setdefault(here, "folder") != "folder":
                    raise IntegrityError(f"The archive's entry {name!r} lies below {exact!r}, which is no folder.")
            elif here in self.kinds and not (kind == "folder" == self.kinds[here]):
                raise IntegrityError(f"The archive holds {exact!r} twice.")

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
        source = archive.extractfile(member)
        if source is None:
            raise _refused(member, "has no content")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        left = member.size
        with os.fdopen(os.open(target, flags, 0o600), "wb") as out:
            while left:
                piece = source.read(min(left, _BUFFER_BYTES))
                if not piece:
                    raise _refused(member, "is cut off")
                left -= len(piece)
                out.write(piece)
        target.chmod(0o755 if member.mode & 0o111 else 0o644)

    def _symlink(self, member: tarfile.TarInfo, parts: tuple[str, ...], target: Path) -> None:
        to = member.linkname
        if not to or to.startswith(("/", "\\")) or any(name_problem(p) for p in to.split("/")):
            raise _refused(member, f"links to {to!r}, which is not a relative path")
        inner = parts[len(self.below) : -1]
        joined = posixpath.normpath("/".join((*inner, to)))
        if joined == ".." or joined.startswith("../"):
            raise _refused(member, f"links to {to!r}, outside the folder")
        # `a/link/../..` is not what normpath says when `link` is a link: `..` may only come first.
        steps = [p for p in to.split("/") if p not in ("", ".")]
        climbing = True
        for step in steps:
            climbing = climbing and step == ".."
            if step == ".." and not climbing:
                raise _refused(member, f"links to {to!r}, which goes down and up again")
        target.symlink_to(to)

    def _hardlink(self, member: tarfile.TarInfo, target: Path) -> None:
        other = tuple(p for p in member.linkname.split("/") if p not in ("", "."))
        inside = other[: len(self.below)] == self.below and len(other) > len(self.below)
        if member.linkname.startswith("/") or ".." in other or not inside or self.kinds.get(other) != "file":
            raise _refused(member, f"is a hard link to {member.linkname!r}, which is no file of this archive")
        os.link(self.destination.joinpath(*other[len(self.below) :]), target, follow_symlinks=False)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        # Members already seen are kept by tarfile for random access, which a stream never needs.
        archive.members = []  # type: ignore[attr-defined]


def _kind(member: tarfile.TarInfo) -> str:
    if member.issparse() or member.type == tarfile.GNUTYPE_SPARSE:
        raise _refused(member, "is a sparse file")
    if member.isreg():
        return "file"
    if member.isdir():
        return "folder"
    if member.issym():
        return "link"
    if member.islnk():
        return "hard link"
    raise _refused(member, "is a device, a pipe or of an unknown kind")


def name_problem(part: str) -> str | None:
    """Why one part of a path cannot be carried to every system, or None."""
    if part.startswith(".wh."):
        return "is named like a whiteout (.wh.…)"
    if "\\" in part or any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in part):
        return "has characters that are not safe in file names"
    return None


def folded(part: str) -> str:
    """What a file system that ignores case and Unicode forms makes of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", part).casefold()).rstrip(". ") or part


def _refused(member: tarfile.TarInfo, why: str) -> IntegrityError:
    return IntegrityError(
        f"The archive's entry {member.name!r} {why}; nothing was unpacked.",
        detail={"entry": member.name.encode("utf-8", "replace").decode("utf-8")},
    )
