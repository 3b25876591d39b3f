"""What is to be started? A folder of one's own, a pulled folder, or a version of the local repository.

Each knows its manifest, where its code and weights lie, and how they get into a process or a container.
"""

from __future__ import annotations

import json
import platform
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from berth.authoring import checkpoints, image, project
from berth.authoring.build import MANIFEST
from berth.authoring.containers import Mount
from berth.authoring.manifest import FILE_NAME, Manifest, load, parse
from berth.authoring.repository import LocalRepository
from berth.authoring.unpack import CODE, WEIGHTS, unpack
from berth.errors import InvalidInput, ManifestFileInvalid, ManifestInvalid, ManifestUnknown
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor

ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv7l": "arm",
    "i686": "386",
}


@dataclass(frozen=True)
class Target:
    """A model that can be started.

    Attributes:
        label: how the person named it.
        kind: "folder" (one's own, trusted), "pulled" (made by `xumi pull`), "version" (local repository).
        folder: of xumi.yaml, for the first two.
    """

    label: str
    kind: str
    manifest: Manifest
    folder: Path | None = None
    repository: LocalRepository | None = field(default=None, compare=False)
    descriptor: Descriptor | None = None

    @property
    def trusted(self) -> bool:
        """Whether its code is the person's own."""
        return self.kind == "folder"

    @property
    def version(self) -> str:
        return f"{self.manifest.name}:{self.manifest.version}"


def find(text: str, home: Path) -> Target:
    """The model that a command names: an existing path wins over a reference.

    Args:
        text: a folder, an xumi.yaml, or a reference of the local repository.
        home: the local repository's folder.
    Raises:
        ManifestFileInvalid, ManifestUnknown, ManifestInvalid: there is none, or it is broken.
    """
    path = Path(text)
    if path.exists():
        file = load(path)
        folder = (path if path.is_dir() else path.parent).resolve()
        kind = "pulled" if _is_pulled(folder, file.manifest) else "folder"
        return Target(text, kind, file.manifest, folder=folder, repository=_existing(home))
    if text.startswith((".", "/", "~")) or "/" not in text:
        raise ManifestFileInvalid(
            f"There is no folder {text}.", hint="Name a folder with xumi.yaml, or a version: project/model:1.0.0."
        )
    repository = LocalRepository(home)
    return _version(text, repository, repository.resolve(text))


def _version(text: str, repository: LocalRepository, found: Descriptor) -> Target:
    index = manifests.parse(repository.manifest(found.digest))
    written = index.annotations.get(MANIFEST)
    if written is None:
        raise ManifestInvalid(f"{text} was not made by `xumi build`: it carries no {FILE_NAME}.")
    return Target(text, "version", parse(written).manifest, repository=repository, descriptor=found)


def built(target: Target) -> Target | None:
    """The version of the local repository that a pulled folder came from, if it is there.

    Another build under the same version, told by another xumi.yaml, does not count.
    """
    if target.repository is None:
        return None
    try:
        found = _version(target.version, target.repository, target.repository.resolve(target.version))
    except (ManifestUnknown, ManifestInvalid, ManifestFileInvalid):
        return None
    return found if found.manifest == target.manifest else None


def code_folder(target: Target, scratch: Path) -> Path:
    """The folder with the model's code; unpacked below `scratch` for a version."""
    if target.kind == "pulled" and target.folder is not None:
        return target.folder / CODE
    if target.folder is not None:
        return target.folder
    if target.repository is None or target.descriptor is None:
        raise InvalidInput(f"{target.label} has no code here.")
    unpacked = unpack(target.descriptor.digest, scratch / "version", target.repository, force=True, weights=False)
    return unpacked.destination / CODE


def weight_files(target: Target) -> Iterator[tuple[str, str, Path]]:
    """(checkpoint, path within it, where it lies) of every weight file.

    Raises:
        ManifestFileInvalid, BlobUnknown, IntegrityError: one is missing or has changed since it was added.
    """
    if target.kind == "folder" and target.folder is not None:
        for checkpoint in target.manifest.checkpoints:
            for file in project.find_weights(target.folder, checkpoint):
                yield checkpoint.name, file.path, file.source.resolve()
    elif target.folder is not None:
        for checkpoint in target.manifest.checkpoints:
            below = target.folder / WEIGHTS / checkpoint.name
            for path in sorted(p for p in below.rglob("*") if p.is_file()):
                yield checkpoint.name, path.relative_to(below).as_posix(), path.resolve()
    elif target.repository is not None and target.descriptor is not None:
        yield from _stored_weights(target.repository, target.descriptor)


def _stored_weights(repository: LocalRepository, version: Descriptor) -> Iterator[tuple[str, str, Path]]:
    for child in manifests.parse(repository.manifest(version.digest)).children():
        if child.media_type not in media_types.MANIFEST_TYPES:
            continue
        parsed = manifests.parse(repository.manifest(child.digest))
        if parsed.artifact_type != media_types.MODELPACK_ARTIFACT:
            continue
        name = parsed.annotations.get(checkpoints.NAME, "")
        for layer in checkpoints.weights_of(parsed.layers):
            # Opening checks that a file that is only referred to still has its content.
            with repository.open_blob(layer.digest) as stream:
                yield name, checkpoints.file_path(layer), Path(str(stream.name)).resolve()


def link_weights(target: Target, scratch: Path) -> Path:
    """A folder with a link to every weight file, laid out as XUMI_WEIGHTS_DIR has it: <checkpoint>/<path>."""
    folder = scratch / WEIGHTS
    folder.mkdir(exist_ok=True)
    for checkpoint, path, source in weight_files(target):
        link = folder / checkpoint / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    return folder


def write_manifest(target: Target, scratch: Path) -> Path:
    """The manifest as the runtime reads it."""
    file = scratch / "manifest.json"
    file.write_text(json.dumps(target.manifest.to_json()), encoding="utf-8")
    return file


def weight_mounts(target: Target) -> list[Mount]:
    """The mounts that put every weight file at its mount path, read-only.

    Raises:
        InvalidInput: a file that the container's user could not read.
    """
    mounts = {c.name: c.mount_path for c in target.manifest.checkpoints}
    found: list[Mount] = []
    for checkpoint, path, source in weight_files(target):
        if not source.stat().st_mode & stat.S_IROTH:
            raise InvalidInput(
                f"{source} is for its owner only, and the container runs as user {target.manifest.runtime.user}.",
                hint=f"chmod o+r {source}",
            )
        if checkpoint in mounts:
            found.append(Mount(source, f"{mounts[checkpoint]}/{path}"))
    return found


def image_of(target: Target, *, bundle: bool = False) -> tuple[Descriptor, bool]:
    """The image of a version for this machine, and whether it holds the weights (as `bundle` prefers).

    Raises:
        InvalidInput: there is none for this machine's architecture.
    """
    if target.repository is None or target.descriptor is None:
        raise InvalidInput(f"{target.label} has no image here.")
    index = manifests.parse(target.repository.manifest(target.descriptor.digest))
    here = architecture()
    offered: list[str] = []
    fitting: list[tuple[Descriptor, bool]] = []
    for child in index.children():
        given = (child.platform or {}).get("architecture", "unknown")
        if child.media_type not in media_types.MANIFEST_TYPES or given == "unknown":
            continue
        offered.append(str(given))
        if given == here:
            fitting.append((child, child.annotations.get(image.BUNDLE) == "true"))
    if not fitting:
        there = ", ".join(sorted(set(offered))) or "none"
        raise InvalidInput(
            f"{target.label} has no image for {here}; it has: {there}.", hint="Build it for this platform."
        )
    return min(fitting, key=lambda pair: pair[1] is not bundle)


def architecture() -> str:
    """This machine's architecture, as OCI calls it."""
    machine = platform.machine().lower()
    return ARCHITECTURES.get(machine, machine)


def _is_pulled(folder: Path, manifest: Manifest) -> bool:
    """Whether `xumi pull` made the folder, so that the code in it is somebody else's.

    Then the entry's module lies in code/ and not beside xumi.yaml; files added since, or weights left out, do not make
    it one's own. Where no module tells, it is pulled if there is nothing but what `xumi pull` writes.
    """
    if not (folder / CODE).is_dir():
        return False
    if manifest.entry.python is not None:
        module = manifest.entry.python.partition(":")[0].replace(".", "/")
        here, below = (_has_module(place, module) for place in (folder, folder / CODE))
        if here or below:
            return below and not here
    return {p.name for p in folder.iterdir()} <= {FILE_NAME, CODE, WEIGHTS}


def _has_module(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def _existing(home: Path) -> LocalRepository | None:
    """The local repository if there is one; looking at a folder makes none."""
    return LocalRepository(home) if (home / "oci").is_dir() else None
