"""Which packages go into one platform's image, and what layers do they make? Debian packages first, then Python's.

With a lock the packages are those it names; without one they are worked out anew. The layers of packages that were
installed before are taken from the local repository: with a lock, an unchanged build asks no index, installs nothing;
without one it asks again after ten minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from berth.authoring import base_files, debian, layer_cache, recent
from berth.authoring.base import BaseImage, Platform
from berth.authoring.compression import Compression, compressor_id
from berth.authoring.installers import Installer, Target
from berth.authoring.lockfile import LockedPackage, LockedPlatform, SystemPackage
from berth.authoring.manifest import Manifest
from berth.authoring.packing import Layer, pack
from berth.authoring.repository import LocalRepository
from berth.authoring.requirements import Resolved, resolved
from berth.authoring.steps import Report, timed
from berth.authoring.wheels import Package
from berth.errors import InvalidInput

_SYSTEM = "system"
_PYTHON = "deps"


@dataclass(frozen=True)
class Wanted:
    """What one platform's packages depend on; the base's layers are in the repository."""

    root: Path
    manifest: Manifest
    platform: Platform
    base: BaseImage
    installer: Installer = "auto"
    allow_sdist: bool = False
    compression: Compression = "gzip"

    @property
    def any(self) -> bool:
        return bool(self.manifest.runtime.requirements or self.manifest.runtime.system_packages)


def pinned(
    repository: LocalRepository,
    wanted: Wanted,
    *,
    python: Sequence[Package] = (),
    system: Sequence[SystemPackage] = (),
) -> LockedPlatform:
    """Works out the packages of one platform, for the lock.

    Args:
        python, system: pins to keep where they still can be.
    Raises:
        InvalidInput, SetupError.
    """
    facts = base_files.facts(repository, wanted.base)
    runtime = wanted.manifest.runtime
    wheels: tuple[Package, ...] = ()
    debs: tuple[SystemPackage, ...] = ()
    if runtime.system_packages:
        with debian.resolved(repository, wanted.base, runtime.system_packages, wanted.platform, keep=system) as found:
            debs = found.packages
    if runtime.requirements:
        target = _target(wanted, facts)
        with resolved(
            runtime.requirements,
            wanted.root,
            target,
            installer=wanted.installer,
            allow_sdist=wanted.allow_sdist,
            keep=python,
        ) as done:
            wheels = done.packages
    return LockedPlatform(
        base=wanted.base.digest,
        libc=facts.libc,
        python_packages=[LockedPackage(**asdict(p)) for p in wheels],
        system_packages=list(debs),
    )


def layers(repository: LocalRepository, wanted: Wanted, lock: LockedPlatform | None, report: Report) -> list[Layer]:
    """The layers of system packages and of Python packages, in that order. Raises InvalidInput, SetupError."""
    found: list[Layer] = []
    with timed(report, found, _SYSTEM):
        found += _system(repository, wanted, lock)
    with timed(report, found, _PYTHON):
        found += _python(repository, wanted, lock)
    return found


def _system(repository: LocalRepository, wanted: Wanted, lock: LockedPlatform | None) -> list[Layer]:
    names = wanted.manifest.runtime.system_packages
    if not names:
        return []
    pins = lock.system_packages if lock else None
    if pins is not None and (known := layer_cache.find(repository, _system_key(wanted, pins))) is not None:
        return known
    with debian.resolved(repository, wanted.base, names, wanted.platform, pins=pins) as found:
        key = _system_key(wanted, found.packages)
        known = layer_cache.find(repository, key)
        if known is None:
            # The base may have all of them already.
            entries = found.entries() if found.packages else []
            known = [pack(repository, _SYSTEM, entries, compression=wanted.compression)] if entries else []
            layer_cache.remember(repository, key, known)
    return known


def _python(repository: LocalRepository, wanted: Wanted, lock: LockedPlatform | None) -> list[Layer]:
    requirements = wanted.manifest.runtime.requirements
    if not requirements:
        return []
    target = _target(wanted, base_files.facts(repository, wanted.base))
    pins = lock.packages if lock else None
    if pins is not None and (known := layer_cache.find(repository, _python_key(wanted, target, pins))) is not None:
        return known
    question = None if pins is not None else _question(wanted, target)
    if (
        question is not None
        and (key := recent.answer(repository, question)) is not None
        and (known := layer_cache.find(repository, key)) is not None
    ):
        return known
    with resolved(
        requirements,
        wanted.root,
        target,
        installer=wanted.installer,
        allow_sdist=wanted.allow_sdist,
        pins=pins,
    ) as found:
        key = _python_key(wanted, target, found.packages)
        if question is not None:
            recent.remember(repository, question, key)
        known = layer_cache.find(repository, key)
        if known is None:
            known = _installed(repository, wanted, found)
            if all(p.is_wheel for p in found.packages):
                layer_cache.remember(repository, key, known)
    return known


def _question(wanted: Wanted, target: Target) -> str | None:
    asked = recent.question(
        wanted.manifest.runtime.requirements,
        wanted.root,
        target,
        installer=wanted.installer,
        allow_sdist=wanted.allow_sdist,
    )
    # The same packages become other layers with another compression.
    return None if asked is None else layer_cache.key_of(asked, compressor_id(wanted.compression))


def _installed(repository: LocalRepository, wanted: Wanted, found: Resolved) -> list[Layer]:
    return [
        pack(repository, _PYTHON, d.entries, compression=wanted.compression, title=d.name or "")
        for d in found.install()
    ]


def _target(wanted: Wanted, facts: base_files.Facts) -> Target:
    python = wanted.manifest.runtime.python
    if python is None:
        raise InvalidInput("runtime.requirements needs a Python: write runtime.python.")
    if facts.pythons and python not in facts.pythons:
        raise InvalidInput(
            f"The base image has Python {', '.join(facts.pythons)}, and runtime.python says {python}.",
            hint=f"Write runtime.python: '{facts.pythons[-1]}', or choose another base.",
        )
    return Target(python, wanted.platform, glibc=facts.glibc, musl=facts.musl)


def _python_key(wanted: Wanted, target: Target, packages: Sequence[Package]) -> str:
    files = sorted((p.filename, p.sha256) for p in packages)
    return layer_cache.key_of(_PYTHON, str(target), files, compressor_id(wanted.compression))


def _system_key(wanted: Wanted, packages: Sequence[SystemPackage]) -> str:
    files = sorted((p.name, p.architecture, p.sha256) for p in packages)
    return layer_cache.key_of(_SYSTEM, wanted.base.digest, files, compressor_id(wanted.compression))
