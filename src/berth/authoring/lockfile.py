"""What does `xumi.lock` say, and does a build still fit it? The exact inputs of an image, for each platform.

JSON, sorted and indented, so that the same inputs give the same file and a change is a readable difference. It names
digests, versions and file names; never an address, an index or a credential. docs/guides/building.md describes it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from berth.authoring.hardware import Part
from berth.authoring.manifest import Manifest
from berth.authoring.project import LOCK_NAME
from berth.authoring.requirements import declared
from berth.authoring.wheels import Package
from berth.errors import InvalidInput
from berth.oci import digest as digests

FILE_NAME = LOCK_NAME
_MAX_BYTES = 16 * 1024 * 1024
_MAX_LINES = 20

_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=200)]
_Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+:~!-]*$", max_length=200)]


class LockedPackage(Part):
    """A wheel, or a source package where those are allowed."""

    name: _Name
    version: _Version
    filename: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$", max_length=400)]
    sha256: _Sha256


class SystemPackage(Part):
    """A Debian package."""

    name: _Name
    version: _Version
    architecture: _Name
    sha256: _Sha256

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.architecture})"


class LockedPlatform(Part):
    """What one platform's image is made of."""

    base: _Digest
    libc: Annotated[str, Field(pattern=r"^(?:glibc|musl) [0-9]+\.[0-9]+$")] | None = None
    python_packages: list[LockedPackage] = Field(default=[])
    system_packages: list[SystemPackage] = Field(default=[])

    @property
    def packages(self) -> tuple[Package, ...]:
        return tuple(Package(p.name, p.version, p.filename, p.sha256) for p in self.python_packages)


class Inputs(Part):
    """What was asked for when the lock was written. `base` is a digest, for its text may name a private registry."""

    base: _Digest
    python: str | None = None
    requirements: list[str]
    system_packages: list[str]


class Lock(Part):
    """The whole file."""

    xumi_lock: Literal[1]
    inputs: Inputs
    runtime: _Digest
    compressor: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$", max_length=100)]
    platforms: dict[str, LockedPlatform]

    def text(self) -> str:
        """The file's content; ends in a newline."""
        data = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read(root: Path) -> Lock | None:
    """The lock beside xumi.yaml, or None when there is none. Raises InvalidInput when it is damaged."""
    try:
        with (root / FILE_NAME).open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(f"{FILE_NAME} cannot be read: {error.strerror}.") from error
    hint = "`xumi lock --upgrade` writes it anew."
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        return Lock.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{FILE_NAME} is damaged: {where or 'the file'}: {first['msg']}.", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{FILE_NAME} is damaged: {error}.", hint=hint) from error


def write(root: Path, lock: Lock) -> bool:
    """Writes the lock if it says something else than the one there; returns whether it did."""
    path, text = root / FILE_NAME, lock.text()
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (OSError, ValueError):
        pass
    with tempfile.NamedTemporaryFile("w", dir=root, prefix=".xumi.lock.", delete=False, encoding="utf-8") as out:
        out.write(text)
    os.chmod(out.name, 0o644)
    os.replace(out.name, path)
    return True


def inputs_of(manifest: Manifest, root: Path, *, base: str | None = None) -> Inputs:
    """What the folder asks for now; `base` is what --base says. Raises InvalidInput."""
    return Inputs(
        base=digests.of_bytes(_origin(manifest, root, base).encode()),
        python=manifest.runtime.python,
        requirements=declared(manifest.runtime.requirements, root),
        system_packages=sorted(set(manifest.runtime.system_packages)),
    )


def outdated(lock: Lock, now: Inputs, platforms: Sequence[str]) -> list[str]:
    """In which way the folder asks for something else than the lock was written for; empty when it fits."""
    before = lock.inputs
    found = []
    if before.base != now.base:
        found.append("runtime.base (or the image or Dockerfile of runtime.build) is another one now")
    if before.python != now.python:
        found.append(f"runtime.python was {before.python} and is {now.python}")
    for what, old, new in (
        ("runtime.requirements", before.requirements, now.requirements),
        ("runtime.system_packages", before.system_packages, now.system_packages),
    ):
        found += [f"{what}: {line} is new" for line in new if line not in old]
        found += [f"{what}: {line} is gone" for line in old if line not in new]
    found += [f"there is nothing for {platform} in it" for platform in platforms if platform not in lock.platforms]
    return found


def differences(lock: Lock, *, runtime: str, compressor: str) -> list[str]:
    """In which way this program makes other bytes than the one that wrote the lock; the pins hold all the same."""
    found = []
    if lock.runtime != runtime:
        found.append(f"the runtime that goes into the image was {_short(lock.runtime)} and is {_short(runtime)}")
    if lock.compressor != compressor:
        found.append(f"layers were compressed by {lock.compressor} and are by {compressor} here")
    return found


def changes(before: Lock | None, after: Lock) -> list[str]:
    """What the new lock pins otherwise: "linux/amd64: numpy 2.1.0 → 2.2.0"."""
    found = []
    for platform, new in after.platforms.items():
        old = before.platforms.get(platform) if before else None
        if old is None:
            continue
        if old.base != new.base:
            found.append(f"{platform}: base {_short(old.base)} → {_short(new.base)}")
        for kind in ("python_packages", "system_packages"):
            was = {p.name: p.version for p in getattr(old, kind)}
            now = {p.name: p.version for p in getattr(new, kind)}
            for name in sorted({*was, *now}):
                if was.get(name) != now.get(name):
                    found.append(f"{platform}: {name} {was.get(name, '(new)')} → {now.get(name, '(gone)')}")
    return found


def refuse(problems: Sequence[str]) -> InvalidInput:
    """The error of `--locked`."""
    shown = [*problems[:_MAX_LINES], *(["…"] if len(problems) > _MAX_LINES else [])]
    return InvalidInput(
        f"{FILE_NAME} does not fit: " + "".join(f"\n  {line}" for line in shown),
        hint="`xumi lock` writes it anew; without --locked the build goes on.",
        detail={"problems": list(problems)},
    )


def _origin(manifest: Manifest, root: Path, base: str | None) -> str:
    build = manifest.runtime.build
    if base is not None or build is None:
        return f"base {base or manifest.runtime.base}"
    if build.image is not None:
        return f"image {build.image}"
    try:
        content = (root / (build.dockerfile or "")).read_bytes()
    except OSError as error:
        raise InvalidInput(f"The Dockerfile {build.dockerfile} cannot be read: {error.strerror}.") from error
    return f"dockerfile {digests.of_bytes(content)}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
