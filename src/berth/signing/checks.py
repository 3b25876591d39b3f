"""Which signatures does a manifest carry, and what is each worth? (signing rules section 6.)

One record per signature. Each is judged alone: a bad, foreign or unreadable one is listed and changes nothing for
the others, whatever their kind or order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from berth.errors import InvalidInput, TooLarge
from berth.oci import digest as digests
from berth.oci.descriptor import Descriptor
from berth.oci.manifest import Manifest
from berth.oci.media_types import (
    COSE,
    COSIGN_SIMPLE_SIGNING,
    DSSE_ENVELOPE,
    JOSE_JSON,
    NOTARY_SIGNATURE,
    SIGSTORE_BUNDLE_PREFIX,
)
from berth.signing import attestations, bundle, classic, notation
from berth.signing.keys import PublicKey
from berth.signing.outcome import (
    MAX_ATTESTATION_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_SIGNATURE_TEXT,
    MAX_SIGNATURES,
    Kind,
    Outcome,
    Reason,
    Verdict,
)

# What a key must be trusted for, to sign an image; anything else in `predicates` is a predicate type.
SIGNATURE = "signature"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key and what it may say: `signature`, predicate types, or both."""

    public: PublicKey
    predicates: tuple[str, ...] = (SIGNATURE,)


@dataclass(frozen=True, slots=True)
class SignatureRecord:
    """One signature. `manifest` and `payload` are digests, `signature` is the text as found, bounded in length."""

    kind: Kind
    manifest: str
    payload: str
    signature: str
    key_id: str | None
    predicate_type: str | None
    annotations: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict = "invalid"
    reason: Reason = ""


def inspect(
    manifest: Manifest,
    manifest_digest: str,
    *,
    subject: str,
    repository: str,
    blobs: Callable[[str], bytes | None],
    keys: Sequence[TrustedKey],
    notation_policy: notation.Policy | None = None,
    now: datetime | None = None,
) -> list[SignatureRecord]:
    """Check every signature that a manifest carries.

    Args:
        manifest: a `.sig` or `.att` manifest, or a referrer; of any other kind the answer is empty.
        manifest_digest: its digest.
        subject: the digest it should be about, taken from the tag or from `manifest.subject`.
        repository: `[host/]project/name` that classic payloads must name.
        blobs: reads a blob by digest, None if it is missing; what it gives is verified here.
        keys: the keys trusted now.
        notation_policy: trusted roots; without it Notation signatures are at most `untrusted`.
        now: the instant for certificates, default the current one.
    Raises:
        TooLarge: more signatures than the limit, which is an error and never a pass.
        DigestInvalid: `subject` is not a digest.
    """
    digests.parse(subject)
    if manifest.kind != "image" or not _is_signature(manifest):
        return []
    if len(manifest.layers) > MAX_SIGNATURES:
        raise TooLarge(f"The manifest carries {len(manifest.layers)} signatures; {MAX_SIGNATURES} is the most.")
    check = _Check(manifest, manifest_digest, subject, repository, blobs, keys, notation_policy, now)
    records: dict[tuple[str, str], SignatureRecord] = {}
    for layer in manifest.layers:
        for record in check.layer(layer):
            # The same payload and signature twice is one signature; a copy with odd annotations spoils nothing.
            identity = (record.payload, record.signature)
            if identity not in records or record.verdict == "valid":
                records[identity] = record
            if len(records) > MAX_SIGNATURES:
                raise TooLarge(f"The manifest carries more than {MAX_SIGNATURES} signatures.")
    return list(records.values())


def _is_signature(manifest: Manifest) -> bool:
    return _is_notation(manifest) or any(
        layer.media_type in (COSIGN_SIMPLE_SIGNING, DSSE_ENVELOPE)
        or layer.media_type.startswith(SIGSTORE_BUNDLE_PREFIX)
        for layer in manifest.layers
    )


def _is_notation(manifest: Manifest) -> bool:
    return manifest.referrer_artifact_type == NOTARY_SIGNATURE


@dataclass(frozen=True, slots=True)
class _Check:
    manifest: Manifest
    manifest_digest: str
    subject: str
    repository: str
    blobs: Callable[[str], bytes | None]
    keys: Sequence[TrustedKey]
    notation_policy: notation.Policy | None
    now: datetime | None

    def layer(self, layer: Descriptor) -> Iterator[SignatureRecord]:
        """The records of one layer; layers of unknown types hold no signature."""
        if _is_notation(self.manifest):
            yield self._record("notation", layer, self._notation(layer))
        elif layer.media_type == COSIGN_SIMPLE_SIGNING:
            yield self._record("cosign-classic", layer, self._classic(layer))
        elif layer.media_type.startswith(SIGSTORE_BUNDLE_PREFIX):
            outcome = self._bundle(layer)
            said = outcome.predicate_type or self.manifest.annotations.get(bundle.PREDICATE_ANNOTATION)
            is_signature = said is None or said == attestations.SIGN
            yield self._record("sigstore-bundle" if is_signature else "attestation", layer, outcome)
        elif layer.media_type == DSSE_ENVELOPE:
            for outcome in self._envelope(layer):
                yield self._record("attestation", layer, outcome)

    def _classic(self, layer: Descriptor) -> Outcome:
        text = layer.annotations.get(classic.SIGNATURE_ANNOTATION, "")
        if not classic.KEYLESS_ANNOTATIONS.isdisjoint(layer.annotations):
            return Outcome("unsupported", "unknown_key", signature=text)
        body = self._blob(layer, MAX_PAYLOAD_BYTES)
        if isinstance(body, Outcome):
            return replace(body, signature=text)
        able = [key.public for key in self.keys if SIGNATURE in key.predicates]
        outcome = classic.verify(body, text, keys=able, digest=self.subject, repository=self.repository)
        if outcome.reason == "unknown_key":
            signature = classic.decode_signature(text)
            other = next((key for key in self.keys if key.public.verify(body, signature or b"")), None)
            if other is not None:  # one of ours, but not trusted for signatures
                outcome = Outcome("untrusted", "wrong_predicate", other.public.key_id)
        return replace(outcome, signature=text)

    def _bundle(self, layer: Descriptor) -> Outcome:
        body = self._blob(layer, MAX_ATTESTATION_BYTES)
        if isinstance(body, Outcome):
            return body
        outcome = bundle.verify(body, keys=self._public_keys(), digest=self.subject, may_say=self._may_say)
        return self._about_subject(outcome)

    def _envelope(self, layer: Descriptor) -> list[Outcome]:
        body = self._blob(layer, MAX_ATTESTATION_BYTES)
        if isinstance(body, Outcome):
            return [body]
        try:
            envelope = attestations.read_envelope(body)
        except InvalidInput:
            return [Outcome("invalid", "bad_format")]
        keys = self._public_keys()
        return [
            attestations.verify(envelope, number, keys=keys, digest=self.subject, may_say=self._may_say)
            for number in range(len(envelope.signatures))
        ]

    def _notation(self, layer: Descriptor) -> Outcome:
        if layer.media_type == COSE:
            return Outcome("unsupported", "bad_format")
        target = self.manifest.subject
        if layer.media_type != JOSE_JSON or target is None or len(self.manifest.layers) != 1:
            return Outcome("invalid", "bad_format")
        body = self._blob(layer, MAX_PAYLOAD_BYTES)
        if isinstance(body, Outcome):
            return body
        now = self.now if self.now is not None else datetime.now(UTC)
        outcome = notation.verify(body, subject=target, policy=self.notation_policy, now=now)
        return self._about_subject(outcome)

    def _about_subject(self, outcome: Outcome) -> Outcome:
        """A referrer must also name the subject itself, or it was filed under the wrong manifest."""
        named = self.manifest.subject
        if outcome.verdict == "valid" and (named is None or named.digest != self.subject):
            return replace(outcome, verdict="invalid", reason="digest_mismatch", annotations={}, predicate=None)
        return outcome

    def _public_keys(self) -> list[PublicKey]:
        return list(dict.fromkeys(key.public for key in self.keys))

    def _may_say(self, public: PublicKey, predicate_type: str) -> bool:
        needed = SIGNATURE if predicate_type == attestations.SIGN else predicate_type
        return any(key.public == public and needed in key.predicates for key in self.keys)

    def _blob(self, layer: Descriptor, limit: int) -> bytes | Outcome:
        """The verified bytes of a layer, or why there are none. The size is looked at before anything is read."""
        if layer.size > limit:
            return Outcome("invalid", "bad_format")
        body = self.blobs(layer.digest)
        if body is None:
            return Outcome("invalid", "blob_missing")
        algorithm = digests.parse(layer.digest).algorithm
        if len(body) != layer.size or digests.of_bytes(body, algorithm) != layer.digest:
            return Outcome("invalid", "digest_mismatch")
        return body

    def _record(self, kind: Kind, layer: Descriptor, outcome: Outcome) -> SignatureRecord:
        text = outcome.signature
        if len(text) > MAX_SIGNATURE_TEXT:  # still one record per signature, in a column of bounded width
            text = digests.of_bytes(text.encode("utf-8"))
        return SignatureRecord(
            kind=kind,
            manifest=self.manifest_digest,
            payload=layer.digest,
            signature=text,
            key_id=outcome.key_id,
            predicate_type=outcome.predicate_type,
            annotations=dict(outcome.annotations),
            verdict=outcome.verdict,
            reason=outcome.reason,
        )
