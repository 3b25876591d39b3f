"""What is an image built on? The base that xumi.yaml names, an image to wrap, or a Dockerfile to build and wrap (X6).

The layers of the image are brought into the local repository, so that nothing else needs to know where it came from.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from berth.authoring.base import LAYOUT_PREFIX, BaseImage, BaseSource, Platform, open_base
from berth.authoring.manifest import ImageBuild, Manifest
from berth.authoring.repository import LocalRepository
from berth.authoring.steps import Report, Step
from berth.errors import InvalidInput, NotFound, SetupError

Registry = Callable[[str], tuple[BaseSource, str]]
_BUILD_SECONDS = 7200
# Reproducible as far as the Dockerfile's own steps are: no times of this build.
_TIMESTAMP = "0"


def bring(
    root: Path,
    repository: LocalRepository,
    manifest: Manifest,
    *,
    platform: Platform,
    base: str | None,
    registry: Registry | None,
    report: Report,
    pinned: str | None = None,
) -> BaseImage:
    """Finds the image for one platform and copies those of its layers that are not here yet into the repository.

    Args:
        root: the project's folder.
        repository: where the layers go.
        manifest: its `runtime.base` or `runtime.build` names the image.
        platform: what it must run on.
        base: instead of what the manifest names.
        registry: how images in registries are reached.
        report: told when it is there.
        pinned: digest that the lock names; exactly that image is taken.
    Raises:
        InvalidInput: no such image, or none for the platform, or not the pinned one any more.
        SetupError: a Dockerfile, and no program here that builds it.
    """
    build = manifest.runtime.build
    if base is None and build is not None and build.dockerfile is not None:
        with tempfile.TemporaryDirectory(prefix="xumi-image-") as scratch:
            layout = _built(root, build, platform, Path(scratch))
            found = _brought(
                root, repository, f"{LAYOUT_PREFIX}{layout}", platform, registry, report, name="dockerfile"
            )
        if pinned is not None and found.digest != pinned:
            raise InvalidInput(
                f"{build.dockerfile} gives another image ({found.digest}) than xumi.lock names ({pinned}).",
                hint="Its steps depend on more than the file; `xumi lock` takes the new image.",
            )
        return dataclasses.replace(found, name=None)
    text = base or (build.image if build is not None else manifest.runtime.base) or ""
    return _brought(root, repository, text, platform, registry, report, name="base", pinned=pinned)


def _brought(
    root: Path,
    repository: LocalRepository,
    text: str,
    platform: Platform,
    registry: Registry | None,
    report: Report,
    *,
    name: str,
    pinned: str | None = None,
) -> BaseImage:
    started = time.monotonic()
    try:
        base = open_base(text, root, platform=platform, registry=registry, pinned=pinned)
    except NotFound as error:
        if pinned is None:
            raise
        raise InvalidInput(
            f"The base image is not there any more as xumi.lock names it ({pinned}).",
            hint="`xumi lock --upgrade-base` takes today's.",
        ) from error
    copied = 0
    for layer in base.layers:
        if not repository.layout.has(layer.digest):
            with base.source.open(layer.digest) as stream:
                repository.add_blob_stream(stream, expected=layer.digest)
            copied += 1
    size = sum(layer.size for layer in base.layers)
    note = "" if copied else "already here"
    report(Step(name, size, time.monotonic() - started, digest=base.digest, note=note))
    return base


def _built(root: Path, build: ImageBuild, platform: Platform, scratch: Path) -> Path:
    """Builds the Dockerfile into an OCI layout with the first of buildah, podman and docker that is here."""
    file = root / (build.dockerfile or "")
    if not file.is_file():
        raise InvalidInput(f"There is no Dockerfile {build.dockerfile}.", hint="Check runtime.build.dockerfile.")
    layout = scratch / "image"
    tag = f"localhost/xumi-build:{scratch.name.lower().replace('_', '-')}"
    common = ["-f", str(file), "--platform", str(platform), "-t", tag]
    for program in ("buildah", "podman"):
        if found := shutil.which(program):
            made = ["--isolation", "chroot", "--format", "oci", "--timestamp", _TIMESTAMP, *common, str(file.parent)]
            _run([found, "bud" if program == "buildah" else "build", *made], file)
            try:
                _run([found, "push", "--quiet", tag, f"oci:{layout}:built"], file)
            finally:
                subprocess.run([found, "rmi", "-f", tag], capture_output=True, check=False, timeout=600)
            return layout
    raise SetupError(
        "Building a Dockerfile needs buildah or podman, and neither is installed here.",
        hint="Install one, or build the image elsewhere and name it with runtime.build.image.",
    )


def _run(command: list[str], file: Path) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_BUILD_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(f"Building {file.name} took longer than {_BUILD_SECONDS} seconds.") from error
    if done.returncode:
        told = [line for line in (*done.stdout.splitlines(), *done.stderr.splitlines()) if line.strip()]
        raise InvalidInput(f"{file.name} cannot be built: " + "\n  ".join(told[-15:])[-3000:])
