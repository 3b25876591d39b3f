"""What is a classic cosign signature, how is it written and checked? (signing rules section 2.)"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from berth.errors import ManifestInvalid
from berth.oci import digest as digests
from berth.oci.descriptor import Descriptor
from berth.oci.documents import dumps, loads
from berth.oci.manifest import Manifest
from berth.oci.media_types import COSIGN_SIMPLE_SIGNING
from berth.signing import tag_image
from berth.signing.keys import PublicKey
from berth.signing.outcome import MAX_PAYLOAD_BYTES, MAX_SIGNATURE_TEXT, Outcome, Reason

TYPE = "cosign container image signature"
SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
# Material of keyless signatures, which are kept and never counted.
KEYLESS_ANNOTATIONS = frozenset(
    f"dev.sigstore.cosign/{name}" for name in ("certificate", "chain", "bundle", "rfc3161timestamp")
)

Identity = Literal["exact", "repository", "ignore"]


def payload(digest: str, docker_reference: str, annotations: Mapping[str, str] | None = None) -> bytes:
    """The bytes to sign.

    Args:
        digest: the manifest that is signed.
        docker_reference: `host/repository:tag` as it was asked for.
        annotations: what else is signed, or None.
    Raises:
        DigestInvalid: the digest is malformed.
    """
    digests.parse(digest)
    return dumps(
        {
            "critical": {
                "identity": {"docker-reference": docker_reference},
                "image": {"docker-manifest-digest": digest},
                "type": TYPE,
            },
            "optional": dict(annotations) if annotations else None,
        }
    )


def layer(payload_bytes: bytes, signature_b64: str) -> Descriptor:
    """The layer descriptor that carries the signature of a payload."""
    return Descriptor(
        COSIGN_SIMPLE_SIGNING,
        digests.of_bytes(payload_bytes),
        len(payload_bytes),
        annotations={SIGNATURE_ANNOTATION: signature_b64},
    )


def build(payload_bytes: bytes, signature_b64: str, existing: Manifest | None = None) -> tuple[bytes, bytes]:
    """Config and manifest bytes for the `.sig` tag, with this signature added to those that are there.

    Raises:
        ManifestInvalid, TooLarge: see `tag_image.append`.
    """
    return tag_image.append(layer(payload_bytes, signature_b64), existing)


def already_signed(existing: Manifest, payload_bytes: bytes, key: PublicKey) -> bool:
    """Whether the manifest holds a valid signature by this key over this very payload."""
    digest = digests.of_bytes(payload_bytes)
    candidates = (item for item in existing.layers if item.digest == digest)
    return any(
        (signature := decode_signature(item.annotations.get(SIGNATURE_ANNOTATION))) is not None
        and key.verify(payload_bytes, signature)
        for item in candidates
    )


def verify(
    payload_bytes: bytes,
    signature_b64: str,
    *,
    keys: Iterable[PublicKey],
    digest: str,
    repository: str,
    identity: Identity = "repository",
    required: Mapping[str, str] | None = None,
) -> Outcome:
    """Check one signature; the payload is parsed only after a key has vouched for it.

    Args:
        payload_bytes: the layer's blob.
        signature_b64: the layer's signature annotation.
        keys: the trusted keys.
        digest: the manifest the signature should be about.
        repository: for `repository`: `[host/]path`, compared without tag and, if it has no host, without host;
            for `exact`: the whole reference with tag.
        identity: what `docker-reference` must agree with.
        required: annotations that must have been signed with these values.
    """
    if len(payload_bytes) > MAX_PAYLOAD_BYTES:
        return Outcome("invalid", "bad_format")
    signature = decode_signature(signature_b64)
    if signature is None:
        return Outcome("invalid", "bad_format")
    key = next((key for key in keys if key.verify(payload_bytes, signature)), None)
    if key is None:
        return Outcome("untrusted", "unknown_key")
    reason, annotations = _read(payload_bytes, digest, repository, identity)
    if not reason and any(annotations.get(name) != value for name, value in (required or {}).items()):
        reason = "identity_mismatch"
    if reason:
        return Outcome("invalid", reason, key.key_id)
    return Outcome("valid", key_id=key.key_id, annotations=annotations)


def decode_signature(text: str | None) -> bytes | None:
    """Strict base64 of a plausible length, or None."""
    if not text or len(text) > MAX_SIGNATURE_TEXT:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def same_repository(reference: str, repository: str) -> bool:
    """Whether a docker reference, tag and digest aside, is in the repository; hosts count if both have one named."""
    path = reference.partition("@")[0]
    head, slash, last = path.rpartition("/")
    path = head + slash + last.partition(":")[0]
    if not path:
        return False
    return path == repository if _host(repository) else _without_host(path) == repository


def _read(body: bytes, digest: str, repository: str, identity: Identity) -> tuple[Reason, dict[str, str]]:
    try:
        value = loads(body, max_bytes=MAX_PAYLOAD_BYTES, what="The payload")
    except ManifestInvalid:
        return "bad_format", {}
    critical = _member(value, "critical")
    optional = _member(value, "optional") if isinstance(value, dict) and value.get("optional") is not None else {}
    if critical is None or optional is None or critical.get("type") != TYPE:
        return "bad_format", {}
    image = _member(critical, "image")
    named = image.get("docker-manifest-digest") if image is not None else None
    if named != digest:
        return "digest_mismatch", {}
    reference = (_member(critical, "identity") or {}).get("docker-reference")
    if identity == "exact" and reference != repository:
        return "identity_mismatch", {}
    if identity == "repository" and not (isinstance(reference, str) and same_repository(reference, repository)):
        return "identity_mismatch", {}
    return "", {name: item for name, item in optional.items() if isinstance(item, str)}


def _member(value: Any, name: str) -> dict[str, Any] | None:
    item = value.get(name) if isinstance(value, dict) else None
    return item if isinstance(item, dict) else None


def _host(path: str) -> str | None:
    """The first component if Docker's rule takes it for a host: a dot, a port, or `localhost`."""
    first, slash, _ = path.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else None


def _without_host(path: str) -> str:
    host = _host(path)
    return path if host is None else path[len(host) + 1 :]
