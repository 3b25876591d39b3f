"""Keys: which are made, read and believed, with openssl as the other program."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.signing import keys

DATA = b"some bytes"


def openssl(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=check)


def pem_of(key: object) -> bytes:
    assert isinstance(
        key,
        ec.EllipticCurvePublicKey
        | rsa.RSAPublicKey
        | ed25519.Ed25519PublicKey
        | dsa.DSAPublicKey
        | x25519.X25519PublicKey,
    )
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ed25519"])
@pytest.mark.parametrize("password", [None, b"secret"])
def test_a_made_pair_signs_and_verifies_and_openssl_reads_it(
    algorithm: str, password: bytes | None, tmp_path: Path
) -> None:
    private, public = keys.generate(algorithm, password)
    assert (b"ENCRYPTED" in private) == (password is not None)
    key = keys.load_private(private, password)
    assert key.public == keys.load_public(public)
    assert key.public.algorithm == algorithm
    assert key.public.verify(DATA, key.sign(DATA))
    (tmp_path / "k").write_bytes(private)
    arguments = ["-passin", "pass:secret"] if password else []
    printed = openssl("pkey", "-in", tmp_path / "k", "-pubout", *arguments).stdout
    assert printed == public == key.public.pem.encode()


def test_the_default_is_p256_and_other_kinds_are_not_made() -> None:
    private, _ = keys.generate()
    assert keys.load_private(private).public.algorithm == "ecdsa-p256"
    for algorithm in ("rsa", "", "ecdsa-p384"):
        with pytest.raises(InvalidInput):
            keys.generate(algorithm)


def test_key_id_and_hint_are_the_hash_of_the_der_key(tmp_path: Path) -> None:
    _, public = keys.generate()
    (tmp_path / "p").write_bytes(public)
    der = openssl("pkey", "-pubin", "-in", tmp_path / "p", "-outform", "DER").stdout
    key = keys.load_public(public)
    assert key.key_id == hashlib.sha256(der).hexdigest()
    assert key.hint == base64.b64encode(hashlib.sha256(der).digest()).decode()
    assert keys.load_public_der(der) == key


def test_text_and_bytes_are_the_same_key() -> None:
    private, public = keys.generate()
    assert keys.load_public(public.decode()) == keys.load_public(public)
    assert keys.load_private(private.decode()).public == keys.load_public(public)


def test_a_password_that_is_not_needed_is_ignored_and_a_wrong_or_missing_one_refused() -> None:
    plain, _ = keys.generate()
    assert keys.load_private(plain, b"x").public.key_id
    locked, _ = keys.generate(password=b"right")
    for password in (b"wrong", None, b""):
        with pytest.raises(InvalidInput, match="password|encrypted"):
            keys.load_private(locked, password)


@pytest.mark.parametrize("label", ["COSIGN", "SIGSTORE"])
def test_cosigns_own_encrypted_format_is_named_with_the_way_out(label: str) -> None:
    pem = f"-----BEGIN ENCRYPTED {label} PRIVATE KEY-----\neyJ9\n-----END ENCRYPTED {label} PRIVATE KEY-----\n"
    with pytest.raises(InvalidInput, match="cosign") as caught:
        keys.load_private(pem, b"pw")
    assert "import-key-pair" in (caught.value.hint or "")


def test_private_keys_in_the_older_forms_of_openssl_are_read(tmp_path: Path) -> None:
    openssl("ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", tmp_path / "sec1")
    assert keys.load_private((tmp_path / "sec1").read_bytes()).public.algorithm == "ecdsa-p256"
    openssl("genrsa", "-traditional", "-out", tmp_path / "pkcs1", "2048")
    assert keys.load_private((tmp_path / "pkcs1").read_bytes()).public.algorithm == "rsa-pkcs1v15-sha256"


def test_a_private_key_does_not_show_itself() -> None:
    private, _ = keys.generate()
    assert "PRIVATE" not in repr(keys.load_private(private)).replace("PrivateKey", "")


P384 = ec.generate_private_key(ec.SECP384R1())
P256 = ec.generate_private_key(ec.SECP256R1())
RSA2048 = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()


def test_the_key_decides_the_algorithm() -> None:
    p384, p256 = keys.load_public(pem_of(P384.public_key())), keys.load_public(pem_of(P256.public_key()))
    rsa2048, ed = keys.load_public(pem_of(RSA2048.public_key())), keys.load_public(pem_of(ED.public_key()))
    accepted = [
        (p256, P256.sign(DATA, ec.ECDSA(hashes.SHA256()))),
        (p384, P384.sign(DATA, ec.ECDSA(hashes.SHA256()))),
        (p384, P384.sign(DATA, ec.ECDSA(hashes.SHA384()))),
        (rsa2048, RSA2048.sign(DATA, padding.PKCS1v15(), hashes.SHA256())),
        (ed, ED.sign(DATA)),
    ]
    refused = [
        (p256, P256.sign(DATA, ec.ECDSA(hashes.SHA384()))),
        (p384, P384.sign(DATA, ec.ECDSA(hashes.SHA512()))),
        (rsa2048, RSA2048.sign(DATA, padding.PKCS1v15(), hashes.SHA512())),
        (rsa2048, RSA2048.sign(DATA, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())),
        (ed, ED.sign(hashlib.sha256(DATA).digest())),
    ]
    assert [key.algorithm for key, signature in accepted if not key.verify(DATA, signature)] == []
    assert [key.algorithm for key, signature in refused if key.verify(DATA, signature)] == []
    assert not any(key.verify(DATA + b"x", signature) for key, signature in accepted)


@pytest.mark.parametrize(
    "public",
    [
        rsa.generate_private_key(65537, 1024).public_key(),
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        dsa.generate_private_key(1024).public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
    ],
    ids=["rsa1024", "p521", "k256", "dsa", "x25519"],
)
def test_other_keys_are_refused(public: object) -> None:
    with pytest.raises(InvalidInput, match="not accepted|cannot be read"):
        keys.load_public(pem_of(public))


def test_what_is_no_public_key_is_refused() -> None:
    private, public = keys.generate()
    certificate = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for pem in (b"", b"nonsense", private, certificate, public[:80], public + b"\n" * 70_000):
        with pytest.raises(InvalidInput):
            keys.load_public(pem)


@given(st.binary(max_size=120))
def test_arbitrary_signatures_are_false_and_never_raise(signature: bytes) -> None:
    for key in (P256, P384, RSA2048, ED):
        assert not keys.load_public(pem_of(key.public_key())).verify(DATA, signature)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_keys_raise_only_our_errors(data: bytes) -> None:
    wrapped = b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(data) + b"\n-----END PUBLIC KEY-----\n"
    for load in (keys.load_public, keys.load_public_der, keys.load_private):
        for pem in (data, wrapped):
            with pytest.raises(InvalidInput):
                load(pem)
