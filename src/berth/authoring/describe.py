"""What is in a version? Facts about a stored version for `xumi show`."""

from __future__ import annotations

from typing import Any

from berth.authoring import checkpoints, image
from berth.authoring.build import MANIFEST, REVISION
from berth.authoring.manifest import parse
from berth.authoring.packing import LAYER_KIND
from berth.authoring.repository import LocalRepository
from berth.errors import ManifestFileInvalid
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor
from berth.oci.layout import REF_NAME

_TITLES = "org.opencontainers.image."


def describe(repository: LocalRepository, ref: str) -> dict[str, Any]:
    """The version's facts as JSON types; sizes in bytes. Raises ManifestUnknown, IntegrityError."""
    found = repository.resolve(ref)
    index = manifests.parse(repository.manifest(found.digest))
    images: list[dict[str, Any]] = []
    weights: list[dict[str, Any]] = []
    for child in index.children() or (found,):
        if child.media_type not in media_types.MANIFEST_TYPES:
            continue
        parsed = manifests.parse(repository.manifest(child.digest))
        if parsed.artifact_type == media_types.MODELPACK_ARTIFACT:
            weights.append(_checkpoint(repository, child, parsed))
        elif parsed.artifact_type is None:
            images.append(_image(child, parsed))
    sizes = {found.digest: found.size}
    for child in index.children() or (found,):
        sizes[child.digest] = child.size
        sizes |= {d.digest: d.size for d in manifests.parse(repository.manifest(child.digest)).blobs()}
    return {
        "reference": found.annotations.get(REF_NAME),
        "digest": found.digest,
        "size": sum(sizes.values()),
        **{
            key: index.annotations.get(_TITLES + key)
            for key in ("title", "version", "description", "licenses", "authors")
        },
        "revision": index.annotations.get(REVISION),
        "images": images,
        "checkpoints": weights,
        "benchmarks": _benchmarks(index.annotations.get(MANIFEST)),
        "manifest_text": index.annotations.get(MANIFEST),
    }


def _benchmarks(text: str | None) -> list[dict[str, Any]]:
    """The benchmarks that it declares; none where its manifest cannot be read."""
    try:
        return list(parse(text).manifest.to_json().get("benchmarks", [])) if text else []
    except ManifestFileInvalid:
        return []


def _image(child: Descriptor, parsed: manifests.Manifest) -> dict[str, Any]:
    platform = child.platform or {}
    return {
        "digest": child.digest,
        "platform": f"{platform.get('os', '?')}/{platform.get('architecture', '?')}",
        "bundle": child.annotations.get(image.BUNDLE) == "true",
        "base_digest": parsed.annotations.get(f"{_TITLES}base.digest"),
        "base_name": parsed.annotations.get(f"{_TITLES}base.name"),
        "layers": [
            {"kind": layer.annotations.get(LAYER_KIND), "digest": layer.digest, "size": layer.size}
            for layer in parsed.layers
        ],
    }


def _checkpoint(repository: LocalRepository, child: Descriptor, parsed: manifests.Manifest) -> dict[str, Any]:
    return {
        "name": parsed.annotations.get(checkpoints.NAME),
        "mount": parsed.annotations.get(checkpoints.MOUNT),
        "digest": child.digest,
        "size": sum(layer.size for layer in checkpoints.weights_of(parsed.layers)),
        "documents": [checkpoints.file_path(layer) for layer in checkpoints.documents_of(parsed.layers)],
        "files": [
            {
                "path": checkpoints.file_path(layer),
                "digest": layer.digest,
                "size": layer.size,
                "present": repository.has_blob(layer.digest),
            }
            for layer in checkpoints.weights_of(parsed.layers)
        ],
    }
