"""How does a folder become a version? Base, packages, runtime, code and weights → one OCI image index (design §1).

The same folder gives the same digest on any machine: see `packing` for the layers, `image` for the config, `lockfile`
for what pins the rest. Layers from below to above: base · system · deps · runtime · manifest · code, so that what
changes most often comes last. For several platforms there is one image each; weights are shared by all.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from berth.authoring import checkpoints, image, lockfile, origins, packages
from berth.authoring.base import BaseImage, Platform
from berth.authoring.checkpoints import BuiltCheckpoint
from berth.authoring.compression import compressor_id
from berth.authoring.image import Image
from berth.authoring.lockfile import Lock
from berth.authoring.manifest import ManifestFile
from berth.authoring.options import Options, checked, platforms_of, wanted
from berth.authoring.origins import Registry
from berth.authoring.packing import Entry, Layer, diff_id_of, file_entry, pack
from berth.authoring.project import Project, collect, documents
from berth.authoring.repository import LocalRepository
from berth.authoring.steps import Report as Report
from berth.authoring.steps import Step as Step
from berth.authoring.steps import timed
from berth.errors import InvalidInput
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor

MANIFEST = "io.xumi.manifest"
REVISION = "io.xumi.revision"
# Container engines mount no more than about 120 (overlayfs); programs on top add some of their own.
MAX_LAYERS = 100


@dataclass(frozen=True)
class Built:
    """A finished version in the local repository; `size` is the sum of its distinct blobs in bytes.

    `layers` are those that were made for it, each once: for the first platform, then what others have of their own.
    """

    reference: str
    descriptor: Descriptor
    size: int
    layers: tuple[Layer, ...]
    checkpoints: tuple[BuiltCheckpoint, ...]
    warnings: tuple[str, ...]
    platforms: tuple[str, ...]
    locked: bool

    @property
    def digest(self) -> str:
        return self.descriptor.digest


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
        InvalidInput: secrets, no such base image, requirements that cannot be installed, or a lock that does not fit.
    """
    options = options or Options()
    root = root.resolve()
    file = checked(root)
    platforms = platforms_of(file, options.platform)
    lock, warnings = _lock(root, file, platforms, options)
    project = collect(root, file.manifest, allow_secrets=options.allow_secrets)
    weights, more = _weights(root, repository, file, project, report)
    shared = _shared_layers(repository, file, project, weights, options, report)
    extra = _bundle(repository, weights, report) if options.bundle else []
    made: list[Layer] = []
    images: list[Image] = []
    bundles: list[Image] = []
    for platform in platforms:
        entry = lock.platforms[str(platform)] if lock else None
        base = origins.bring(
            root,
            repository,
            file.manifest,
            platform=platform,
            base=options.base,
            registry=registry,
            report=report,
            pinned=entry.base if entry else None,
        )
        asked = wanted(root, file, platform, base, options)
        own = packages.layers(repository, asked, entry, report) if asked.any else []
        whole = [*own, *shared]
        _check_count(base, [*whole, *extra])
        images.append(_image(repository, file, base, whole, platform, options))
        if options.bundle:
            bundles.append(_image(repository, file, base, [*whole, *extra], platform, options, bundle=True))
        made += [layer for layer in own if layer not in made]
    index = _index(root, repository, file, [*images, *bundles], weights, options)
    reference = f"{file.manifest.name}:{file.manifest.version}"
    repository.put_version(reference, index)
    size = next(v.size for v in repository.versions() if v.ref_name == reference)
    return Built(
        reference=reference,
        descriptor=index,
        size=size,
        layers=(*made, *shared, *extra),
        checkpoints=tuple(weights),
        warnings=(*project.warnings, *warnings, *more),
        platforms=tuple(str(p) for p in platforms),
        locked=lock is not None,
    )


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


def runtime_version() -> str:
    """The digest of the tar of the in-image runtime: which `xumi` goes into images."""
    return diff_id_of(runtime_entries())


def _lock(
    root: Path, file: ManifestFile, platforms: Sequence[Platform], options: Options
) -> tuple[Lock | None, list[str]]:
    """The lock if it can be used, and what there is to say about it. Raises InvalidInput."""
    found = lockfile.read(root)
    if found is None:
        if options.locked:
            raise InvalidInput("There is no xumi.lock here.", hint="`xumi lock` writes it.")
        return None, []
    now = lockfile.inputs_of(file.manifest, root, base=options.base)
    stale = lockfile.outdated(found, now, [str(p) for p in platforms])
    other = lockfile.differences(found, runtime=runtime_version(), compressor=compressor_id(options.compression))
    if options.locked and (stale or other):
        raise lockfile.refuse([*stale, *other])
    if stale:
        return None, [f"xumi.lock is out of date and was not used: {'; '.join(stale)}. `xumi lock` writes it anew."]
    return found, [f"other bytes than when xumi.lock was written: {text}." for text in other]


def _check_count(base: BaseImage, layers: Sequence[Layer]) -> None:
    count = len(base.layers) + len(layers)
    if count > MAX_LAYERS:
        raise InvalidInput(
            f"The image would have {count} layers ({len(base.layers)} of them the base's); at most {MAX_LAYERS} work"
            " everywhere.",
            hint="Choose a base with fewer layers; with --bundle, put the weights into fewer files.",
        )


def _image(
    repository: LocalRepository,
    file: ManifestFile,
    base: BaseImage,
    layers: Sequence[Layer],
    platform: Platform,
    options: Options,
    *,
    bundle: bool = False,
) -> Image:
    return image.store(
        repository, file.manifest, base, layers, platform=platform, created=options.created, bundle=bundle
    )


def _index(
    root: Path,
    repository: LocalRepository,
    file: ManifestFile,
    images: Sequence[Image],
    weights: Sequence[BuiltCheckpoint],
    options: Options,
) -> Descriptor:
    """Code images first, then the weights, then the images that hold the weights."""
    plain = [i.descriptor for i in images if not i.descriptor.annotations.get(image.BUNDLE)]
    bundled = [i.descriptor for i in images if i.descriptor.annotations.get(image.BUNDLE)]
    notes = {MANIFEST: file.text, **image.descriptive(file.manifest)}
    revision = options.revision or find_revision(root)
    if revision:
        notes[REVISION] = revision
    body = manifests.index([*plain, *(w.descriptor for w in weights), *bundled], annotations=notes)
    return repository.add_blob_bytes(body, media_type=media_types.OCI_INDEX)


def _weights(
    root: Path, repository: LocalRepository, file: ManifestFile, project: Project, report: Report
) -> tuple[list[BuiltCheckpoint], list[str]]:
    built, warnings = [], []
    for checkpoint in file.manifest.checkpoints:
        started = time.monotonic()
        files = [w for w in project.weights if w.checkpoint == checkpoint.name]
        about, notes = documents(root, checkpoint)
        warnings += [note for note in notes if note not in warnings]
        done = checkpoints.build(repository, checkpoint, files, about)
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
    return built, warnings


def _shared_layers(
    repository: LocalRepository,
    file: ManifestFile,
    project: Project,
    weights: Sequence[BuiltCheckpoint],
    options: Options,
    report: Report,
) -> list[Layer]:
    """The layers that are the same on every platform."""
    layers: list[Layer] = []
    if file.manifest.runtime.python is not None:
        with timed(report, layers):
            layers.append(pack(repository, "runtime", runtime_entries(), compression=options.compression))
    with timed(report, layers):
        layers.append(pack(repository, "manifest", _manifest_entries(file, weights), compression=options.compression))
    with timed(report, layers):
        code = [_below(image.CODE_FOLDER, entry) for entry in project.code]
        entries = [Entry(image.CODE_FOLDER, "folder"), *code]
        layers.append(pack(repository, "code", entries, compression=options.compression))
    return layers


def _bundle(repository: LocalRepository, weights: Sequence[BuiltCheckpoint], report: Report) -> list[Layer]:
    """One plain tar layer per weight file, so that an unchanged file is an unchanged layer."""
    layers: list[Layer] = []
    for built in weights:
        mount = built.checkpoint.mount_path.strip("/")
        for file, _ in built.files:
            with timed(report, layers, f"bundle {built.checkpoint.name}/{file.path}"):
                # Weights are data: the executable bit of the author's disk must not change the digest.
                entry = Entry(f"{mount}/{file.path}", "file", source=file.source, size=file.source.stat().st_size)
                layers.append(pack(repository, "weights", [entry], compression="none"))
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
