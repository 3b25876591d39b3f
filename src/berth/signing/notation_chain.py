"""May this certificate chain vouch for a signature? (Notary Project signature spec "Certificate Requirements".)"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

MAX_CHAIN = 10

_T = TypeVar("_T", bound=x509.ExtensionType)

_FORBIDDEN_USES = frozenset(
    {
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.EMAIL_PROTECTION,
        ExtendedKeyUsageOID.TIME_STAMPING,
    }
)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_SUBJECT_KEYS = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "STREET": NameOID.STREET_ADDRESS,
}
# What cryptography raises for certificates that are DER but nonsense.
_BROKEN = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)


class ChainError(Exception):
    """Why a chain is refused; stays inside this room."""


def load(ders: Sequence[bytes]) -> list[x509.Certificate]:
    """Parse certificates, leaf first. Raises ChainError."""
    if not 1 <= len(ders) <= MAX_CHAIN:
        raise ChainError(f"a chain has 1 to {MAX_CHAIN} certificates")
    try:
        return [x509.load_der_x509_certificate(der) for der in ders]
    except _BROKEN:
        raise ChainError("a certificate cannot be read") from None


def check(chain: Sequence[x509.Certificate]) -> None:
    """Signatures, order, root and extensions of a whole chain, leaf first. Raises ChainError; time is not looked at."""
    try:
        _check_links(chain)
        _check_leaf(chain[0])
        for depth, certificate in enumerate(chain[1:]):
            _check_authority(certificate, depth)
    except _BROKEN:
        raise ChainError("a certificate's fields cannot be read") from None


def valid_at(chain: Sequence[x509.Certificate], instant: datetime) -> bool:
    """Whether every certificate of the chain is inside its validity. Raises ChainError."""
    try:
        return all(item.not_valid_before_utc <= instant <= item.not_valid_after_utc for item in chain)
    except _BROKEN:
        raise ChainError("a certificate's validity cannot be read") from None


def has_revocation_pointer(chain: Sequence[x509.Certificate]) -> bool:
    """Whether a certificate below the root names a CRL or OCSP responder."""
    return any(_points(certificate) for certificate in chain[:-1] or chain)


def subject_of(certificate: x509.Certificate) -> dict[str, str]:
    """The subject's fields by their short names; unknown kinds are left out. Raises ChainError if one is twice."""
    names = {oid: short for short, oid in _SUBJECT_KEYS.items()}
    try:
        fields = [(names[item.oid], str(item.value)) for item in certificate.subject if item.oid in names]
    except _BROKEN:
        raise ChainError("the leaf's subject cannot be read") from None
    if len(dict(fields)) != len(fields):
        raise ChainError("the leaf's subject has a field twice, so an identity could match either")
    return dict(fields)


def algorithm_of(certificate: x509.Certificate) -> str:
    """The one JWS algorithm that goes with the leaf's key. Raises ChainError for other keys."""
    try:
        key = certificate.public_key()
    except _BROKEN:
        raise ChainError("the leaf's key cannot be read") from None
    if isinstance(key, rsa.RSAPublicKey):
        found = {2048: "PS256", 3072: "PS384", 4096: "PS512"}.get(key.key_size)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        found = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}.get(key.curve.name)
    else:
        found = None
    if found is None:
        raise ChainError("the leaf's key is of a kind that Notation does not use")
    return found


def _check_links(chain: Sequence[x509.Certificate]) -> None:
    for certificate in chain:
        if not isinstance(certificate.signature_hash_algorithm, _HASHES):
            raise ChainError("a certificate is signed with a weak or unknown hash")
    for child, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):  # the root issued itself
        try:
            child.verify_directly_issued_by(issuer)
        except (*_BROKEN, InvalidSignature):
            raise ChainError("a certificate was not issued by the next one, or there is no root") from None


def _check_leaf(leaf: x509.Certificate) -> None:
    usage = _key_usage(leaf)
    forbidden = (
        usage.key_encipherment,
        usage.data_encipherment,
        usage.key_agreement,
        usage.key_cert_sign,
        usage.crl_sign,
    )
    if not usage.digital_signature or any(forbidden):
        raise ChainError("the leaf's key usage is not digitalSignature alone")
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise ChainError("the leaf is a certificate authority")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is not None and any(use in _FORBIDDEN_USES for use in extended.value):
        raise ChainError("the leaf's extended key usage is not for signing code")


def _check_authority(certificate: x509.Certificate, below: int) -> None:
    """`below` counts the authorities between this one and the leaf."""
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.critical or not constraints.value.ca:
        raise ChainError("an issuer is not marked as certificate authority")
    length = constraints.value.path_length
    if length is not None and below > length:
        raise ChainError("the chain is longer than an authority allows")
    if not _key_usage(certificate).key_cert_sign:
        raise ChainError("an issuer may not sign certificates")


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage:
    found = _extension(certificate, x509.KeyUsage)
    if found is None or not found.critical:
        raise ChainError("a certificate has no critical key usage")
    return found.value


def _points(certificate: x509.Certificate) -> bool:
    try:
        if _extension(certificate, x509.CRLDistributionPoints) is not None:
            return True
        access = _extension(certificate, x509.AuthorityInformationAccess)
    except _BROKEN:
        return True
    return access is not None and any(item.access_method == AuthorityInformationAccessOID.OCSP for item in access.value)


def _extension(certificate: x509.Certificate, kind: type[_T]) -> x509.Extension[_T] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
