"""Notation signatures: chain, envelope and policy, each rule with a twin that passes."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.oci.descriptor import Descriptor
from berth.signing import notation
from berth.signing.notation import Policy

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
D = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
SUBJECT = Descriptor("application/vnd.oci.image.manifest.v1+json", D, 2)
IDENTITY = "x509.subject: C=DE, ST=Berlin, O=Example"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def ec_key(bits: int, which: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key({256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}[bits])


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def name(common: str, **more: str) -> x509.Name:
    fields = {"C": "DE", "ST": "Berlin", "O": "Example", "CN": common} | more
    oids = {
        "C": NameOID.COUNTRY_NAME,
        "ST": NameOID.STATE_OR_PROVINCE_NAME,
        "O": NameOID.ORGANIZATION_NAME,
        "CN": NameOID.COMMON_NAME,
    }
    return x509.Name([x509.NameAttribute(oids[key], value) for key, value in fields.items()])


def usage(*names: str) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
        "crl_sign encipher_only decipher_only"
    ).split()
    return x509.KeyUsage(**{item: item in names for item in every})


Extensions = list[tuple[x509.ExtensionType, bool]]
LEAF: Extensions = [(usage("digital_signature"), True)]
CA: Extensions = [(x509.BasicConstraints(ca=True, path_length=None), True), (usage("key_cert_sign"), True)]


def certificate(
    key: Key,
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: Key,
    extensions: Extensions,
    *,
    days: tuple[int, int] = (-100, 100),
    digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA1 | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, digest or hashes.SHA256())  # type: ignore[arg-type]


ROOT_KEY = ec_key(256, 1)
ROOT = certificate(ROOT_KEY, name("root"), name("root"), ROOT_KEY, CA)


def issue(key: Key, extensions: Extensions = LEAF, **more: Any) -> x509.Certificate:
    return certificate(key, more.pop("subject", name("leaf")), name("root"), ROOT_KEY, extensions, **more)


def der(item: x509.Certificate) -> bytes:
    return item.public_bytes(serialization.Encoding.DER)


def pem(*items: x509.Certificate) -> bytes:
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in items)


POLICY = Policy.of(pem(ROOT), ("*",))


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_signature(key: Key, data: bytes, algorithm: str) -> bytes:
    digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[algorithm[2:]]
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
    half = (key.curve.key_size + 7) // 8
    return r.to_bytes(half, "big") + s.to_bytes(half, "big")


def protected_header(algorithm: str = "ES256", **change: Any) -> dict[str, Any]:
    header = {
        "alg": algorithm,
        "cty": "application/vnd.cncf.notary.payload.v1+json",
        "crit": ["io.cncf.notary.signingScheme"],
        "io.cncf.notary.signingScheme": "notary.x509",
        "io.cncf.notary.signingTime": "2026-11-20T10:00:00Z",
    } | {key.replace("__", "."): item for key, item in change.items()}
    return {key: item for key, item in header.items() if item != "drop"}


def target(**change: Any) -> dict[str, Any]:
    return {"targetArtifact": {"mediaType": SUBJECT.media_type, "digest": D, "size": 2} | change}


def envelope(
    key: Key,
    chain: list[x509.Certificate],
    *,
    protected: dict[str, Any] | None = None,
    payload: object = None,
    signature: Callable[[Key, bytes, str], bytes] = raw_signature,
    **top: Any,
) -> bytes:
    header = protected or protected_header()
    first = b64url(json.dumps(header).encode())
    second = b64url(json.dumps(target() if payload is None else payload).encode())
    value: dict[str, Any] = {
        "payload": second,
        "protected": first,
        "header": {"x5c": [base64.b64encode(der(item)).decode() for item in chain]},
        "signature": b64url(signature(key, f"{first}.{second}".encode(), header["alg"])),
    }
    return json.dumps(value | top).encode()


def judge(blob: bytes, policy: Policy | None = POLICY, now: datetime = NOW) -> tuple[str, str]:
    outcome = notation.verify(blob, subject=SUBJECT, policy=policy, now=now)
    assert (outcome.verdict == "valid") == (outcome.reason == "")
    return outcome.verdict, outcome.reason


KEY = ec_key(256)
CHAIN = [issue(KEY), ROOT]


def test_a_good_signature_is_valid_and_names_the_leaf() -> None:
    outcome = notation.verify(
        envelope(KEY, CHAIN, payload=target(annotations={"a": "b"})), subject=SUBJECT, policy=POLICY, now=NOW
    )
    assert (outcome.verdict, outcome.key_id) == ("valid", "C=DE, ST=Berlin, O=Example, CN=leaf")
    assert outcome.annotations == {"a": "b"}


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec_key(256), "ES256"),
        (ec_key(384), "ES384"),
        (ec_key(521), "ES512"),
        (rsa_key(2048), "PS256"),
        (rsa_key(3072), "PS384"),
        (rsa_key(4096), "PS512"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_algorithm_is_the_one_of_the_table_for_the_leafs_key(key: Key, algorithm: str) -> None:
    chain = [issue(key), ROOT]
    assert judge(envelope(key, chain, protected=protected_header(algorithm))) == ("valid", "")
    others = ["ES256", "PS256", "PS384", "none", "HS256", "RS256", "", None]
    for other in others:
        if other != algorithm:
            blob = envelope(
                key, chain, protected=protected_header(algorithm) | {"alg": other}, signature=lambda *_: b"x"
            )
            assert judge(blob) == ("invalid", "bad_format"), other


def test_openssl_can_make_the_signature(tmp_path: Path) -> None:
    def sign(key: Key, data: bytes, algorithm: str) -> bytes:
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp_path / "key").write_bytes(private)
        (tmp_path / "data").write_bytes(data)
        options = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32".split()
        command = ["openssl", "dgst", "-sha256", *options, "-sign", "key", "data"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout

    key = rsa_key(2048)
    assert judge(envelope(key, [issue(key), ROOT], protected=protected_header("PS256"), signature=sign)) == (
        "valid",
        "",
    )


def test_joserfc_verifies_the_same_bytes_so_the_builder_of_these_tests_is_right() -> None:
    jws = pytest.importorskip("joserfc.jws")
    jwk = pytest.importorskip("joserfc.jwk")
    value = json.loads(envelope(KEY, CHAIN, protected=protected_header(crit="drop")))
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    compact = f"{value['protected']}.{value['payload']}.{value['signature']}"
    registry = jws.JWSRegistry(strict_check_header=False)
    got = jws.deserialize_compact(compact, jwk.ECKey.import_key(public), registry=registry)
    assert json.loads(got.payload) == target()


def test_a_der_signature_is_refused() -> None:
    blob = envelope(KEY, CHAIN, signature=lambda key, data, _: KEY.sign(data, ec.ECDSA(hashes.SHA256())))
    assert judge(blob) == ("invalid", "bad_signature")


def test_a_longer_spelling_of_the_same_numbers_is_refused() -> None:
    def padded(key: Key, data: bytes, algorithm: str) -> bytes:
        raw = raw_signature(key, data, algorithm)
        return raw[:32] + b"\0" + raw[32:]

    assert judge(envelope(KEY, CHAIN, signature=padded)) == ("invalid", "bad_signature")


def test_a_signature_by_another_key_or_over_other_bytes_is_refused() -> None:
    assert judge(envelope(ec_key(256, 7), CHAIN)) == ("invalid", "bad_signature")
    value = json.loads(envelope(KEY, CHAIN))
    changed = b64url(json.dumps(target(size=3)).encode())
    assert judge(json.dumps(value | {"payload": changed}).encode()) == ("invalid", "bad_signature")


SCHEME, EXPIRY = "io.cncf.notary.signingScheme", "io.cncf.notary.expiry"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"crit": "drop"}, ("invalid", "bad_format")),
        ({"crit": []}, ("invalid", "bad_format")),
        ({"crit": SCHEME}, ("invalid", "bad_format")),
        ({"crit": [SCHEME, "x"], "x": 1}, ("invalid", "bad_format")),
        ({"crit": [SCHEME, EXPIRY]}, ("invalid", "bad_format")),
        ({EXPIRY: "2027-01-01T00:00:00Z"}, ("invalid", "bad_format")),
        ({"crit": [SCHEME, EXPIRY], EXPIRY: "2027-01-01T00:00:00Z"}, ("valid", "")),
        ({"crit": [SCHEME, EXPIRY], EXPIRY: "2026-11-23T12:00:00Z"}, ("invalid", "expired")),
        ({"crit": [SCHEME, EXPIRY], EXPIRY: "2026-11-20T09:59:59Z"}, ("invalid", "expired")),
        ({"crit": [SCHEME, EXPIRY], EXPIRY: "soon"}, ("invalid", "bad_format")),
        ({"cty": "application/json"}, ("invalid", "bad_format")),
        ({"cty": "drop"}, ("invalid", "bad_format")),
        ({SCHEME: "notary.x509.signingAuthority"}, ("unsupported", "bad_format")),
        ({SCHEME: "other"}, ("invalid", "bad_format")),
        ({SCHEME: "drop"}, ("invalid", "bad_format")),
        ({"io.cncf.notary.signingTime": "drop"}, ("invalid", "bad_format")),
        ({"io.cncf.notary.signingTime": "2026-11-20T10:00:00.5Z"}, ("invalid", "bad_format")),
        ({"io.cncf.notary.signingTime": "2026-13-20T10:00:00Z"}, ("invalid", "bad_format")),
        ({"io.cncf.notary.signingTime": "2026-11-20T12:00:00+02:00"}, ("valid", "")),
        ({"io.cncf.notary.signingTime": "2020-01-01T00:00:00Z"}, ("invalid", "expired")),
        ({"org.example.extra": "1"}, ("valid", "")),
    ],
    ids=repr,
)
def test_protected_header(change: dict[str, Any], expected: tuple[str, str]) -> None:
    header = {key: item for key, item in (protected_header() | change).items() if item != "drop"}
    assert judge(envelope(KEY, CHAIN, protected=header)) == expected


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (target(digest="sha256:" + "0" * 64), "digest_mismatch"),
        (target(size=3), "digest_mismatch"),
        (target(size=2.0), "digest_mismatch"),
        (target(mediaType="application/vnd.oci.image.index.v1+json"), "digest_mismatch"),
        ({}, "bad_format"),
        ([], "bad_format"),
    ],
    ids=repr,
)
def test_the_payload_must_be_the_subjects_descriptor(payload: object, reason: str) -> None:
    blob = envelope(KEY, CHAIN, payload=payload)
    assert judge(blob) == ("invalid", reason)


@pytest.mark.parametrize(
    "top",
    [
        {"signatures": []},
        {"payload": 5},
        {"protected": "!"},
        {"protected": "AAAAA"},
        {"signature": None},
        {"header": None},
        {"header": {}},
        {"header": {"x5c": "x"}},
        {"header": {"x5c": [1]}},
        {"header": {"x5c": ["%"]}},
    ],
    ids=repr,
)
def test_a_malformed_envelope_is_refused(top: dict[str, Any]) -> None:
    value = json.loads(envelope(KEY, CHAIN)) | top
    assert judge(json.dumps(value).encode()) == ("invalid", "bad_format")


@pytest.mark.parametrize("x5c", [[], ["AAAA"], ["AAAA"] * 50])
def test_a_chain_that_cannot_be_read_is_refused(x5c: list[str]) -> None:
    assert judge(envelope(KEY, CHAIN, header={"x5c": x5c})) == ("invalid", "chain_invalid")


def test_a_chain_must_be_complete_and_in_order() -> None:
    other_root = certificate(ROOT_KEY, name("other"), name("other"), ROOT_KEY, CA)
    for chain in ([CHAIN[0]], [CHAIN[0], other_root], [CHAIN[0], ROOT, ROOT, CHAIN[0]]):
        assert judge(envelope(KEY, chain)) == ("invalid", "chain_invalid")


def test_a_forged_root_of_the_same_name_is_refused() -> None:
    forged = certificate(ec_key(256, 9), name("root"), name("root"), ec_key(256, 9), CA)
    assert judge(envelope(KEY, [CHAIN[0], forged])) == ("invalid", "chain_invalid")
    leaf = certificate(KEY, name("leaf"), name("root"), ec_key(256, 9), LEAF)
    assert judge(envelope(KEY, [leaf, forged])) == ("untrusted", "unknown_key")
    assert judge(envelope(KEY, [leaf, ROOT])) == ("invalid", "chain_invalid")


def with_intermediate(extensions: Extensions, root_extensions: Extensions = CA) -> tuple[bytes, Policy]:
    root = certificate(ROOT_KEY, name("root"), name("root"), ROOT_KEY, root_extensions)
    middle_key = ec_key(384, 3)
    middle = certificate(middle_key, name("middle"), name("root"), ROOT_KEY, extensions)
    leaf = certificate(KEY, name("leaf"), name("middle"), middle_key, LEAF, digest=hashes.SHA384())
    return envelope(KEY, [leaf, middle, root]), Policy.of(pem(root), ("*",))


def ca(path_length: int | None = None, *, critical: bool = True, is_ca: bool = True) -> Extensions:
    constraints = x509.BasicConstraints(ca=is_ca, path_length=path_length)
    return [(constraints, critical), (usage("key_cert_sign"), True)]


@pytest.mark.parametrize(
    ("middle", "root", "expected"),
    [
        (CA, CA, ("valid", "")),
        (ca(0), ca(1), ("valid", "")),
        (ca(0), ca(0), ("invalid", "chain_invalid")),
        (ca(critical=False), CA, ("invalid", "chain_invalid")),
        (ca(is_ca=False), CA, ("invalid", "chain_invalid")),
        (LEAF, CA, ("invalid", "chain_invalid")),
        ([CA[0]], CA, ("invalid", "chain_invalid")),
        ([CA[0], (usage("key_cert_sign"), False)], CA, ("invalid", "chain_invalid")),
        ([CA[0], (usage("crl_sign"), True)], CA, ("invalid", "chain_invalid")),
        (CA, ca(critical=False), ("invalid", "chain_invalid")),
    ],
)
def test_authorities(middle: Extensions, root: Extensions, expected: tuple[str, str]) -> None:
    blob, policy = with_intermediate(middle, root)
    assert judge(blob, policy) == expected


def test_any_certificate_of_the_chain_may_be_the_trusted_one() -> None:
    assert judge(envelope(KEY, CHAIN), Policy.of(pem(CHAIN[0]), ("*",))) == ("valid", "")


EKU = ExtendedKeyUsageOID


@pytest.mark.parametrize(
    ("extensions", "valid"),
    [
        (LEAF, True),
        ([(usage("digital_signature", "content_commitment"), True)], True),
        ([*LEAF, (x509.ExtendedKeyUsage([EKU.CODE_SIGNING]), False)], True),
        ([*LEAF, (x509.BasicConstraints(ca=False, path_length=None), True)], True),
        ([], False),
        ([(usage("digital_signature"), False)], False),
        ([(usage("content_commitment"), True)], False),
        *(
            ([(usage("digital_signature", bad), True)], False)
            for bad in ("key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
        ),
        *(
            ([*LEAF, (x509.ExtendedKeyUsage([EKU.CODE_SIGNING, bad]), False)], False)
            for bad in (
                EKU.ANY_EXTENDED_KEY_USAGE,
                EKU.SERVER_AUTH,
                EKU.CLIENT_AUTH,
                EKU.EMAIL_PROTECTION,
                EKU.TIME_STAMPING,
            )
        ),
        ([*LEAF, (x509.BasicConstraints(ca=True, path_length=None), True)], False),
    ],
)
def test_leaf_rules_also_for_a_lone_self_signed_certificate(extensions: Extensions, valid: bool) -> None:
    expected = ("valid", "") if valid else ("invalid", "chain_invalid")
    assert judge(envelope(KEY, [issue(KEY, extensions), ROOT])) == expected
    lone = certificate(KEY, name("leaf"), name("leaf"), KEY, extensions)
    assert judge(envelope(KEY, [lone]), Policy.of(pem(lone), ("*",))) == expected


def test_time_rules() -> None:
    for days in ((-100, -1), (1, 100)):
        assert judge(envelope(KEY, [issue(KEY, days=days), ROOT])) == ("invalid", "expired")
    young = issue(KEY, days=(-2, 100))  # signed before the leaf was valid
    assert judge(envelope(KEY, [young, ROOT])) == ("invalid", "expired")
    assert judge(envelope(KEY, CHAIN), now=NOW + timedelta(days=101)) == ("invalid", "expired")


def test_sha1_in_the_chain_is_refused(tmp_path: Path) -> None:
    script = """
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out cert -sha1 -days 3650 \
          -subj /C=DE/ST=Berlin/O=Example/CN=old -addext keyUsage=critical,digitalSignature \
          -addext basicConstraints=critical,CA:FALSE
    """
    subprocess.run(script, cwd=tmp_path, shell=True, capture_output=True, check=True)
    weak = x509.load_pem_x509_certificate((tmp_path / "cert").read_bytes())
    key = serialization.load_pem_private_key((tmp_path / "key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(weak.signature_hash_algorithm, hashes.SHA1)
    assert judge(envelope(key, [weak]), Policy.of(pem(weak), ("*",))) == ("invalid", "chain_invalid")


def test_a_revocation_pointer_that_cannot_be_asked_is_refused_unless_allowed() -> None:
    url = x509.UniformResourceIdentifier("http://crl.example/x")
    access = x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, url)])
    lists = x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)])
    issuers = x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, url)])
    lenient = Policy.of(pem(ROOT), ("*",), accept_unknown_revocation=True)
    for extension in (access, lists):
        blob = envelope(KEY, [issue(KEY, [*LEAF, (extension, False)]), ROOT])
        assert judge(blob) == ("invalid", "chain_invalid")
        assert judge(blob, lenient) == ("valid", "")
    assert judge(envelope(KEY, [issue(KEY, [*LEAF, (issuers, False)]), ROOT])) == ("valid", "")


@pytest.mark.parametrize(
    ("identities", "expected"),
    [
        (("*",), ("valid", "")),
        ((IDENTITY,), ("valid", "")),
        ((IDENTITY + ", CN=leaf",), ("valid", "")),
        ((IDENTITY + ", CN=other", IDENTITY), ("valid", "")),
        ((IDENTITY + ", CN=other",), ("untrusted", "identity_mismatch")),
        ((IDENTITY + ", OU=none",), ("untrusted", "identity_mismatch")),
        ((), ("untrusted", "identity_mismatch")),
    ],
)
def test_trusted_identities(identities: tuple[str, ...], expected: tuple[str, str]) -> None:
    assert judge(envelope(KEY, CHAIN), Policy.of(pem(ROOT), identities)) == expected


def test_a_subject_that_names_a_field_twice_matches_nothing() -> None:
    twice = x509.Name([*name("leaf"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Evil")])
    assert judge(envelope(KEY, [issue(KEY, subject=twice), ROOT])) == ("invalid", "chain_invalid")


def test_a_comma_in_an_identity_is_escaped() -> None:
    leaf = issue(KEY, subject=name("leaf", O="Example, Inc"))
    policy = Policy.of(pem(ROOT), (r"x509.subject: C=DE, ST=Berlin, O=Example\, Inc",))
    assert judge(envelope(KEY, [leaf, ROOT]), policy) == ("valid", "")


@pytest.mark.parametrize("identity", ["", "**", "x509.subject: O=Example", "C=DE, ST=B, O=x", IDENTITY + ", X=1"])
def test_identities_of_another_form_are_refused(identity: str) -> None:
    with pytest.raises(InvalidInput):
        Policy.of(pem(ROOT), (identity,))


def test_without_policy_nothing_is_valid() -> None:
    assert judge(envelope(KEY, CHAIN), None) == ("untrusted", "unknown_key")
    with pytest.raises(InvalidInput):
        Policy.of(b"", ("*",))


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_an_outcome(blob: bytes) -> None:
    assert judge(blob) == ("invalid", "bad_format")


@given(st.binary(max_size=60), st.integers(0, 700))
def test_a_damaged_certificate_is_never_valid_and_never_raises(noise: bytes, position: int) -> None:
    good = der(CHAIN[0])
    bad = good[:position] + noise + good[position + len(noise) :]
    if bad == good:
        return
    x5c = [base64.b64encode(item).decode() for item in (bad, der(ROOT))]
    assert judge(envelope(KEY, CHAIN, header={"x5c": x5c}))[0] != "valid"
