"""What does a manifest say about other content? (OCI image-spec descriptor.md.)"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from berth.errors import DigestInvalid, ManifestInvalid
from berth.oci import digest as digests
from berth.oci.documents import check_spelling

MAX_SIZE = 2**63 - 1
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(rf"{_NAME}/{_NAME}")
_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")
_FIELDS = ("mediaType", "digest", "size", "artifactType", "annotations", "platform", "urls", "data")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Type, digest and size of content; `data` is base64 text of the content itself, `platform` the JSON object."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] | None = None
    urls: tuple[str, ...] = ()
    data: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this descriptor, in the field order of the specification's own Go types.

        Absent and empty optional fields are left out. Programs that read an index and write it again (skopeo, podman)
        use that order, so what we write keeps its digest on the way through them.
        """
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(sorted(self.annotations.items()))
        if self.data is not None:
            value["data"] = self.data
        if self.platform is not None:
            known = {name: self.platform[name] for name in _PLATFORM if name in self.platform}
            value["platform"] = known | dict(self.platform)
        if self.artifact_type is not None:
            value["artifactType"] = self.artifact_type
        return value


def from_json(value: object, *, what: str = "descriptor") -> Descriptor:
    """Check one JSON object by the rules of the specification.

    Args:
        value: parsed JSON.
        what: how to call it in messages, for example `layers[3]`.
    Raises:
        ManifestInvalid: a missing or malformed field, or `data` that is not the content described.
    """
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{what} is not an object.")
    check_spelling(value, _FIELDS, what)
    text = value.get("digest")
    if not isinstance(text, str):
        raise ManifestInvalid(f"{what} has no digest.")
    try:
        digests.parse(text)
    except DigestInvalid as error:
        raise ManifestInvalid(f"{what}: {error}") from None
    size = value.get("size")
    if type(size) is not int or not 0 <= size <= MAX_SIZE:  # `type`, because bool is an int
        raise ManifestInvalid(f"{what} has no size in bytes (a non-negative integer).")
    artifact_type = value.get("artifactType")
    return Descriptor(
        media_type=media_type(value.get("mediaType"), f"{what}.mediaType"),
        digest=text,
        size=size,
        artifact_type=None if artifact_type is None else media_type(artifact_type, f"{what}.artifactType"),
        annotations=string_map(value.get("annotations"), f"{what}.annotations"),
        platform=_platform(value.get("platform"), f"{what}.platform"),
        urls=_urls(value.get("urls"), f"{what}.urls"),
        data=_data(value.get("data"), text, size, f"{what}.data"),
    )


def media_type(value: object, what: str) -> str:
    """The value if it is a media type without parameters (RFC 6838 section 4.2), else ManifestInvalid."""
    if not isinstance(value, str) or _MEDIA_TYPE.fullmatch(value) is None:
        raise ManifestInvalid(f"{what} is not a media type.")
    return value


def string_map(value: object, what: str) -> dict[str, str]:
    """Annotations: an object whose values are strings; None is empty. Raises ManifestInvalid."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ManifestInvalid(f"{what} is not an object of strings.")
    return dict(value)


def _platform(value: object, what: str) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{what} is not an object.")
    check_spelling(value, ("architecture", "os", "os.version", "os.features", "variant"), what)
    for key in ("architecture", "os", "os.version", "variant"):
        if not isinstance(value.get(key, ""), str):
            raise ManifestInvalid(f"{what}.{key} is not a string.")
    return dict(value)


def _urls(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ManifestInvalid(f"{what} is not a list of strings.")
    return tuple(value)


def _data(value: object, digest: str, size: int, what: str) -> str | None:
    # Some clients use embedded content without comparing it: what is embedded must be what was scanned.
    if value is None:
        return None
    if not isinstance(value, str):
        raise ManifestInvalid(f"{what} is not base64 text.")
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ManifestInvalid(f"{what} is not base64 text.") from None
    if len(content) != size or digests.of_bytes(content, digests.parse(digest).algorithm) != digest:
        raise ManifestInvalid(f"{what} is not the content that {digest} names.")
    return value
