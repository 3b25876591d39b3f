"""Statements and the `.att` tag."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import BerthError, DigestInvalid, InvalidInput
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.signing import attestations, keys

HEX = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
D = f"sha256:{HEX}"
KEY = keys.load_private(keys.generate("ed25519")[0])


def test_a_statement_names_its_subject_and_predicate() -> None:
    body = attestations.statement(D, attestations.CYCLONEDX, {"bomFormat": "CycloneDX"}, name="reg.example/ml/demo")
    assert json.loads(body) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "reg.example/ml/demo", "digest": {"sha256": HEX}}],
        "predicateType": "https://cyclonedx.org/bom",
        "predicate": {"bomFormat": "CycloneDX"},
    }
    with pytest.raises(DigestInvalid):
        attestations.statement("x", attestations.SIGN, {})


def test_the_vulnerability_record_has_cosigns_fields() -> None:
    got = attestations.vulnerability_predicate(
        scanner="pkg:github/aquasecurity/trivy@0.76.0",
        version="0.76.0",
        database={"uri": "ghcr.io/x/db", "version": "2"},
        result={"Results": []},
        started=datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC),
        finished=datetime(2026, 11, 23, 1, 2, 4, tzinfo=UTC),
    )
    assert got == {
        "invocation": {"parameters": [], "uri": "", "event_id": "", "builder.id": ""},
        "scanner": {
            "uri": "pkg:github/aquasecurity/trivy@0.76.0",
            "version": "0.76.0",
            "db": {"uri": "ghcr.io/x/db", "version": "2"},
            "result": {"Results": []},
        },
        "metadata": {"scanStartedOn": "2026-11-23T01:02:03+00:00", "scanFinishedOn": "2026-11-23T01:02:04+00:00"},
    }


def test_provenance_has_the_required_fields_of_slsa_1() -> None:
    assert attestations.provenance_predicate("https://b/type", "https://b/id", {"a": 1}) == {
        "buildDefinition": {"buildType": "https://b/type", "externalParameters": {"a": 1}},
        "runDetails": {"builder": {"id": "https://b/id"}},
    }


@pytest.mark.parametrize("kind", ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"])
def test_both_statement_types_are_read(kind: str) -> None:
    value = {"_type": kind, "subject": [{"digest": {"sha1": "x"}}, {"digest": {"sha256": HEX}}], "predicateType": "p"}
    parsed = attestations.parse_statement(json.dumps(value).encode())
    assert (parsed.predicate_type, parsed.predicate) == ("p", {})
    assert parsed.subject_for(D) == {"digest": {"sha256": HEX}}
    assert parsed.subject_for("sha256:" + "0" * 64) is None


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v2"},
        {"_type": None},
        {"subject": None},
        {"subject": {}},
        {"subject": [1]},
        {"subject": [{}]},
        {"subject": [{"digest": "sha256"}]},
        {"predicateType": None},
        {"predicate": []},
        {"predicate": "x"},
    ],
    ids=repr,
)
def test_malformed_statements_are_refused(change: dict[str, Any]) -> None:
    value = json.loads(attestations.signature_statement(D))
    attestations.parse_statement(json.dumps(value).encode())
    with pytest.raises(InvalidInput):
        attestations.parse_statement(json.dumps(value | change).encode())


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_only_our_errors(body: bytes) -> None:
    for read in (attestations.parse_statement, attestations.read_envelope):
        with pytest.raises(BerthError):
            read(body)


def test_a_deep_report_is_read_and_an_absurd_one_refused() -> None:
    def nested(depth: int) -> bytes:
        return b'{"_type":"%b","subject":[],"predicateType":"p","predicate":{"x":%b1%b}}' % (
            attestations.STATEMENT_V1.encode(),
            b"[" * depth,
            b"]" * depth,
        )

    assert attestations.parse_statement(nested(200)).predicate_type == "p"
    with pytest.raises(InvalidInput):
        attestations.parse_statement(nested(100_000))


def test_the_att_tag_holds_bare_envelopes_as_cosign_2_reads_them() -> None:
    one, two = (attestations.statement(D, kind, {}) for kind in (attestations.VULN, attestations.SPDX))
    first_envelope, _, first = attestations.build(one, KEY)
    second_envelope, config, second = attestations.build(two, KEY, manifests.parse(first))
    layers = json.loads(second)["layers"]
    assert [layer["digest"] for layer in layers] == [
        digests.of_bytes(first_envelope),
        digests.of_bytes(second_envelope),
    ]
    assert layers[1]["mediaType"] == "application/vnd.dsse.envelope.v1+json"
    assert layers[1]["annotations"] == {
        "dev.cosignproject.cosign/signature": "",
        "predicateType": "https://spdx.dev/Document",
    }
    assert json.loads(config)["rootfs"]["diff_ids"] == [layer["digest"] for layer in layers]
    envelope = json.loads(second_envelope)
    assert list(envelope) == ["payloadType", "payload", "signatures"]
    assert base64.b64decode(envelope["payload"]) == two
    decoded = attestations.read_envelope(second_envelope)
    assert attestations.verify(decoded, 0, keys=[KEY.public], digest=D).predicate_type == attestations.SPDX
