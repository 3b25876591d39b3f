"""How do weights become a checkpoint? A CNCF ModelPack manifest with one raw layer per file (model-spec).

It says nothing about the model version around it, so versions with the same weights share one checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from berth.authoring.hashing import worker_count
from berth.authoring.manifest import Checkpoint
from berth.authoring.project import WeightFile
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


def build(repository: LocalRepository, checkpoint: Checkpoint, files: Sequence[WeightFile]) -> BuiltCheckpoint:
    """Hashes the files (in parallel; nothing is copied) and stores the manifest that names them."""
    with ThreadPoolExecutor(worker_count(len(files))) as pool:
        layers = list(pool.map(lambda file: _layer(repository, file), files))
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
    return BuiltCheckpoint(checkpoint, named, tuple(zip(files, layers, strict=True)))


def _layer(repository: LocalRepository, file: WeightFile) -> Descriptor:
    plain = repository.add_blob_file(file.source, media_type=media_types.MODELPACK_WEIGHT_RAW)
    metadata = {
        "name": file.path,
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": plain.size,
        "mtime": "1970-01-01T00:00:00Z",
        "typeflag": ord("0"),
    }
    return Descriptor(
        media_type=plain.media_type,
        digest=plain.digest,
        size=plain.size,
        annotations={
            FILE_PATH: file.path,
            FILE_METADATA: json.dumps(metadata, separators=(",", ":")),
            TITLE: file.path,
        },
    )


def file_path(layer: Descriptor) -> str:
    """Where the file of a raw layer lies within its checkpoint. Raises ManifestInvalid."""
    path = layer.annotations.get(FILE_PATH) or layer.annotations.get(TITLE)
    if not path:
        raise ManifestInvalid(f"The checkpoint layer {layer.digest} has no {FILE_PATH}.")
    return path
