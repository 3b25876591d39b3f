"""How does a version become a folder again? DIR/xumi.yaml, DIR/code/**, DIR/weights/<checkpoint>/** (`xumi pull`).

The files are those that were built, to the byte. Everything is written beside the destination first and appears
there in one rename, so a failure leaves nothing half-written; every blob's digest is checked on the way.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from berth.authoring import checkpoints, image, safe_tar
from berth.authoring.build import MANIFEST
from berth.authoring.hashing import BUFFER_BYTES
from berth.authoring.manifest import FILE_NAME
from berth.authoring.packing import LAYER_KIND, open_layer
from berth.authoring.safe_tar import Limits, folded, name_problem
from berth.errors import Conflict, IntegrityError, ManifestInvalid
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor

CODE = "code"
WEIGHTS = "weights"


class Source(Protocol):
    """Where a version's content is read; LocalRepository is one."""

    def manifest(self, digest: str) -> bytes: ...

    def open_blob(self, digest: str) -> BinaryIO: ...


@dataclass(frozen=True)
class Unpacked:
    """What was written: names relative to the destination, and bytes of weights."""

    destination: Path
    code: tuple[str, ...]
    weights: tuple[str, ...]
    weight_bytes: int


def unpack(
    root: str,
    destination: Path,
    source: Source,
    *,
    force: bool = False,
    weights: bool = True,
    limits: Limits | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Unpacked:
    """Writes a version into a new folder.

    Args:
        root: digest of the version's image index.
        destination: the folder to make; its parent must exist.
        source: where manifests and blobs are read.
        force: replace a destination that exists.
        weights: False leaves the weights out.
        limits: the most that a code layer may unpack to.
        advance: called with the number of bytes read since the last call.
    Raises:
        Conflict: the destination exists and is not empty.
        ManifestInvalid: the digest is no version made by `xumi build`.
        IntegrityError: content without its digest, or an archive that tries to leave its folder.
    """
    if not force and destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise Conflict(f"{destination} exists already.", hint="Name another folder, or use --force to replace it.")
    destination = destination.absolute()
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
    try:
        staging.chmod(0o755)
        found = _Writer(staging, source, limits or Limits(), advance).write(root, weights=weights)
        _publish(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Unpacked(destination, *found)


def _publish(staging: Path, destination: Path) -> None:
    if destination.is_symlink() or destination.is_file():
        destination.unlink()
    if not destination.exists():
        os.rename(staging, destination)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".old", dir=destination.parent))
    os.rename(destination, aside / "old")
    try:
        os.rename(staging, destination)
    except OSError:
        os.rename(aside / "old", destination)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class _Writer:
    def __init__(self, folder: Path, source: Source, limits: Limits, advance: Callable[[int], None]) -> None:
        self.folder = folder
        self.source = source
        self.limits = limits
        self.advance = advance
        self.weight_names: dict[str, str] = {}

    def write(self, root: str, *, weights: bool) -> tuple[tuple[str, ...], tuple[str, ...], int]:
        index = self._manifest(root)
        text = index.annotations.get(MANIFEST)
        if index.kind != "index" or text is None:
            raise ManifestInvalid(
                f"{root} was not made by `xumi build`: it carries no xumi.yaml.",
                hint="Copy it with an OCI client such as skopeo instead.",
            )
        (self.folder / FILE_NAME).write_bytes(text.encode("utf-8"))
        code: list[str] = []
        written: list[str] = []
        size = 0
        (self.folder / CODE).mkdir()
        has_code = False
        for child in index.children():
            if child.media_type not in media_types.MANIFEST_TYPES:
                continue
            artifact_type = self._manifest(child.digest).artifact_type
            if artifact_type == media_types.MODELPACK_ARTIFACT:
                if weights:
                    names, count = self._checkpoint(child)
                    written += names
                    size += count
            elif artifact_type is None and not has_code and child.annotations.get(image.BUNDLE) != "true":
                code += self._code(child)
                has_code = True
        return tuple(code), tuple(written), size

    def _manifest(self, digest: str) -> manifests.Manifest:
        body = self.source.manifest(digest)
        if digests.of_bytes(body, digests.parse(digest).algorithm) != digest:
            raise IntegrityError(f"The manifest {digest} does not have its digest.")
        return manifests.parse(body)

    def _code(self, child: Descriptor) -> list[str]:
        layers = [d for d in self._manifest(child.digest).layers if d.annotations.get(LAYER_KIND) == CODE]
        if len(layers) > 1:
            raise ManifestInvalid(f"The image {child.digest} has {len(layers)} code layers; one is expected.")
        names: list[str] = []
        for layer in layers:
            with self.source.open_blob(layer.digest) as blob:
                checked = _Checked(blob, layer, self.advance)
                # The code layer holds nothing but the code's folder.
                names += safe_tar.extract(
                    open_layer(checked), self.folder / CODE, below=image.CODE_FOLDER, limits=self.limits
                )
                checked.finish()
        return names

    def _checkpoint(self, child: Descriptor) -> tuple[list[str], int]:
        manifest = self._manifest(child.digest)
        name = manifest.annotations.get(checkpoints.NAME) or child.annotations.get(checkpoints.NAME) or ""
        if "/" in name or name in (".", "..") or name_problem(name):
            raise IntegrityError(f"The checkpoint name {name!r} is not safe as a folder's name.")
        root = self.folder / WEIGHTS / name if name else self.folder / WEIGHTS
        written = []
        weights = checkpoints.weights_of(manifest.layers)
        for layer in weights:
            if layer.media_type != media_types.MODELPACK_WEIGHT_RAW:
                raise ManifestInvalid(f"The checkpoint {child.digest} has a layer of type {layer.media_type}.")
            path = checkpoints.file_path(layer)
            target = _inside(root, path)
            self._weight(layer, target)
            written.append(target.relative_to(self.folder).as_posix())
        return written, sum(layer.size for layer in weights)

    def _weight(self, layer: Descriptor, target: Path) -> None:
        name = target.relative_to(self.folder).as_posix()
        other = self.weight_names.setdefault("/".join(map(folded, name.split("/"))), name)
        if other != name or target.exists():
            raise IntegrityError(f"The weight files {other!r} and {name!r} are one name on some systems.")
        _make_folders(self.folder, target.parent)
        with self.source.open_blob(layer.digest) as blob, target.open("xb") as out:
            checked = _Checked(blob, layer, self.advance)
            while piece := checked.read(BUFFER_BYTES):
                out.write(piece)
            checked.finish()
            out.flush()
            os.fsync(out.fileno())
        target.chmod(0o644)


class _Checked:
    """Reads a blob and holds it to its descriptor."""

    def __init__(self, blob: BinaryIO, descriptor: Descriptor, advance: Callable[[int], None]) -> None:
        self._blob, self._descriptor, self._advance = blob, descriptor, advance
        self._algorithm = digests.parse(descriptor.digest).algorithm
        self._hasher = digests.new_hasher(self._algorithm)
        self._left = descriptor.size

    def read(self, count: int = -1) -> bytes:
        piece = self._blob.read(count if count >= 0 else BUFFER_BYTES)
        self._left -= len(piece)
        if self._left < 0:
            raise IntegrityError(f"{self._descriptor.digest} is longer than {self._descriptor.size} bytes.")
        self._hasher.update(piece)
        if piece:
            self._advance(len(piece))
        return piece

    def finish(self) -> None:
        """Reads what is left and compares. Raises IntegrityError."""
        while self.read(BUFFER_BYTES):
            pass
        found = f"{self._algorithm}:{self._hasher.hexdigest()}"
        if self._left or found != self._descriptor.digest:
            raise IntegrityError(f"The content of {self._descriptor.digest} has the digest {found}.")


def _inside(root: Path, path: str) -> Path:
    """`root`/`path`; refuses every path that is not plainly below it."""
    parts = path.split("/")
    if path.startswith("/") or any(p in ("", ".", "..") for p in parts) or len(path) > 4096:
        raise IntegrityError(f"The weight file {path!r} leaves its folder.")
    problem = next((found for p in parts if (found := name_problem(p))), None)
    if problem:
        raise IntegrityError(f"The weight file {path!r} {problem}.")
    return root.joinpath(*parts)


def _make_folders(top: Path, folder: Path) -> None:
    """Makes the folders one by one; refuses a name that differs only in case from one that exists."""
    here = top
    for part in folder.relative_to(top).parts:
        if not (here / part).is_dir():
            taken = [p.name for p in here.iterdir() if folded(p.name) == folded(part)]
            if taken:
                raise IntegrityError(f"{part!r} and {taken[0]!r} are one name on some systems.")
            (here / part).mkdir()
        here = here / part
