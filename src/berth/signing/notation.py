"""Does a Notation (Notary Project) JWS signature hold under our trust policy? (signing rules section 5.)

The policy is reduced to trusted root certificates and trusted identities; revocation cannot be asked without a
network, so a chain that points to a list or responder is refused unless the policy says otherwise.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from berth.errors import InvalidInput, ManifestInvalid
from berth.oci.descriptor import Descriptor
from berth.oci.documents import loads
from berth.oci.media_types import NOTARY_PAYLOAD
from berth.signing import notation_chain
from berth.signing.notation_chain import ChainError
from berth.signing.outcome import MAX_PAYLOAD_BYTES, Outcome, Reason

SCHEME = "notary.x509"
_SCHEME_NAME = "io.cncf.notary.signingScheme"
_TIME_NAME = "io.cncf.notary.signingTime"
_EXPIRY_NAME = "io.cncf.notary.expiry"
_ENVELOPE_FIELDS = frozenset({"payload", "protected", "header", "signature"})
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:Z|[+-][0-9]{2}:[0-9]{2})")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_COORDINATE_BYTES = {"ES256": 32, "ES384": 48, "ES512": 66}
_IDENTITY_FIELDS = frozenset({"C", "ST", "L", "O", "OU", "CN", "STREET"})


@dataclass(frozen=True)
class Policy:
    """Whom to believe. `roots` are DER; `identities` hold `*` or `x509.subject: C=.., ST=.., O=..`."""

    roots: frozenset[bytes]
    identities: tuple[str, ...]
    accept_unknown_revocation: bool = False

    @classmethod
    def of(cls, roots_pem: bytes, identities: tuple[str, ...], *, accept_unknown_revocation: bool = False) -> Policy:
        """Read the trusted certificates from PEM.

        Raises:
            InvalidInput: no certificate, or an identity of another form.
        """
        try:
            found = x509.load_pem_x509_certificates(roots_pem)
        except ValueError:
            raise InvalidInput("The trusted certificates cannot be read.", hint="Give PEM certificates.") from None
        for identity in identities:
            if identity != "*":
                _wanted(identity)
        ders = frozenset(item.public_bytes(serialization.Encoding.DER) for item in found)
        return cls(ders, identities, accept_unknown_revocation)


class _RefusedError(Exception):
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def verify(blob: bytes, *, subject: Descriptor, policy: Policy | None, now: datetime) -> Outcome:
    """Check a Notation envelope in JWS form.

    Args:
        blob: the layer's bytes.
        subject: type, digest and size of the manifest it should be about.
        policy: None checks integrity only and never gives `valid`.
        now: the instant of the check, with time zone.
    """
    try:
        return _verify(blob, subject, policy, now)
    except _RefusedError as error:
        return error.outcome
    except ChainError:
        return Outcome("invalid", "chain_invalid")


def _verify(blob: bytes, subject: Descriptor, policy: Policy | None, now: datetime) -> Outcome:
    envelope = _object(_json(blob))
    if frozenset(envelope) - _ENVELOPE_FIELDS:
        raise _refuse("bad_format")
    encoded_payload, encoded_protected = _text(envelope, "payload"), _text(envelope, "protected")
    text = _text(envelope, "signature")
    signature = _decode(text)
    protected = _object(_json(_decode(encoded_protected)))
    chain = notation_chain.load(_certificates(_object(envelope.get("header")).get("x5c")))
    leaf = chain[0]
    if protected.get("alg") != notation_chain.algorithm_of(leaf):
        raise _refuse("bad_format", text)
    signed = f"{encoded_protected}.{encoded_payload}".encode("ascii")
    if not _holds(leaf, protected["alg"], signed, signature):
        raise _refuse("bad_signature", text)
    # From here on the leaf has vouched for the bytes; whether the leaf is to be believed comes last.
    signing_time, expiry = _check_protected(protected, text)
    key_id = ", ".join(f"{name}={value}" for name, value in notation_chain.subject_of(leaf).items())
    annotations = _check_target(_object(_json(_decode(encoded_payload))), subject, key_id, text)
    notation_chain.check(chain)
    if not notation_chain.valid_at(chain, now) or not notation_chain.valid_at(chain[:1], signing_time):
        return Outcome("invalid", "expired", key_id, signature=text)
    if expiry is not None and (expiry <= now or expiry <= signing_time):
        return Outcome("invalid", "expired", key_id, signature=text)
    if policy is None or not _trusted(chain, policy):
        return Outcome("untrusted", "unknown_key", key_id, signature=text)
    if notation_chain.has_revocation_pointer(chain) and not policy.accept_unknown_revocation:
        return Outcome("invalid", "chain_invalid", key_id, signature=text)
    if not any(_is(leaf, identity) for identity in policy.identities):
        return Outcome("untrusted", "identity_mismatch", key_id, signature=text)
    return Outcome("valid", "", key_id, annotations=annotations, signature=text)


def _check_protected(protected: dict[str, Any], text: str) -> tuple[datetime, datetime | None]:
    critical = protected.get("crit")
    names = frozenset(critical) if isinstance(critical, list) and _is_strings(critical) else frozenset()
    scheme = protected.get(_SCHEME_NAME)
    if scheme == "notary.x509.signingAuthority":
        raise _RefusedError(Outcome("unsupported", "bad_format", signature=text))
    required = {_SCHEME_NAME} | ({_EXPIRY_NAME} if _EXPIRY_NAME in protected else set())
    if scheme != SCHEME or not required <= names or not names <= {_SCHEME_NAME, _EXPIRY_NAME} & frozenset(protected):
        raise _refuse("bad_format", text)
    if protected.get("cty") != NOTARY_PAYLOAD:
        raise _refuse("bad_format", text)
    expiry = protected.get(_EXPIRY_NAME)
    return _instant(protected.get(_TIME_NAME)), None if expiry is None else _instant(expiry)


def _check_target(payload: dict[str, Any], subject: Descriptor, key_id: str, text: str) -> dict[str, str]:
    target = _object(payload.get("targetArtifact"))
    described = (target.get("mediaType"), target.get("digest"), target.get("size"))
    if type(target.get("size")) is not int or described != (subject.media_type, subject.digest, subject.size):
        raise _RefusedError(Outcome("invalid", "digest_mismatch", key_id, signature=text))
    annotations = target.get("annotations")
    items = annotations.items() if isinstance(annotations, dict) else ()
    return {name: value for name, value in items if isinstance(value, str)}


def _holds(leaf: x509.Certificate, algorithm: str, signed: bytes, signature: bytes) -> bool:
    key = leaf.public_key()
    digest = _HASHES[algorithm[2:]]
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            half = _COORDINATE_BYTES[algorithm]
            if len(signature) != 2 * half:
                return False
            r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _trusted(chain: list[x509.Certificate], policy: Policy) -> bool:
    return any(item.public_bytes(serialization.Encoding.DER) in policy.roots for item in chain)


def _is(leaf: x509.Certificate, identity: str) -> bool:
    if identity == "*":
        return True
    subject = notation_chain.subject_of(leaf)
    return all(subject.get(name) == value for name, value in _wanted(identity).items())


def _wanted(identity: str) -> dict[str, str]:
    """The fields of `x509.subject: C=US, ST=WA, O=Example`; C, ST and O are required. Raises InvalidInput."""
    kind, colon, text = identity.partition(":")
    fields: dict[str, str] = {}
    for part in re.split(r"(?<!\\),", text):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in _IDENTITY_FIELDS or name in fields or not value:
            raise InvalidInput(f"{identity[:200]!r} is not a trusted identity.", hint="x509.subject: C=.., ST=.., O=..")
        fields[name] = re.sub(r"\\(.)", r"\1", value)
    if not colon or kind.strip() != "x509.subject" or not {"C", "ST", "O"} <= fields.keys():
        raise InvalidInput(f"{identity[:200]!r} is not a trusted identity.", hint="x509.subject: C=.., ST=.., O=..")
    return fields


def _json(body: bytes) -> Any:
    try:
        return loads(body, max_bytes=MAX_PAYLOAD_BYTES, what="The envelope")
    except ManifestInvalid:
        raise _refuse("bad_format") from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse("bad_format")
    return value


def _text(value: dict[str, Any], name: str) -> str:
    item = value.get(name)
    if not isinstance(item, str):
        raise _refuse("bad_format")
    return item


def _decode(text: str) -> bytes:
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        raise _refuse("bad_format")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _certificates(value: Any) -> list[bytes]:
    if not _is_strings(value):
        raise _refuse("bad_format")
    try:
        return [base64.b64decode(item, validate=True) for item in value]
    except (binascii.Error, ValueError):
        raise _refuse("bad_format") from None


def _instant(value: Any) -> datetime:
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        raise _refuse("bad_format")
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise _refuse("bad_format") from None


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _refuse(reason: Reason, text: str = "") -> _RefusedError:
    return _RefusedError(Outcome("invalid", reason, signature=text))
