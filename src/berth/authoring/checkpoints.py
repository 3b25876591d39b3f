"""How do weights become a checkpoint? A CNCF ModelPack manifest with one raw layer per file (model-spec).

README and licence go along as layers of documents, so that registries which know ModelPack can show them (Harbor's
tabs). Else it says nothing about the model version around it: versions with the same weights and the same documents
share one checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from berth.authoring.hashing import worker_count
from berth.authoring.manifest import Checkpoint
from berth.authoring.packing import file_entry, tar_bytes
from berth.authoring.project import Document, WeightFile
from berth.authoring.repository import LocalRepository
from berth.errors import ManifestInvalid
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor

FILE_PATH = "org.cncf.model.filepath"
FILE_METADATA = "org.cncf.model.file.metadata+json"
TITLE = "org.opencontainers.image.title"
NAME = "io.xumi.checkpoint"
MOUNT = "io.xumi.mount"
NO_PLATFORM: Mapping[str, Any] = {"architecture": "unknown", "os": "unknown"}


@dataclass(frozen=True)
class BuiltCheckpoint:
    """A stored checkpoint manifest and its files' descriptors, in the order of their paths."""

    checkpoint: Checkpoint
    descriptor: Descriptor
    files: tuple[tuple[WeightFile, Descriptor], ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(d.size for _, d in self.files)


def build(
    repository: LocalRepository,
    checkpoint: Checkpoint,
    files: Sequence[WeightFile],
    documents: Sequence[Document] = (),
) -> BuiltCheckpoint:
    """Hashes the files (in parallel; nothing is copied) and stores the manifest that names them."""
    with ThreadPoolExecutor(worker_count(len(files))) as pool:
        weights = list(pool.map(lambda file: _layer(repository, file), files))
    # A tar is its own diff id: nothing here is compressed.
    layers = [*weights, *(_document(repository, document) for document in documents)]
    descriptor: dict[str, Any] = {"name": checkpoint.name}
    config: dict[str, Any] = {"format": checkpoint.format} if checkpoint.format else {}
    body = manifests.dumps(
        {
            "descriptor": descriptor,
            "config": config,
            "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
        }
    )
    stored = repository.add_blob_bytes(body, media_type=media_types.MODELPACK_CONFIG)
    manifest = manifests.image(
        config=stored,
        layers=layers,
        artifact_type=media_types.MODELPACK_ARTIFACT,
        annotations={NAME: checkpoint.name, MOUNT: checkpoint.mount_path},
    )
    found = repository.add_blob_bytes(manifest, media_type=media_types.OCI_MANIFEST)
    named = Descriptor(
        media_type=found.media_type,
        digest=found.digest,
        size=found.size,
        # No artifactType here: older skopeo and podman drop it when they copy an index, and its digest would change.
        annotations={NAME: checkpoint.name},
        platform=NO_PLATFORM,
    )
    return BuiltCheckpoint(checkpoint, named, tuple(zip(files, weights, strict=True)))


def _layer(repository: LocalRepository, file: WeightFile) -> Descriptor:
    plain = repository.add_blob_file(file.source, media_type=media_types.MODELPACK_WEIGHT_RAW)
    return Descriptor(
        media_type=plain.media_type,
        digest=plain.digest,
        size=plain.size,
        annotations={FILE_PATH: file.path, FILE_METADATA: _metadata(file.path, plain.size), TITLE: file.path},
    )


def _document(repository: LocalRepository, document: Document) -> Descriptor:
    """One tar per document: the form that every Harbor since 2.13 reads, where raw ones came later."""
    tar = b"".join(tar_bytes([file_entry(document.name, document.content)]))
    stored = repository.add_blob_bytes(tar, media_type=media_types.MODELPACK_DOC_TAR)
    notes = {FILE_PATH: document.name, FILE_METADATA: _metadata(document.name, len(document.content))}
    return Descriptor(media_type=stored.media_type, digest=stored.digest, size=stored.size, annotations=notes)


def _metadata(name: str, size: int) -> str:
    return json.dumps(
        {
            "name": name,
            "mode": 0o644,
            "uid": 0,
            "gid": 0,
            "size": size,
            "mtime": "1970-01-01T00:00:00Z",
            "typeflag": ord("0"),
        },
        separators=(",", ":"),
    )


def weights_of(layers: Iterable[Descriptor]) -> list[Descriptor]:
    """The layers of a checkpoint that are mounted as its files: all but its documents."""
    return [layer for layer in layers if not layer.media_type.startswith(media_types.MODELPACK_DOC_PREFIX)]


def documents_of(layers: Iterable[Descriptor]) -> list[Descriptor]:
    """The layers of a checkpoint that only people read."""
    return [layer for layer in layers if layer.media_type.startswith(media_types.MODELPACK_DOC_PREFIX)]


def file_path(layer: Descriptor) -> str:
    """Where the file of a raw layer lies within its checkpoint. Raises ManifestInvalid."""
    path = layer.annotations.get(FILE_PATH) or layer.annotations.get(TITLE)
    if not path:
        raise ManifestInvalid(f"The checkpoint layer {layer.digest} has no {FILE_PATH}.")
    return path
