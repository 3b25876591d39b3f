"""What does a manifest say, and may it be believed? (OCI image-spec manifest.md, image-index.md; Docker schema 2.)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from berth.errors import ManifestInvalid
from berth.oci import documents, media_types
from berth.oci.descriptor import Descriptor, from_json, media_type, string_map
from berth.oci.documents import check_spelling, loads

Kind = Literal["image", "index"]
MAX_BYTES = documents.MAX_BYTES

_FIELDS = (
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "fsLayers",
)
_GO_ESCAPES = tuple((c.encode(), f"\\u{ord(c):04x}".encode()) for c in "<>&\u2028\u2029")
_SCHEMA1_HINT = "Push it again with a current client (Docker 1.10 or newer writes schema 2)."


@dataclass(frozen=True, slots=True)
class Manifest:
    """One parsed manifest; `body` holds the exact bytes, which alone have the digest."""

    media_type: str
    kind: Kind
    artifact_type: str | None
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    annotations: Mapping[str, str]
    body: bytes
    size: int

    @property
    def referrer_artifact_type(self) -> str | None:
        """What the referrers API shows: the own artifactType, else for an image its config's media type."""
        if self.artifact_type is not None:
            return self.artifact_type
        return self.config.media_type if self.config is not None else None

    def children(self) -> tuple[Descriptor, ...]:
        """The manifests an index names; empty for an image."""
        return self.manifests

    def blobs(self) -> tuple[Descriptor, ...]:
        """The blobs an image names, config first; empty for an index."""
        return (self.config, *self.layers) if self.config is not None else ()


def parse(body: bytes, content_type: str | None = None, *, max_bytes: int = MAX_BYTES) -> Manifest:
    """Read an image manifest or index strictly.

    Args:
        body: the exact bytes.
        content_type: the HTTP Content-Type or the descriptor's media type; parameters are ignored.
        max_bytes: refuse larger bodies.
    Raises:
        ManifestInvalid: whatever is wrong with it.
    """
    value = loads(body, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise ManifestInvalid("The manifest is not a JSON object.")
    check_spelling(value, _FIELDS, "The manifest")
    declared = _declared_type(value, content_type)
    kind = _kind(value, declared)
    artifact_type = value.get("artifactType")
    subject = value.get("subject")
    return Manifest(
        media_type=declared or (media_types.OCI_INDEX if kind == "index" else media_types.OCI_MANIFEST),
        kind=kind,
        artifact_type=None if artifact_type in (None, "") else media_type(artifact_type, "artifactType"),
        config=from_json(value["config"], what="config") if kind == "image" else None,
        layers=_descriptors(value, "layers") if kind == "image" else (),
        manifests=_descriptors(value, "manifests") if kind == "index" else (),
        subject=None if subject is None else from_json(subject, what="subject"),
        annotations=string_map(value.get("annotations"), "annotations"),
        body=body,
        size=len(body),
    )


def dumps(value: object) -> bytes:
    """The canonical bytes of what we write: UTF-8 JSON with sorted keys and no spaces."""
    return documents.dumps(value)


def image(
    *,
    config: Descriptor,
    layers: Iterable[Descriptor],
    artifact_type: str | None = None,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
    media_type: str = media_types.OCI_MANIFEST,
) -> bytes:
    """The canonical bytes of an image manifest."""
    value: dict[str, Any] = {"config": config.to_json(), "layers": [layer.to_json() for layer in layers]}
    return _finish(value, media_type, artifact_type, subject, annotations)


def index(
    manifests: Iterable[Descriptor],
    *,
    artifact_type: str | None = None,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
    media_type: str = media_types.OCI_INDEX,
) -> bytes:
    """The canonical bytes of an image index, children in the given order."""
    value: dict[str, Any] = {"manifests": [child.to_json() for child in manifests]}
    return _finish(value, media_type, artifact_type, subject, annotations)


def _finish(
    value: dict[str, Any],
    own_type: str,
    artifact_type: str | None,
    subject: Descriptor | None,
    annotations: Mapping[str, str] | None,
) -> bytes:
    """In the form that Go's `encoding/json` gives the specification's types: field order, and `<`, `>`, `&` escaped.

    skopeo and podman read an index and write it again; only in this form does its digest survive that.
    """
    whole: dict[str, Any] = {"schemaVersion": 2, "mediaType": own_type}
    if artifact_type is not None:
        whole["artifactType"] = artifact_type
    whole |= value
    if subject is not None:
        whole["subject"] = subject.to_json()
    if annotations:
        whole["annotations"] = dict(sorted(annotations.items()))
    body = documents.dumps(whole, sort_keys=False)
    for character, escape in _GO_ESCAPES:
        body = body.replace(character, escape)
    return body


def _declared_type(value: dict[str, Any], content_type: str | None) -> str | None:
    """The media type both sides agree on; None if neither says one."""
    sent = (content_type or "").partition(";")[0].strip().lower() or None
    own = value.get("mediaType")
    if own is not None:
        own = media_type(own, "mediaType")
    if own in media_types.SCHEMA1_TYPES or sent in media_types.SCHEMA1_TYPES or _looks_like_schema1(value):
        raise ManifestInvalid("This is a Docker schema 1 manifest, which is not supported.", hint=_SCHEMA1_HINT)
    version = value.get("schemaVersion")
    if type(version) is not int or version != 2:
        raise ManifestInvalid("schemaVersion is not 2.")
    if own is not None and sent is not None and own != sent:
        raise ManifestInvalid(f"mediaType is {own!r} but the Content-Type is {sent[:128]!r}.")
    declared = own if own is not None else sent
    if declared is not None and declared not in media_types.INDEX_TYPES | media_types.MANIFEST_TYPES:
        raise ManifestInvalid(f"{declared[:128]!r} is not the media type of an image manifest or index.")
    if own is None and declared in (media_types.DOCKER_MANIFEST, media_types.DOCKER_LIST):
        raise ManifestInvalid("A Docker manifest must name its mediaType.")
    return declared


def _looks_like_schema1(value: dict[str, Any]) -> bool:
    version = value.get("schemaVersion")
    return (type(version) is int and version == 1) or "fsLayers" in value


def _kind(value: dict[str, Any], declared: str | None) -> Kind:
    is_index = "manifests" in value
    is_image = "layers" in value or "config" in value
    if is_index and is_image:
        # CVE-2021-41190: one body that is an image to some and an index to others.
        raise ManifestInvalid("The manifest has both `manifests` and `layers` or `config`.")
    if not is_index and not is_image:
        raise ManifestInvalid("The manifest has neither `manifests` nor `config` and `layers`.")
    if declared is not None and (declared in media_types.INDEX_TYPES) != is_index:
        raise ManifestInvalid(f"The fields of the manifest are not those of {declared!r}.")
    if is_image:
        for name in ("config", "layers"):
            if value.get(name) is None:
                raise ManifestInvalid(f"The image manifest has no `{name}`.")
    return "index" if is_index else "image"


def _descriptors(value: dict[str, Any], name: str) -> tuple[Descriptor, ...]:
    items = value[name]
    if not isinstance(items, list):
        raise ManifestInvalid(f"`{name}` is not a list.")
    return tuple(from_json(item, what=f"{name}[{number}]") for number, item in enumerate(items))
