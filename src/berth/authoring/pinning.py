"""What does `xumi lock` pin? Base, packages and runtime for each platform; what is pinned already stays as it is.

Like uv and pip-tools: only what a change of `xumi.yaml` makes impossible moves, and what one asks to move.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from berth.authoring import lockfile, origins, packages
from berth.authoring.build import runtime_version
from berth.authoring.compression import compressor_id
from berth.authoring.lockfile import Inputs, Lock, LockedPlatform
from berth.authoring.manifest import Manifest
from berth.authoring.options import Options, checked, platforms_of, wanted
from berth.authoring.origins import Registry
from berth.authoring.repository import LocalRepository
from berth.authoring.steps import Report, Step
from berth.authoring.wheels import canonical
from berth.errors import InvalidInput


@dataclass(frozen=True)
class Upgrade:
    """What may move though it need not: everything, the base image, or packages by name (Python's and Debian's)."""

    everything: bool = False
    base: bool = False
    packages: frozenset[str] = frozenset()

    @classmethod
    def named(cls, names: list[str], *, everything: bool = False, base: bool = False) -> Upgrade:
        return cls(everything, base, frozenset(map(canonical, names)))

    def lets_go(self, name: str) -> bool:
        return self.everything or canonical(name) in self.packages


def lock(
    root: Path,
    repository: LocalRepository,
    *,
    options: Options | None = None,
    registry: Registry | None = None,
    report: Report = lambda _: None,
    upgrade: Upgrade | None = None,
) -> Lock:
    """Works out everything that a build of the folder would use, for every platform; nothing is written there.

    Args:
        upgrade: which pins of the xumi.lock that is there are not kept; default: all are.
        others: as of `build`.
    Raises:
        As `build`, and InvalidInput for a package to upgrade that the folder does not need.
    """
    options, upgrade = options or Options(), upgrade or Upgrade()
    root = root.resolve()
    file = checked(root)
    inputs = lockfile.inputs_of(file.manifest, root, base=options.base)
    # A damaged lock can be written anew, but only if nothing of it was to be kept.
    before = None if upgrade.everything else lockfile.read(root)
    found = {}
    for platform in platforms_of(file, options.platform):
        kept = before.platforms.get(str(platform)) if before else None
        base = origins.bring(
            root,
            repository,
            file.manifest,
            platform=platform,
            base=options.base,
            registry=registry,
            report=report,
            pinned=_base(before, kept, inputs, upgrade, built=_is_dockerfile(file.manifest, options)),
        )
        started = time.monotonic()
        entry = packages.pinned(
            repository,
            wanted(root, file, platform, base, options),
            python=[p for p in kept.packages if not upgrade.lets_go(p.name)] if kept else [],
            system=[p for p in kept.system_packages if not upgrade.lets_go(p.name)] if kept else [],
        )
        found[str(platform)] = entry
        count = len(entry.python_packages) + len(entry.system_packages)
        note = f"{count} package{'' if count == 1 else 's'}, {entry.libc or 'no C library found'}"
        report(Step(str(platform), 0, time.monotonic() - started, note=note))
    _check_names(upgrade, found)
    return Lock(
        xumi_lock=1,
        inputs=inputs,
        runtime=runtime_version(),
        compressor=compressor_id(options.compression),
        platforms=found,
    )


def _base(
    before: Lock | None, kept: LockedPlatform | None, inputs: Inputs, upgrade: Upgrade, *, built: bool
) -> str | None:
    """The digest to take the base by. What a Dockerfile gives can't be asked for again; it is what it is now."""
    if before is None or kept is None or upgrade.base or built or before.inputs.base != inputs.base:
        return None
    return kept.base


def _is_dockerfile(manifest: Manifest, options: Options) -> bool:
    build = manifest.runtime.build
    return options.base is None and build is not None and build.dockerfile is not None


def _check_names(upgrade: Upgrade, found: dict[str, LockedPlatform]) -> None:
    names = [p.name for entry in found.values() for p in entry.python_packages]
    names += [p.name for entry in found.values() for p in entry.system_packages]
    there = set(map(canonical, names))
    unknown = sorted(upgrade.packages - there)
    if unknown:
        raise InvalidInput(
            f"This folder needs no package {', '.join(unknown)}; there is nothing to upgrade.",
            hint="xumi.lock lists what it needs.",
        )
