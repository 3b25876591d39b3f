"""How does a folder become a version? Base, packages, runtime, code and weights → one OCI image index (design §1).

The same folder gives the same digest on any machine: see `packing` for the layers, `image` for the config.
Layers from below to above: base · deps · runtime · manifest · code, so that what changes most often comes last.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from berth.authoring import checkpoints, image
from berth.authoring.base import BaseImage, BaseSource, Platform, open_base
from berth.authoring.checkpoints import BuiltCheckpoint
from berth.authoring.manifest import ManifestFile, load
from berth.authoring.packing import Entry, Layer, file_entry, pack
from berth.authoring.project import Project, check_entry, collect
from berth.authoring.repository import LocalRepository
from berth.authoring.requirements import Installer, Target, installed
from berth.errors import InvalidInput, ManifestFileInvalid
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor

MANIFEST = "io.xumi.manifest"
REVISION = "io.xumi.revision"


@dataclass(frozen=True)
class Options:
    """What a build may be told.

    Attributes:
        base: instead of `runtime.base`.
        platform: "linux/amd64"; default: the first of hardware.architectures.
        revision: source revision to record; default: the git commit when the folder is clean, else none.
        bundle: also make an image that holds the weights.
        allow_secrets: pack files that look like secrets.
        created: seconds since 1970 that the image shows (SOURCE_DATE_EPOCH).
        installer: which program installs the requirements.
    """

    base: str | None = None
    platform: str | None = None
    revision: str | None = None
    bundle: bool = False
    allow_secrets: bool = False
    created: int = 0
    installer: Installer = "auto"


@dataclass(frozen=True)
class Step:
    """One finished part of a build, for the person who waits. `note` says when nothing had to be done."""

    name: str
    size: int
    seconds: float
    digest: str = ""
    note: str = ""


@dataclass(frozen=True)
class Built:
    """A finished version in the local repository; `size` is the sum of its distinct blobs in bytes."""

    reference: str
    descriptor: Descriptor
    size: int
    layers: tuple[Layer, ...]
    checkpoints: tuple[BuiltCheckpoint, ...]
    warnings: tuple[str, ...]

    @property
    def digest(self) -> str:
        return self.descriptor.digest


Report = Callable[[Step], None]
Registry = Callable[[str], tuple[BaseSource, str]]


def build(
    root: Path,
    repository: LocalRepository,
    *,
    options: Options | None = None,
    registry: Registry | None = None,
    report: Report = lambda _: None,
) -> Built:
    """Builds the model in the folder `root` and stores it under its name and version.

    Args:
        root: folder with xumi.yaml.
        repository: where the version goes.
        options: see Options.
        registry: how base images in registries are reached: reference → (source, tag or digest).
        report: called after each step.
    Raises:
        ManifestFileInvalid: xumi.yaml, or what it names, is wrong.
        InvalidInput: secrets, no such base image, or requirements that cannot be installed.
    """
    options = options or Options()
    root = root.resolve()
    file = load(root)
    manifest = file.manifest
    problems = check_entry(root, manifest)
    if problems:
        raise ManifestFileInvalid("\n".join(problems), hint="Change xumi.yaml or the files.")
    platform = _platform(file, options)
    project = collect(root, manifest, allow_secrets=options.allow_secrets)
    base = _base(root, repository, file, platform=platform, options=options, registry=registry, report=report)
    weights = _weights(repository, file, project, report)
    layers = _layers(root, repository, file, project, weights, platform=platform, options=options, report=report)
    code = image.store(repository, manifest, base, layers, platform=platform, created=options.created)
    children = [code.descriptor, *(w.descriptor for w in weights)]
    if options.bundle:
        extra = _bundle(repository, weights, report)
        whole = [*layers, *extra]
        bundled = image.store(
            repository, manifest, base, whole, platform=platform, created=options.created, bundle=True
        )
        children.append(bundled.descriptor)
        layers = [*layers, *extra]
    notes = {MANIFEST: file.text, **image.descriptive(manifest)}
    revision = options.revision or find_revision(root)
    if revision:
        notes[REVISION] = revision
    body = manifests.index(children, annotations=notes)
    index = repository.add_blob_bytes(body, media_type=media_types.OCI_INDEX)
    reference = f"{manifest.name}:{manifest.version}"
    repository.put_version(reference, index)
    size = next(v.size for v in repository.versions() if v.ref_name == reference)
    return Built(reference, index, size, tuple(layers), tuple(weights), project.warnings)


def find_revision(root: Path) -> str | None:
    """The git commit of the folder, if all of its files are committed and unchanged; else None."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "xumi.yaml") is None or git("status", "--porcelain", "--", ".") != "":
        return None
    return git("rev-parse", "HEAD")


def _platform(file: ManifestFile, options: Options) -> Platform:
    architectures = file.manifest.hardware.architectures
    platform = Platform.parse(options.platform or f"linux/{architectures[0]}")
    if platform.architecture not in architectures:
        raise InvalidInput(
            f"The manifest does not name the architecture {platform.architecture}.",
            hint=f"Add it to hardware.architectures, or build for {', '.join(architectures)}.",
        )
    return platform


def _base(
    root: Path,
    repository: LocalRepository,
    file: ManifestFile,
    *,
    platform: Platform,
    options: Options,
    registry: Registry | None,
    report: Report,
) -> BaseImage:
    """Finds the base and brings those of its layers that are not here yet into the repository."""
    started = time.monotonic()
    base = open_base(options.base or file.manifest.runtime.base, root, platform=platform, registry=registry)
    copied = 0
    for layer in base.layers:
        if not repository.layout.has(layer.digest):
            with base.source.open(layer.digest) as stream:
                repository.add_blob_stream(stream, expected=layer.digest)
            copied += 1
    report(
        Step(
            name="base",
            size=sum(layer.size for layer in base.layers),
            seconds=time.monotonic() - started,
            digest=base.digest,
            note="" if copied else "already here",
        )
    )
    return base


def _weights(
    repository: LocalRepository, file: ManifestFile, project: Project, report: Report
) -> list[BuiltCheckpoint]:
    built = []
    for checkpoint in file.manifest.checkpoints:
        started = time.monotonic()
        files = [w for w in project.weights if w.checkpoint == checkpoint.name]
        done = checkpoints.build(repository, checkpoint, files)
        built.append(done)
        report(
            Step(
                name=f"checkpoint {checkpoint.name}",
                size=done.size,
                seconds=time.monotonic() - started,
                digest=done.descriptor.digest,
                note="1 file" if len(files) == 1 else f"{len(files)} files",
            )
        )
    return built


def _layers(
    root: Path,
    repository: LocalRepository,
    file: ManifestFile,
    project: Project,
    weights: Sequence[BuiltCheckpoint],
    *,
    platform: Platform,
    options: Options,
    report: Report,
) -> list[Layer]:
    manifest = file.manifest
    layers: list[Layer] = []
    if manifest.runtime.python is not None:
        if manifest.runtime.requirements:
            target = Target(manifest.runtime.python, platform)
            packages = installed(manifest.runtime.requirements, root, target, installer=options.installer)
            with _timed(report, layers), packages as entries:
                layers.append(pack(repository, "deps", entries))
        with _timed(report, layers):
            layers.append(pack(repository, "runtime", list(runtime_entries())))
    with _timed(report, layers):
        layers.append(pack(repository, "manifest", list(_manifest_entries(file, weights))))
    with _timed(report, layers):
        code = [_below(image.CODE_FOLDER, entry) for entry in project.code]
        layers.append(pack(repository, "code", [Entry(image.CODE_FOLDER, "folder"), *code]))
    return layers


def _bundle(repository: LocalRepository, weights: Sequence[BuiltCheckpoint], report: Report) -> list[Layer]:
    """One plain tar layer per weight file, so that an unchanged file is an unchanged layer."""
    layers: list[Layer] = []
    for built in weights:
        mount = built.checkpoint.mount_path.strip("/")
        for file, _ in built.files:
            with _timed(report, layers, f"bundle {built.checkpoint.name}/{file.path}"):
                # Weights are data: the executable bit of the author's disk must not change the digest.
                entry = Entry(f"{mount}/{file.path}", "file", source=file.source, size=file.source.stat().st_size)
                layers.append(pack(repository, "weights", [entry], compress=False))
    return layers


def runtime_entries() -> Iterator[Entry]:
    """The package `xumi` as it goes into every image."""

    def walk(folder: Traversable, prefix: str) -> Iterator[Entry]:
        for item in folder.iterdir():
            name = f"{prefix}/{item.name}"
            if item.is_dir():
                if item.name != "__pycache__" and not item.name.startswith("."):
                    yield from walk(item, name)
            elif item.name.endswith((".py", ".typed")):
                yield file_entry(name, item.read_bytes())

    yield from walk(resources.files("xumi"), f"{image.RUNTIME_FOLDER}/xumi")


def _manifest_entries(file: ManifestFile, weights: Sequence[BuiltCheckpoint]) -> Iterator[Entry]:
    """What the runtime reads, and the folders that weights are mounted at or fetched into."""
    listed = [
        {
            "checkpoint": built.checkpoint.name,
            "mount": built.checkpoint.mount_path,
            "path": weight.path,
            "digest": descriptor.digest,
            "size": descriptor.size,
        }
        for built in weights
        for weight, descriptor in built.files
    ]
    yield file_entry("opt/xumi/manifest.json", manifests.dumps(file.manifest.to_json()))
    yield file_entry("opt/xumi/weights.json", manifests.dumps({"files": listed}))
    for built in weights:
        # The container's user owns them, so that the runtime can fetch weights into them.
        yield Entry(built.checkpoint.mount_path.strip("/"), "folder", owner=file.manifest.runtime.user)


def _below(folder: str, entry: Entry) -> Entry:
    return Entry(
        name=f"{folder}/{entry.name}",
        kind=entry.kind,
        source=entry.source,
        size=entry.size,
        executable=entry.executable,
        target=entry.target,
    )


@contextmanager
def _timed(report: Report, layers: Sequence[Layer], name: str | None = None) -> Iterator[None]:
    """Reports the layer that the block appends, with the time the block took."""
    started = time.monotonic()
    yield
    layer = layers[-1]
    report(
        Step(
            name=name or layer.kind,
            size=layer.descriptor.size,
            seconds=time.monotonic() - started,
            digest=layer.descriptor.digest,
            note="unchanged" if layer.reused else "",
        )
    )
