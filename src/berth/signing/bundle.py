"""What is a Sigstore bundle that holds a key signature, how is it written and checked? (signing rules section 3.)"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from berth.errors import InvalidInput, ManifestInvalid
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci.descriptor import Descriptor
from berth.oci.documents import dumps, loads
from berth.oci.media_types import OCI_EMPTY, SIGSTORE_BUNDLE_V03
from berth.signing import attestations, dsse
from berth.signing.keys import PrivateKey, PublicKey
from berth.signing.outcome import MAX_ATTESTATION_BYTES, MAX_PAYLOAD_BYTES, Outcome

CONTENT_ANNOTATION = "dev.sigstore.bundle.content"
PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"
CREATED_ANNOTATION = "org.opencontainers.image.created"
EMPTY_CONFIG = Descriptor(OCI_EMPTY, digests.EMPTY_JSON, 2)

# `…bundle.v0.3+json`, or the older spelling `…bundle+json;version=0.3`.
_MEDIA_TYPE = re.compile(
    r"application/vnd\.dev\.sigstore\.bundle(?:\.v([0-9]{1,3})\.([0-9]{1,3})\+json|\+json;version=([0-9]{1,3})\.([0-9]{1,3}))"
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle with a DSSE envelope and a public key hint."""

    envelope: dsse.Envelope
    hint: str


def sign_statement(statement: bytes, key: PrivateKey) -> bytes:
    """The bundle that carries a statement signed by the key; the blob of the referrer manifest.

    Raises:
        InvalidInput: the bytes are not a statement, or too many.
    """
    attestations.parse_statement(statement)
    value = {
        "mediaType": SIGSTORE_BUNDLE_V03,
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}},
        "dsseEnvelope": dsse.sign(statement, key),
    }
    return dumps(value, sort_keys=False)


def build(
    bundle: bytes,
    *,
    subject: Descriptor,
    predicate_type: str,
    created: datetime,
    annotations: dict[str, str] | None = None,
) -> bytes:
    """The referrer manifest that attaches a bundle to its subject; push blob and `{}` first, PUT it by digest."""
    own = {
        CONTENT_ANNOTATION: "dsse-envelope",
        PREDICATE_ANNOTATION: predicate_type,
        CREATED_ANNOTATION: created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return manifests.image(
        config=EMPTY_CONFIG,
        layers=(Descriptor(SIGSTORE_BUNDLE_V03, digests.of_bytes(bundle), len(bundle)),),
        artifact_type=SIGSTORE_BUNDLE_V03,
        subject=Descriptor(subject.media_type, subject.digest, subject.size),
        annotations={**(annotations or {}), **own},
    )


def read(blob: bytes) -> Bundle | Outcome:
    """Decode a bundle, or say in an outcome why it is not one we check."""
    try:
        value = loads(blob, max_bytes=MAX_ATTESTATION_BYTES, max_depth=attestations.MAX_DEPTH, what="The bundle")
    except ManifestInvalid:
        return Outcome("invalid", "bad_format")
    if not isinstance(value, dict) or not _is_version_three(value.get("mediaType")):
        return Outcome("invalid", "bad_format")
    material = value.get("verificationMaterial")
    if not isinstance(material, dict):
        return Outcome("invalid", "bad_format")
    if "certificate" in material or "x509CertificateChain" in material:
        return Outcome("unsupported", "unknown_key")  # keyless: no key of ours can vouch for it
    if "messageSignature" in value:
        return Outcome("unsupported", "bad_format")
    public_key = material.get("publicKey")
    if not isinstance(public_key, dict):
        return Outcome("invalid", "bad_format")
    try:
        envelope = dsse.read(value.get("dsseEnvelope"))
    except InvalidInput:
        return Outcome("invalid", "bad_format")
    if len(envelope.signatures) != 1:
        return Outcome("invalid", "bad_format")
    hint = public_key.get("hint")
    return Bundle(envelope, hint if isinstance(hint, str) else "")


def verify(
    blob: bytes,
    *,
    keys: Sequence[PublicKey],
    digest: str,
    predicate_type: str | None = None,
    may_say: Callable[[PublicKey, str], bool] = lambda _key, _predicate: True,
) -> Outcome:
    """Check a bundle.

    Args:
        blob: the layer's bytes.
        keys: the trusted keys.
        digest: the manifest it should be about.
        predicate_type: the one wanted, `attestations.SIGN` for a signature; None takes any.
        may_say: whether a key is trusted for a predicate type.
    """
    bundle = read(blob)
    if isinstance(bundle, Outcome):
        return bundle
    # The hint is not signed: it only decides which key is tried first.
    ordered = sorted(keys, key=lambda key: key.hint != bundle.hint)
    outcome = attestations.verify(
        bundle.envelope, 0, keys=ordered, digest=digest, predicate_type=predicate_type, may_say=may_say
    )
    if outcome.reason == "unknown_key" and any(key.hint == bundle.hint for key in keys):
        return replace(outcome, verdict="invalid", reason="bad_signature")
    if outcome.predicate_type == attestations.SIGN and len(blob) > MAX_PAYLOAD_BYTES:
        return Outcome("invalid", "bad_format", predicate_type=outcome.predicate_type, signature=outcome.signature)
    return outcome


def _is_version_three(value: Any) -> bool:
    match = _MEDIA_TYPE.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if match is None:
        return False
    major, minor = (int(part) for part in match.groups() if part is not None)
    return (major, minor) >= (0, 3)
