"""Which keys do we make, read and believe? (signing rules section 1.)

The configured key decides the algorithm: P-256 with SHA-256, P-384 with SHA-256 or SHA-384, RSA of 2048 bits and
more with PKCS#1 v1.5 and SHA-256, Ed25519 pure. Nothing in a signed object may choose it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from berth.errors import InvalidInput

Algorithm = Literal["ecdsa-p256", "ecdsa-p384", "rsa-pkcs1v15-sha256", "ed25519"]
CREATED: tuple[Algorithm, ...] = ("ecdsa-p256", "ed25519")

MAX_PEM_BYTES = 64 * 1024
_RSA_BITS = range(2048, 8193)
_COSIGN_MARKS = (b"ENCRYPTED COSIGN PRIVATE KEY", b"ENCRYPTED SIGSTORE PRIVATE KEY")

_Public = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
_Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class PublicKey:
    """A public key of an accepted algorithm. Two are equal when their DER is."""

    der: bytes
    algorithm: Algorithm

    @cached_property
    def key_id(self) -> str:
        """Hex SHA-256 of the DER SubjectPublicKeyInfo."""
        return hashlib.sha256(self.der).hexdigest()

    @cached_property
    def hint(self) -> str:
        """The same 32 bytes in base64, as bundles carry them."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode("ascii")

    @cached_property
    def pem(self) -> str:
        """SubjectPublicKeyInfo PEM."""
        lines = base64.encodebytes(self.der).replace(b"\n", b"").decode("ascii")
        body = "\n".join(lines[start : start + 64] for start in range(0, len(lines), 64))
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"

    @cached_property
    def _key(self) -> _Public:
        key = serialization.load_der_public_key(self.der)
        assert isinstance(key, _Public)  # noqa: S101 - `_public` is the only maker and has looked
        return key

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature over exactly these bytes was made by this key's private half; never raises."""
        key = self._key
        if isinstance(key, ed25519.Ed25519PublicKey):
            return _holds(lambda: key.verify(signature, data))
        if isinstance(key, rsa.RSAPublicKey):
            return _holds(lambda: key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256()))
        candidates: tuple[hashes.HashAlgorithm, ...] = (hashes.SHA256(),)
        if self.algorithm == "ecdsa-p384":
            candidates = (hashes.SHA384(), hashes.SHA256())
        return any(_ecdsa(key, data, signature, algorithm) for algorithm in candidates)


@dataclass(frozen=True)
class PrivateKey:
    """A private key in memory; never shown, its public half is `public`."""

    public: PublicKey
    _key: _Private

    def __repr__(self) -> str:
        return f"PrivateKey(key_id={self.public.key_id!r})"

    def sign(self, data: bytes) -> bytes:
        """The signature over the data: ASN.1 DER for ECDSA."""
        key = self._key
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(data)
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        chosen = hashes.SHA384() if self.public.algorithm == "ecdsa-p384" else hashes.SHA256()
        return key.sign(data, ec.ECDSA(chosen))


def generate(algorithm: str = "ecdsa-p256", password: bytes | None = None) -> tuple[bytes, bytes]:
    """Make a key pair.

    Args:
        algorithm: `ecdsa-p256` or `ed25519`.
        password: encrypts the private half; None or empty leaves it in the clear.
    Returns:
        PKCS#8 PEM and SubjectPublicKeyInfo PEM.
    Raises:
        InvalidInput: an algorithm we do not make.
    """
    key: _Private
    if algorithm == "ecdsa-p256":
        key = ec.generate_private_key(ec.SECP256R1())
    elif algorithm == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        raise InvalidInput(f"Keys of type {algorithm[:40]!r} are not made here.", hint=f"Use {' or '.join(CREATED)}.")
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return private, _public(key.public_key()).pem.encode("ascii")


def load_private(pem: bytes | str, password: bytes | None = None) -> PrivateKey:
    """Read a private key from PEM (PKCS#8, or the older SEC 1 and PKCS#1 forms), encrypted or not.

    Raises:
        InvalidInput: not a key, wrong or missing password, or an algorithm we do not accept.
    """
    data = _pem(pem)
    if any(mark in data for mark in _COSIGN_MARKS):
        raise InvalidInput(
            "This private key is encrypted in cosign's own format, which only cosign opens.",
            hint="Make a key pair here, trust its public half, and give cosign the same one with "
            "`cosign import-key-pair`; what the old key signed keeps verifying as long as it is trusted.",
        )
    try:
        key = serialization.load_pem_private_key(data, password or None)
    except TypeError as error:  # a password where none is needed, or none where one is
        if not password:
            raise InvalidInput("The private key is encrypted.", hint="Give its password.") from None
        if "not encrypted" in str(error):
            return load_private(data, None)
        raise InvalidInput("The private key cannot be read.") from None
    except (ValueError, UnsupportedAlgorithm):
        text = "The private key cannot be read: it is damaged or the password is wrong."
        raise InvalidInput(text, hint="Give a PEM private key (PKCS#8) and its password.") from None
    if not isinstance(key, _Private):
        raise _unaccepted(type(key).__name__)
    return PrivateKey(_public(key.public_key()), key)


def load_public(pem: bytes | str) -> PublicKey:
    """Read a public key from SubjectPublicKeyInfo PEM.

    Raises:
        InvalidInput: not such a key, or of an algorithm or size we do not accept.
    """
    data = _pem(pem)
    if b"PRIVATE KEY" in data:
        raise InvalidInput("This is a private key.", hint="Give the public half; keep this one to yourself.")
    if b"-----BEGIN PUBLIC KEY-----" not in data:
        raise InvalidInput("This is not a public key.", hint="Give PEM that begins with BEGIN PUBLIC KEY.")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidInput("The public key cannot be read.", hint="Give SubjectPublicKeyInfo PEM.") from None
    return _public(key)


def load_public_der(der: bytes) -> PublicKey:
    """Read a public key from DER SubjectPublicKeyInfo. Raises InvalidInput as `load_public` does."""
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidInput("The public key cannot be read.") from None
    return _public(key)


def _public(key: object) -> PublicKey:
    algorithm: Algorithm
    if isinstance(key, ed25519.Ed25519PublicKey):
        algorithm = "ed25519"
    elif isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        algorithm = "rsa-pkcs1v15-sha256"
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm = "ecdsa-p256"
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        algorithm = "ecdsa-p384"
    else:
        raise _unaccepted(type(key).__name__)
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(der, algorithm)


def _unaccepted(name: str) -> InvalidInput:
    return InvalidInput(
        f"Keys of this kind ({name}) are not accepted.",
        hint="Use ECDSA P-256 or P-384, RSA of 2048 to 8192 bits, or Ed25519.",
    )


def _pem(pem: bytes | str) -> bytes:
    data = pem.encode("utf-8", "replace") if isinstance(pem, str) else pem
    if len(data) > MAX_PEM_BYTES:
        raise InvalidInput(f"A key file has at most {MAX_PEM_BYTES} bytes.")
    return data


def _ecdsa(key: ec.EllipticCurvePublicKey, data: bytes, signature: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    return _holds(lambda: key.verify(signature, data, ec.ECDSA(algorithm)))


def _holds(check: Callable[[], None]) -> bool:
    try:
        check()
    except InvalidSignature:
        return False
    return True
