"""What is this manifest, and may it ride on another one's verdict? Pure (design §6 "Referrers and signature tags").

Everything here looks at declared types and, for evidence, at the bytes of the small documents themselves: a disguise
(weights pushed under a signature's media type) fails because evidence must be small and must parse as JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from berth.oci import media_types as types
from berth.oci import referrers
from berth.oci.manifest import Manifest

EVIDENCE_LIMIT = 16 << 20
DOCUMENT_LIMIT = 1 << 20

IMAGE_CONFIGS = frozenset({types.OCI_CONFIG, types.DOCKER_CONFIG})
# What container engines unpack into a root file system.
ROOTFS_LAYERS = frozenset(
    {types.OCI_LAYER_TAR, types.OCI_LAYER_TAR_GZIP, types.OCI_LAYER_TAR_ZSTD, types.DOCKER_LAYER_GZIP}
    | types.FOREIGN_LAYER_TYPES
)

# The closed list. A type that is missing here is content and needs a verdict of its own.
EVIDENCE_LAYERS = frozenset(
    {
        types.SIGSTORE_BUNDLE_V03,
        types.DSSE_ENVELOPE,
        types.IN_TOTO,
        types.REPORT_TRIVY,
        types.REPORT_WEIGHTS,
        "application/jose+json",
        "application/spdx+json",
        "application/vnd.cyclonedx+json",
        "application/sarif+json",
        "application/vnd.openvex+json",
    }
)
EVIDENCE_ARTIFACTS = EVIDENCE_LAYERS - {"application/jose+json"} | {types.NOTARY_SIGNATURE}
EVIDENCE_CONFIGS = frozenset({types.OCI_EMPTY, types.NOTARY_SIGNATURE})


def role_of(manifest: Manifest, documents: Mapping[str, bytes]) -> str:
    """The role the gate judges it by: index | image | checkpoint | attestation | unknown.

    A type that somebody wrote down proves nothing: what a container engine could run is an image, whatever it calls
    itself, and a config that is not a small JSON object makes the whole unknown, which the gate never admits.

    Args:
        documents: bytes of the config and, for an attestation, of the layers; by digest.
    """
    if manifest.kind == "index":
        return "index"
    config = manifest.config
    inside = _json_object(documents.get(config.digest)) if config is not None else None
    if config is None or inside is None:
        return "unknown"
    runnable = (
        config.media_type in IMAGE_CONFIGS
        or "rootfs" in inside
        or any(layer.media_type in ROOTFS_LAYERS for layer in manifest.layers)
    )
    if _is_attestation(manifest, documents):
        return "attestation"
    if runnable:
        return "image"
    return "checkpoint" if config.media_type == types.MODELPACK_CONFIG else "unknown"


def _is_attestation(manifest: Manifest, documents: Mapping[str, bytes]) -> bool:
    """What BuildKit puts beside each image: only small in-toto documents, each of which is one."""
    return (
        bool(manifest.layers)
        and manifest.config is not None
        and manifest.config.media_type in IMAGE_CONFIGS
        and all(layer.media_type == types.IN_TOTO for layer in manifest.layers)
        and all(_json_object(documents.get(layer.digest)) is not None for layer in manifest.layers)
    )


def _json_object(body: bytes | None) -> dict[str, object] | None:
    if body is None:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def evidence_subject(manifest: Manifest, tag: str | None, documents: Mapping[str, bytes]) -> str | None:
    """Digest of the manifest that this one is evidence about, or None when it is content of its own.

    Args:
        manifest: what was pushed.
        tag: the tag it was pushed under, if any.
        documents: bytes of its config and layers, by digest; a missing one means "not evidence".
    """
    tagged = referrers.subject_of_tag(tag) if tag is not None else None
    if tagged is not None and tagged[1] in ("sig", "att"):
        wanted = types.COSIGN_SIMPLE_SIGNING if tagged[1] == "sig" else types.DSSE_ENVELOPE
        fits = (
            manifest.kind == "image"
            and manifest.subject is None
            and bool(manifest.layers)
            and manifest.config is not None
            and manifest.config.media_type in IMAGE_CONFIGS | {types.OCI_EMPTY}
            and all(layer.media_type == wanted for layer in manifest.layers)
        )
        fits = fits and _all_json(manifest, documents)
        return tagged[0] if fits and _all_about(manifest, documents, tagged[0]) else None
    if manifest.subject is None or manifest.kind != "image" or manifest.config is None:
        return None
    artifact = manifest.artifact_type or manifest.config.media_type
    fits = (
        artifact in EVIDENCE_ARTIFACTS
        and manifest.config.media_type in EVIDENCE_CONFIGS
        and bool(manifest.layers)
        and all(layer.media_type in EVIDENCE_LAYERS for layer in manifest.layers)
    )
    return manifest.subject.digest if fits and _all_json(manifest, documents) else None


def _all_about(manifest: Manifest, documents: Mapping[str, bytes], subject: str) -> bool:
    """True when each signed document names the subject itself: a signature of something else is no evidence here."""
    return all(
        layer.size <= DOCUMENT_LIMIT and subject in _named(_json_object(documents[layer.digest]) or {})
        for layer in manifest.layers
    )


def _named(document: Mapping[str, object]) -> set[str]:
    """Digests that a simple-signing payload or the statement in a DSSE envelope is about."""
    critical = document.get("critical")
    image = critical.get("image") if isinstance(critical, dict) else None
    found = {str(image.get("docker-manifest-digest"))} if isinstance(image, dict) else set()
    payload = document.get("payload")
    if isinstance(payload, str):
        try:
            statement = _json_object(base64.b64decode(payload, validate=True))
        except (binascii.Error, ValueError):
            statement = None
        subjects = statement.get("subject") if statement else None
        for entry in subjects if isinstance(subjects, list) else []:
            digests = entry.get("digest") if isinstance(entry, dict) else None
            if isinstance(digests, dict):
                found |= {f"{algorithm}:{encoded}" for algorithm, encoded in digests.items()}
    return found


def could_be_evidence(manifest: Manifest, tag: str | None) -> bool:
    """True when the documents are worth reading: small enough and about something."""
    about = manifest.subject is not None or (tag is not None and referrers.subject_of_tag(tag) is not None)
    return (
        about and manifest.kind == "image" and manifest.size + sum(b.size for b in manifest.blobs()) <= EVIDENCE_LIMIT
    )


def documents_wanted(manifest: Manifest, tag: str | None) -> list[str]:
    """Digests of the small blobs a PUT has to be decided with: all of possible evidence, else the config's labels."""
    small = manifest.size + sum(blob.size for blob in manifest.blobs()) <= EVIDENCE_LIMIT
    documents_only = bool(manifest.layers) and all(layer.media_type == types.IN_TOTO for layer in manifest.layers)
    if could_be_evidence(manifest, tag) or (small and documents_only):
        return [blob.digest for blob in manifest.blobs()]
    if manifest.config is not None and manifest.config.size <= DOCUMENT_LIMIT:
        return [manifest.config.digest]
    return []


def _all_json(manifest: Manifest, documents: Mapping[str, bytes]) -> bool:
    if manifest.size + sum(blob.size for blob in manifest.blobs()) > EVIDENCE_LIMIT:
        return False
    for blob in manifest.blobs():
        body = documents.get(blob.digest)
        if body is None:
            return False
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return False
        if not isinstance(document, dict | list):
            return False
    return True
