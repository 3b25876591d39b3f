"""Sigstore bundles with a key: what we write, and what we refuse to believe; securesystemslib looks at the envelope."""

from __future__ import annotations

import base64
import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci.descriptor import Descriptor
from berth.signing import attestations, bundle, dsse, keys
from berth.signing.outcome import Outcome

D = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
OTHER = "sha256:" + "ab" * 32
V3 = "application/vnd.dev.sigstore.bundle.v0.3+json"
KEY = keys.load_private(keys.generate()[0])
FOREIGN = keys.load_private(keys.generate("ed25519")[0])
STATEMENT = attestations.signature_statement(D)
GOOD: dict[str, Any] = json.loads(bundle.sign_statement(STATEMENT, KEY))


def judge(value: object, **more: Any) -> tuple[str, str]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    arguments: dict[str, Any] = {"keys": [KEY.public], "digest": D, "predicate_type": attestations.SIGN} | more
    outcome = bundle.verify(body, **arguments)
    assert (outcome.verdict == "valid") == (outcome.reason == "")
    return outcome.verdict, outcome.reason


def test_the_bundle_has_the_fields_of_the_format_and_no_more() -> None:
    assert GOOD.keys() == {"mediaType", "verificationMaterial", "dsseEnvelope"}
    assert GOOD["mediaType"] == V3
    assert GOOD["verificationMaterial"] == {"publicKey": {"hint": KEY.public.hint}}
    envelope = GOOD["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert base64.b64decode(envelope["payload"]) == STATEMENT
    assert [entry.keys() for entry in envelope["signatures"]] == [{"sig"}]
    assert judge(GOOD) == ("valid", "")


@pytest.mark.parametrize("key", [KEY, FOREIGN], ids=["ecdsa-p256", "ed25519"])
def test_securesystemslib_verifies_our_envelope(key: keys.PrivateKey) -> None:
    pytest.importorskip("securesystemslib", reason="the outside DSSE verifier is not installed")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    outside = SSlibKey.from_crypto(load_pem_public_key(key.public.pem.encode()), keyid="one")  # type: ignore[arg-type]
    value = json.loads(bundle.sign_statement(STATEMENT, key))["dsseEnvelope"]
    value["signatures"][0]["keyid"] = "one"
    assert Envelope.from_dict(copy.deepcopy(value)).verify([outside], 1)  # from_dict changes what it is given
    value["payload"] = base64.b64encode(STATEMENT + b" ").decode()
    with pytest.raises(VerificationError):
        Envelope.from_dict(value).verify([outside], 1)


def test_only_statements_are_signed() -> None:
    with pytest.raises(InvalidInput):
        bundle.sign_statement(b"{}", KEY)


def test_the_referrer_manifest() -> None:
    blob = bundle.sign_statement(STATEMENT, KEY)
    subject = Descriptor("application/vnd.oci.image.index.v1+json", D, 2, annotations={"not": "copied"})
    created = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC)
    value = json.loads(bundle.build(blob, subject=subject, predicate_type=attestations.SIGN, created=created))
    assert value == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": V3,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": D, "size": 2},
        "layers": [{"mediaType": V3, "digest": digests.of_bytes(blob), "size": len(blob)}],
        "subject": {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": D, "size": 2},
        "annotations": {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
            "org.opencontainers.image.created": "2026-11-23T12:00:00Z",
        },
    }
    assert manifests.parse(json.dumps(value).encode()).referrer_artifact_type == V3


def test_signed_annotations_and_predicate_are_returned() -> None:
    blob = bundle.sign_statement(attestations.signature_statement(D, {"b": "2", "a": "1"}), KEY)
    outcome = bundle.verify(blob, keys=[FOREIGN.public, KEY.public], digest=D)
    assert outcome.annotations == {"a": "1", "b": "2"}
    assert (outcome.key_id, outcome.predicate_type, outcome.predicate) == (KEY.public.key_id, attestations.SIGN, {})


def changed(**change: Any) -> dict[str, Any]:
    return {key: item for key, item in (GOOD | change).items() if item != "drop"}


def enveloped(**change: Any) -> dict[str, Any]:
    return changed(dsseEnvelope=GOOD["dsseEnvelope"] | change)


@pytest.mark.parametrize(
    "value",
    [
        changed(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.3"),
        changed(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json"),
        changed(mediaType="application/vnd.dev.sigstore.bundle.v1.0+json"),
        changed(verificationMaterial={"publicKey": {"hint": "wrong"}}),
        changed(verificationMaterial={"publicKey": {}}),
        changed(verificationMaterial=GOOD["verificationMaterial"] | {"tlogEntries": []}),
        enveloped(signatures=[GOOD["dsseEnvelope"]["signatures"][0] | {"keyid": ""}]),
    ],
)
def test_variants_that_other_programs_write_are_accepted(value: dict[str, Any]) -> None:
    assert judge(value) == ("valid", "")


ONE = GOOD["dsseEnvelope"]["signatures"][0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (changed(mediaType="drop"), ("invalid", "bad_format")),
        (changed(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"), ("invalid", "bad_format")),
        (changed(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"), ("invalid", "bad_format")),
        (changed(mediaType="application/json"), ("invalid", "bad_format")),
        (changed(verificationMaterial="drop"), ("invalid", "bad_format")),
        (changed(verificationMaterial={}), ("invalid", "bad_format")),
        (changed(verificationMaterial={"certificate": {"rawBytes": ""}}), ("unsupported", "unknown_key")),
        (changed(verificationMaterial={"x509CertificateChain": {}}), ("unsupported", "unknown_key")),
        (changed(dsseEnvelope="drop", messageSignature={"signature": "AA=="}), ("unsupported", "bad_format")),
        (changed(dsseEnvelope="drop"), ("invalid", "bad_format")),
        (enveloped(payloadType="application/json"), ("invalid", "bad_format")),
        (enveloped(payload="%%%"), ("invalid", "bad_format")),
        (enveloped(signatures=[]), ("invalid", "bad_format")),
        (enveloped(signatures=[ONE, ONE]), ("invalid", "bad_format")),
        (enveloped(signatures=[{}]), ("invalid", "bad_format")),
        (enveloped(signatures=[{"sig": "!"}]), ("invalid", "bad_format")),
        (enveloped(signatures=[{"sig": "AAAA"}]), ("invalid", "bad_signature")),
        (enveloped(payload=base64.b64encode(STATEMENT + b" ").decode()), ("invalid", "bad_signature")),
        ([], ("invalid", "bad_format")),
        (b"", ("invalid", "bad_format")),
        (b'{"mediaType":"a","mediaType":"b"}', ("invalid", "bad_format")),
    ],
)
def test_rejections(value: object, expected: tuple[str, str]) -> None:
    assert judge(value) == expected


def test_a_foreign_key_is_untrusted() -> None:
    assert judge(bundle.sign_statement(STATEMENT, FOREIGN)) == ("untrusted", "unknown_key")
    assert judge(GOOD, keys=[]) == ("untrusted", "unknown_key")


def test_a_statement_about_another_digest_is_invalid() -> None:
    assert judge(GOOD, digest=OTHER) == ("invalid", "digest_mismatch")


def test_a_scan_report_is_not_a_signature() -> None:
    blob = bundle.sign_statement(attestations.statement(D, attestations.VULN, {}), KEY)
    assert judge(blob) == ("invalid", "wrong_predicate")
    assert judge(blob, predicate_type=attestations.VULN) == ("valid", "")


def test_a_key_that_may_not_say_it_is_untrusted_for_it() -> None:
    assert judge(GOOD, may_say=lambda key, predicate: False) == ("untrusted", "wrong_predicate")


def test_a_signature_over_the_payload_alone_is_refused() -> None:
    bare = base64.b64encode(KEY.sign(STATEMENT)).decode()
    assert judge(enveloped(signatures=[{"sig": bare}])) == ("invalid", "bad_signature")


def test_a_signature_statement_over_one_mebibyte_is_refused() -> None:
    big = attestations.statement(D, attestations.SIGN, {"x": "y" * 1024 * 1024})
    assert judge(bundle.sign_statement(big, KEY)) == ("invalid", "bad_format")
    report = attestations.statement(D, attestations.VULN, {"x": "y" * 1024 * 1024})
    assert judge(bundle.sign_statement(report, KEY), predicate_type=None) == ("valid", "")


def test_the_encoding_counts_bytes_and_separates_fields() -> None:
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"  # the example of the DSSE protocol
    )
    assert dsse.pae("é", "ü".encode()) == "DSSEv1 2 é 2 ü".encode()


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_an_outcome(blob: bytes) -> None:
    assert isinstance(bundle.read(blob), Outcome)


VALUES = st.recursive(
    st.none() | st.integers(0, 1) | st.sampled_from(["", "AA==", V3, "application/vnd.in-toto+json"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["publicKey", "hint", "payload", "payloadType", "signatures", "sig"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["verificationMaterial", "dsseEnvelope", "messageSignature"]), VALUES))
def test_arbitrary_bundles_are_never_valid(value: dict[str, Any]) -> None:
    assert judge({"mediaType": V3} | value)[0] != "valid"
    # The hint only orders the candidates: a good envelope stays good without it, another envelope never is.
    assert judge(GOOD | value)[0] != "valid" or "dsseEnvelope" not in value
