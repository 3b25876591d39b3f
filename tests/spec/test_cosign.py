"""Signature formats against a fixed vector made outside of Berth, and the clauses that decide what counts.

The vector is of a throw-away P-256 key and of the manifest digest of the two bytes `{}`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci.descriptor import Descriptor
from berth.oci.media_types import OCI_MANIFEST, SIGSTORE_BUNDLE_V03
from berth.signing import attestations, bundle, classic, dsse, keys
from berth.signing.checks import TrustedKey, inspect

DER = base64.b64decode(
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhP4Mm7dIZuId2zxaYpJ/U9D9NxmX7S4FYiojYI6ARdKdKADr80sSGvxCJdQmQJSjuHEfesn+"
    "9U3wuqrEIp+Xuw=="
)
HINT = "Z7g3RB9oYVGk2xfmIeGFE5BkrSIBo+2ZI5oejso8Ydk="
D = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
REFERENCE = "reg.example/ml/demo:v1"
CLASSIC_SIGNATURE = "MEQCIGS9LaWNIIbYojiTtjDeJ6c6NVkYdG19gvpGqk0HuAYhAiBcnaJillqz0tjzStPV1AyxVqngRX9npiVoQLj8EQgkIw=="
BUNDLE_SIGNATURE = "MEUCIG+H/vwXvugyUWAas6Dpm3ktZHowR7y6AdnGadFseZ+FAiEA28fPMpOEm4KEdGsuS7d5FhPNkddI4yK2VK8YBIAuHOc="
KEY = keys.load_public_der(DER)
BUNDLE = json.dumps(
    {
        "mediaType": SIGSTORE_BUNDLE_V03,
        "verificationMaterial": {"publicKey": {"hint": HINT}},
        "dsseEnvelope": {
            "payload": base64.b64encode(attestations.signature_statement(D)).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": BUNDLE_SIGNATURE}],
        },
    }
).encode()


def test_the_hint_is_that_of_the_vector() -> None:
    """The bundle hint is the SHA-256 of the DER SubjectPublicKeyInfo in base64."""
    assert KEY.hint == HINT
    assert KEY.key_id == base64.b64decode(HINT).hex()


def test_our_payload_is_the_vectors_byte_for_byte() -> None:
    """Simple signing: `critical` with identity, image and type; `optional` null; no spaces."""
    body = classic.payload(D, REFERENCE)
    assert len(body) == 238
    assert digests.of_bytes(body) == "sha256:b7fc49b795eba75a0125fda65c0c8c97389b8556a9a8a46cba9b3497a006365a"


def test_the_vectors_classic_signature_verifies_here_and_with_openssl(tmp_path: Path) -> None:
    """The signature is over the payload bytes themselves, ECDSA P-256 with SHA-256, ASN.1 DER in base64."""
    body = classic.payload(D, REFERENCE)
    outcome = classic.verify(body, CLASSIC_SIGNATURE, keys=[KEY], digest=D, repository="ml/demo")
    assert (outcome.verdict, outcome.key_id) == ("valid", KEY.key_id)
    (tmp_path / "pub").write_text(KEY.pem)
    (tmp_path / "sig").write_bytes(base64.b64decode(CLASSIC_SIGNATURE))
    (tmp_path / "payload").write_bytes(body)
    command = ["openssl", "dgst", "-sha256", "-verify", "pub", "-signature", "sig", "payload"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout == b"Verified OK\n"


def test_our_statement_and_encoding_are_the_vectors_byte_for_byte() -> None:
    """PAE(type, body) = "DSSEv1" + SP + LEN(type) + SP + type + SP + LEN(body) + SP + body"""
    body = attestations.signature_statement(D)
    assert len(body) == 213
    encoded = dsse.pae("application/vnd.in-toto+json", body)
    assert encoded.startswith(b'DSSEv1 28 application/vnd.in-toto+json 213 {"_ty')
    assert len(encoded) == 256
    assert hashlib.sha256(encoded).hexdigest() == "0222210f489656acd13ef91473aa1b8594cacdfe8cc8d0996c51f4af0ef212de"


def test_the_vectors_bundle_verifies() -> None:
    """A bundle with a public key hint and a DSSE envelope whose statement is cosign's sign predicate."""
    outcome = bundle.verify(BUNDLE, keys=[KEY], digest=D, predicate_type=attestations.SIGN)
    assert (outcome.verdict, outcome.key_id) == ("valid", KEY.key_id)


@pytest.mark.parametrize("position", range(0, 238, 17))
def test_one_changed_byte_of_the_payload_is_enough(position: int) -> None:
    """Whoever verifies must reject a payload in which one byte was changed."""
    body = bytearray(classic.payload(D, REFERENCE))
    body[position] ^= 1
    outcome = classic.verify(bytes(body), CLASSIC_SIGNATURE, keys=[KEY], digest=D, repository="ml/demo")
    assert outcome.verdict == "untrusted"


def test_both_kinds_pass_through_the_whole_check() -> None:
    """An image passes when a distinct trusted key has a valid signature of either kind over its digest."""
    body = classic.payload(D, REFERENCE)
    _, image = classic.build(body, CLASSIC_SIGNATURE)
    blobs = {digests.of_bytes(body): body, digests.of_bytes(BUNDLE): BUNDLE}
    referrer = manifests.image(
        config=Descriptor("application/vnd.oci.empty.v1+json", D, 2),
        layers=[Descriptor(SIGSTORE_BUNDLE_V03, digests.of_bytes(BUNDLE), len(BUNDLE))],
        artifact_type=SIGSTORE_BUNDLE_V03,
        subject=Descriptor(OCI_MANIFEST, D, 2),
    )
    for manifest, kind in ((image, "cosign-classic"), (referrer, "sigstore-bundle")):
        [record] = inspect(
            manifests.parse(manifest),
            digests.of_bytes(manifest),
            subject=D,
            repository="ml/demo",
            blobs=blobs.get,
            keys=[TrustedKey(KEY)],
        )
        assert (record.kind, record.verdict, record.key_id) == (kind, "valid", KEY.key_id)
