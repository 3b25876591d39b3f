"""What does a statement say about a manifest, and by whom? (in-toto Statement v1; signing rules sections 3 and 4.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from berth.errors import InvalidInput, ManifestInvalid
from berth.oci import digest as digests
from berth.oci.descriptor import Descriptor
from berth.oci.documents import dumps, loads
from berth.oci.manifest import Manifest
from berth.oci.media_types import DSSE_ENVELOPE, IN_TOTO
from berth.signing import dsse, tag_image
from berth.signing.classic import SIGNATURE_ANNOTATION
from berth.signing.keys import PrivateKey, PublicKey
from berth.signing.outcome import MAX_ATTESTATION_BYTES, Outcome, Reason

STATEMENT_V1 = "https://in-toto.io/Statement/v1"
STATEMENT_V01 = "https://in-toto.io/Statement/v0.1"

SIGN = "https://sigstore.dev/cosign/sign/v1"
VULN = "https://cosign.sigstore.dev/attestation/vuln/v1"
CYCLONEDX = "https://cyclonedx.org/bom"
SPDX = "https://spdx.dev/Document"
SLSA_V1 = "https://slsa.dev/provenance/v1"
SLSA_V02 = "https://slsa.dev/provenance/v0.2"
OPENVEX = "https://openvex.dev/ns"
PREDICATE_TYPES = frozenset({SIGN, VULN, CYCLONEDX, SPDX, SLSA_V1, SLSA_V02, OPENVEX})

PREDICATE_TYPE_ANNOTATION = "predicateType"
MAX_DEPTH = 256


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed in-toto statement; whether anyone vouches for it is not its business."""

    type: str
    subjects: tuple[Mapping[str, Any], ...]
    predicate_type: str
    predicate: Mapping[str, Any]

    def subject_for(self, digest: str) -> Mapping[str, Any] | None:
        """The first subject with this digest, or None."""
        parsed = digests.parse(digest)
        return next((item for item in self.subjects if item["digest"].get(parsed.algorithm) == parsed.encoded), None)


def statement(
    digest: str,
    predicate_type: str,
    predicate: Mapping[str, Any],
    *,
    name: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of a statement about one manifest.

    Args:
        digest: the manifest.
        predicate_type: URI of what the predicate means.
        predicate: the claim itself.
        name: the repository without tag, or None.
        annotations: strings signed along, or None.
    Raises:
        DigestInvalid: the digest is malformed.
    """
    parsed = digests.parse(digest)
    subject: dict[str, Any] = {} if name is None else {"name": name}
    subject["digest"] = {parsed.algorithm: parsed.encoded}
    if annotations:
        subject["annotations"] = dict(sorted(annotations.items()))
    return dumps(
        {"_type": STATEMENT_V1, "subject": [subject], "predicateType": predicate_type, "predicate": dict(predicate)},
        sort_keys=False,
    )


def signature_statement(digest: str, annotations: Mapping[str, str] | None = None) -> bytes:
    """The statement that is a signature: cosign's sign predicate, empty."""
    return statement(digest, SIGN, {}, annotations=annotations)


def vulnerability_predicate(
    *, scanner: str, version: str, database: Mapping[str, str], result: Any, started: datetime, finished: datetime
) -> dict[str, Any]:
    """cosign's vulnerability scan record.

    Args:
        scanner: package URL of the scanner.
        version: its version.
        database: `uri` and `version` of the vulnerability database.
        result: the scanner's own report.
        started: when the scan began, with time zone.
        finished: when it ended, with time zone.
    """
    return {
        "invocation": {"parameters": [], "uri": "", "event_id": "", "builder.id": ""},
        "scanner": {
            "uri": scanner,
            "version": version,
            "db": {"uri": database.get("uri", ""), "version": database.get("version", "")},
            "result": result,
        },
        "metadata": {"scanStartedOn": started.isoformat(), "scanFinishedOn": finished.isoformat()},
    }


def provenance_predicate(
    build_type: str, builder_id: str, parameters: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """SLSA provenance v1: how something was built (`build_type`, a URI), from what, and by whom (a URI)."""
    return {
        "buildDefinition": {"buildType": build_type, "externalParameters": dict(parameters or {})},
        "runDetails": {"builder": {"id": builder_id}},
    }


def parse_statement(body: bytes) -> Statement:
    """Read a statement of version 1 or 0.1.

    Raises:
        InvalidInput: not JSON, another type, or malformed fields.
    """
    try:
        value = loads(body, max_bytes=MAX_ATTESTATION_BYTES, max_depth=MAX_DEPTH, what="The statement")
    except ManifestInvalid as error:
        raise InvalidInput(error.message) from None
    if not isinstance(value, dict) or value.get("_type") not in (STATEMENT_V1, STATEMENT_V01):
        raise InvalidInput("This is not an in-toto statement.")
    subjects, predicate_type = value.get("subject"), value.get("predicateType")
    predicate = value.get("predicate")
    if not isinstance(predicate_type, str) or not isinstance(predicate, dict | None):
        raise InvalidInput("The statement has no predicate type, or its predicate is not an object.")
    if not isinstance(subjects, list) or not all(
        isinstance(item, dict) and isinstance(item.get("digest"), dict) for item in subjects
    ):
        raise InvalidInput("The statement's subjects have no digests.")
    return Statement(value["_type"], tuple(subjects), predicate_type, predicate or {})


def build(statement_bytes: bytes, key: PrivateKey, existing: Manifest | None = None) -> tuple[bytes, bytes, bytes]:
    """An attestation for the `.att` tag, as cosign 2 reads it: (envelope, config, manifest) bytes.

    Raises:
        InvalidInput: the bytes are not a statement.
        ManifestInvalid, TooLarge: see `tag_image.append`.
    """
    predicate_type = parse_statement(statement_bytes).predicate_type
    signed = dsse.sign(statement_bytes, key)
    envelope = dumps({name: signed[name] for name in ("payloadType", "payload", "signatures")}, sort_keys=False)
    layer = Descriptor(
        DSSE_ENVELOPE,
        digests.of_bytes(envelope),
        len(envelope),
        annotations={SIGNATURE_ANNOTATION: "", PREDICATE_TYPE_ANNOTATION: predicate_type},
    )
    return envelope, *tag_image.append(layer, existing)


def read_envelope(body: bytes) -> dsse.Envelope:
    """A bare envelope as `.att` layers hold it. Raises InvalidInput."""
    try:
        value = loads(body, max_bytes=MAX_ATTESTATION_BYTES, max_depth=MAX_DEPTH, what="The envelope")
    except ManifestInvalid as error:
        raise InvalidInput(error.message) from None
    return dsse.read(value)


def verify(
    envelope: dsse.Envelope,
    number: int,
    *,
    keys: Sequence[PublicKey],
    digest: str,
    predicate_type: str | None = None,
    may_say: Callable[[PublicKey, str], bool] = lambda _key, _predicate: True,
) -> Outcome:
    """Check one signature of an envelope.

    Args:
        envelope: the decoded envelope.
        number: which of its signatures.
        keys: the trusted keys.
        digest: the manifest that the statement should be about.
        predicate_type: the one wanted; None takes any.
        may_say: whether a key is trusted for a predicate type.
    Returns:
        An outcome whose predicate type is the statement's own, signed or not.
    """
    signature, text = envelope.signatures[number]
    if envelope.payload_type != IN_TOTO or signature is None:
        return Outcome("invalid", "bad_format", signature=text)
    signed = envelope.signed_bytes
    able = [key for key in keys if key.verify(signed, signature)]
    try:
        parsed = parse_statement(envelope.payload)
    except InvalidInput:
        if able:
            return Outcome("invalid", "bad_format", able[0].key_id, signature=text)
        return Outcome("untrusted", "unknown_key", signature=text)
    said = parsed.predicate_type
    if not able:
        return Outcome("untrusted", "unknown_key", predicate_type=said, signature=text)
    key = next((key for key in able if may_say(key, said)), None)
    subject = parsed.subject_for(digest)
    reason: Reason = ""
    if subject is None:
        reason = "digest_mismatch"
    elif predicate_type is not None and said != predicate_type:
        reason = "wrong_predicate"
    if reason or subject is None:
        return Outcome("invalid", reason, (key or able[0]).key_id, said, signature=text)
    if key is None:
        return Outcome("untrusted", "wrong_predicate", able[0].key_id, said, signature=text)
    return Outcome("valid", "", key.key_id, said, _annotations(subject), parsed.predicate, text)


def _annotations(subject: Mapping[str, Any]) -> dict[str, str]:
    value = subject.get("annotations")
    items = value.items() if isinstance(value, dict) else ()
    return {name: item for name, item in items if isinstance(item, str)}
