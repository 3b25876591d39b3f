"""Which version comes next, and how does it get into xumi.yaml? One scalar is replaced; every other byte stays.

`--pre auto` counts commits, so the same commit gives the same version on every machine: `1.2.4-dev.57`. In a shallow
clone, where commits cannot be counted, it is the commit's time; without a repository it is the time now (UTC).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from berth.authoring import document
from berth.authoring.manifest import FILE_NAME, parse
from berth.errors import InvalidInput, ManifestFileInvalid
from berth.oci.version import SemVer, bump

AUTO = "auto"
PARTS = ("major", "minor", "patch")
_DEVELOPMENT = "dev"
_LABEL = re.compile(r"^[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*$")
_GIT_SECONDS = 30


@dataclass(frozen=True)
class Bumped:
    """`counted` says what an automatic pre-release number is: commits, commit time or time; None without one."""

    path: Path
    old: str
    new: str
    counted: str | None = None


def next_version(old: str, part: str | None, pre: str | None, *, number: str | None = None) -> str:
    """The version after `old`.

    Args:
        old: the version now.
        part: major, minor or patch; None is patch, or the same numbers when `old` is a pre-release and `pre` is given.
        pre: label of a pre-release, such as alpha or rc; None makes a release.
        number: what follows the label; None counts up from 1.
    Raises:
        VersionInvalid: `old` is no semantic version.
        InvalidInput: an unknown part, or a label that cannot stand in a version.
    """
    if part is not None and part not in PARTS:
        raise InvalidInput(f"{part[:40]!r} is not a part of a version.", hint=f"Write one of: {', '.join(PARTS)}.")
    if pre is None:
        return bump(old, part or "patch")
    if not _LABEL.match(pre) or any(p.isdigit() and p != str(int(p)) for p in pre.split(".")):
        raise InvalidInput(f"{pre[:40]!r} cannot follow the `-` of a version.", hint="Write a word such as alpha.")
    now = SemVer.parse(old)
    label = tuple(pre.split("."))
    # A pre-release leads to its own release, so without a part its numbers stay.
    core = SemVer.parse(bump(old, part or "patch"))
    same = (core.major, core.minor, core.patch) == (now.major, now.minor, now.patch)
    count = number or "1"
    if number is None and same and now.prerelease[:-1] == label and now.prerelease[-1].isdigit():
        count = str(int(now.prerelease[-1]) + 1)
    found = SemVer(core.major, core.minor, core.patch, (*label, count))
    # 1.2.4-alpha.1 stands below 1.2.4-rc.1, and a later version must not be a lower one.
    return str(found if found >= now else SemVer(core.major, core.minor, core.patch + 1, (*label, count)))


def bump_file(
    path: Path,
    part: str | None = None,
    pre: str | None = None,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    dry_run: bool = False,
) -> Bumped:
    """Writes the next version into xumi.yaml.

    Args:
        path: the file, or the folder it is in.
        part, pre: see `next_version`; `pre="auto"` takes label and number from git or the clock.
        now: the clock.
        dry_run: change nothing, only say.
    Raises:
        ManifestFileInvalid: the file cannot be read, or is wrong.
        InvalidInput: see `next_version`; or the file cannot be written.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        # Written through links: the file itself changes, not the link.
        file = file.resolve(strict=True)
        with file.open("rb") as stream:
            data = stream.read(document.MAX_BYTES + 1)
    except OSError as error:
        raise ManifestFileInvalid(
            f"{file} cannot be read: {error.strerror}.", hint="`xumi init PROJECT/MODEL` starts a new one."
        ) from error
    old = parse(data, name=file.name).manifest.version
    counted = None
    if pre == AUTO:
        number, counted = automatic_number(file.parent, now)
        new = next_version(old, part, _DEVELOPMENT, number=number)
    else:
        new = next_version(old, part, pre)
    changed = _replace(data, old, new, name=file.name)
    if not dry_run and changed != data:
        _write(file, changed)
    return Bumped(file, old, new, counted)


def automatic_number(folder: Path, now: Callable[[], datetime]) -> tuple[str, str]:
    """(number, what it is): commits, commit time or time."""
    if _git(folder, "rev-parse", "--is-shallow-repository") == "false":
        count = _git(folder, "rev-list", "--count", "HEAD")
        if count and count.isdigit():
            return str(int(count)), "commits"
    stamp = _git(folder, "log", "-1", "--format=%ct")
    if stamp and stamp.isdigit():
        return _stamp(datetime.fromtimestamp(int(stamp), UTC)), "commit time"
    return _stamp(now().astimezone(UTC)), "time"


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None when it is not there, this is no repository, or it has no commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _stamp(time: datetime) -> str:
    return time.strftime("%Y%m%d%H%M%S")


def _replace(data: bytes, old: str, new: str, *, name: str) -> bytes:
    """The file with the value of `version` replaced; parsed again, so that nothing else can have changed."""
    text = data.decode("utf-8")
    read = document.parse(data, name=name)
    place = read.place(("version",))
    lines = text.splitlines(keepends=True)
    written = read.written.get(("version",), old)
    # The first column of a file that starts with a byte order mark is one further on.
    column = place.column - 1 + (1 if place.line == 1 and text.startswith("\ufeff") else 0)
    before, rest = lines[place.line - 1][:column], lines[place.line - 1][column:]
    quote = rest[:1] if rest[:1] in ("'", '"') else ""
    if not rest.startswith(f"{quote}{written}{quote}"):
        raise InvalidInput(
            f"The version in {name}, line {place.line}, is not written plainly.", hint=f"Write version: {old}."
        )
    lines[place.line - 1] = f"{before}{quote}{new}{quote}{rest[len(written) + 2 * len(quote) :]}"
    changed = "".join(lines).encode("utf-8")
    if document.parse(changed, name=name).data != {**read.data, "version": new}:
        raise InvalidInput(f"The version in {name}, line {place.line}, cannot be changed safely; change it by hand.")
    return changed


def _write(file: Path, data: bytes) -> None:
    """All or nothing, with the file's own mode."""
    try:
        with tempfile.NamedTemporaryFile("wb", dir=file.parent, prefix=f".{file.name}.", delete=False) as out:
            try:
                out.write(data)
                out.flush()
                shutil.copymode(file, out.name)
                os.replace(out.name, file)
            except BaseException:
                Path(out.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}.") from error
