"""`inspect`: one record per signature, each judged alone, whatever stands beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import DigestInvalid, TooLarge
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.signing import attestations, bundle, classic, keys
from berth.signing.checks import SignatureRecord, TrustedKey, inspect

D = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
OTHER = "sha256:" + "ab" * 32
HERE = "sha256:" + "cd" * 32
SUBJECT = Descriptor(types.OCI_INDEX, D, 2)
CREATED = datetime(2026, 11, 23, tzinfo=UTC)
PAYLOAD = classic.payload(D, "reg.example/ml/demo:v1")
STATEMENT = attestations.signature_statement(D)

MINE = keys.load_private(keys.generate()[0])
SECOND = keys.load_private(keys.generate("ed25519")[0])
FOREIGN = keys.load_private(keys.generate()[0])
TRUST = [TrustedKey(MINE.public), TrustedKey(SECOND.public)]


TEXT = st.characters(exclude_characters="\0", codec="utf-8")  # a manifest with NUL is not parsed at all


class Depot:
    """Blobs by digest."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    def put(self, data: bytes) -> str:
        digest = digests.of_bytes(data)
        self.blobs[digest] = data
        return digest

    def __call__(self, digest: str) -> bytes | None:
        self.asked.append(digest)
        return self.blobs.get(digest)


@pytest.fixture
def depot() -> Depot:
    return Depot()


def text(body: bytes, key: keys.PrivateKey) -> str:
    return base64.b64encode(key.sign(body)).decode()


def classic_layer(depot: Depot, key: keys.PrivateKey, body: bytes = PAYLOAD, **annotations: str) -> Descriptor:
    depot.put(body)
    layer = classic.layer(body, text(body, key))
    more = {name.replace("__", "/"): value for name, value in annotations.items()}
    return Descriptor(layer.media_type, layer.digest, layer.size, annotations={**layer.annotations, **more})


def sig_image(layers: Sequence[Descriptor], **more: Any) -> manifests.Manifest:
    return manifests.parse(manifests.image(config=Descriptor(types.OCI_CONFIG, OTHER, 2), layers=layers, **more))


def referrer(
    depot: Depot,
    statement: bytes,
    key: keys.PrivateKey,
    *,
    subject: Descriptor = SUBJECT,
    said: str = attestations.SIGN,
) -> manifests.Manifest:
    blob = bundle.sign_statement(statement, key)
    depot.put(blob)
    return manifests.parse(bundle.build(blob, subject=subject, predicate_type=said, created=CREATED))


def look(manifest: manifests.Manifest, depot: Callable[[str], bytes | None], **more: Any) -> list[SignatureRecord]:
    arguments: dict[str, Any] = {"subject": D, "repository": "ml/demo", "blobs": depot, "keys": TRUST} | more
    records = inspect(manifest, HERE, **arguments)
    assert all((record.verdict == "valid") == (record.reason == "") for record in records)
    assert len({(record.payload, record.signature) for record in records}) == len(records)
    return records


def short(records: list[SignatureRecord]) -> list[tuple[str, str, str]]:
    return [(record.kind, record.verdict, record.reason) for record in records]


def test_a_classic_signature_is_recorded_in_full(depot: Depot) -> None:
    body = classic.payload(D, "reg.example/ml/demo:v1", {"a": "b"})
    [record] = look(sig_image([classic_layer(depot, MINE, body)]), depot)
    assert record == SignatureRecord(
        kind="cosign-classic",
        manifest=HERE,
        payload=digests.of_bytes(body),
        signature=record.signature,
        key_id=MINE.public.key_id,
        predicate_type=None,
        annotations={"a": "b"},
        verdict="valid",
        reason="",
    )
    assert MINE.public.verify(body, base64.b64decode(record.signature))


def test_two_signatures_the_first_by_a_foreign_key(depot: Depot) -> None:
    records = look(sig_image([classic_layer(depot, FOREIGN), classic_layer(depot, MINE)]), depot)
    assert short(records) == [("cosign-classic", "untrusted", "unknown_key"), ("cosign-classic", "valid", "")]


def test_no_bad_neighbour_spoils_a_good_signature(depot: Depot) -> None:
    missing = Descriptor(types.COSIGN_SIMPLE_SIGNING, OTHER, 5, annotations={classic.SIGNATURE_ANNOTATION: "AAAA"})
    damaged = Descriptor(types.COSIGN_SIMPLE_SIGNING, HERE, 5, annotations={classic.SIGNATURE_ANNOTATION: "AAAA"})
    depot.blobs[HERE] = b"wrong"
    huge = Descriptor(types.COSIGN_SIMPLE_SIGNING, HERE, 2**40, annotations={classic.SIGNATURE_ANNOTATION: "AAAB"})
    garbage = Descriptor(types.COSIGN_SIMPLE_SIGNING, depot.put(b"{"), 1, annotations={"x": "y"})
    about_other = classic_layer(depot, MINE, classic.payload(OTHER, "reg.example/ml/demo:v1"))
    copied = classic_layer(depot, MINE, classic.payload(D, "reg.example/ml/other:v1"))
    keyless = classic_layer(depot, MINE, PAYLOAD, dev_sigstore="x")
    keyless = Descriptor(
        keyless.media_type,
        keyless.digest,
        keyless.size,
        annotations={**keyless.annotations, "dev.sigstore.cosign/certificate": "x"},
    )
    unknown = Descriptor("application/x-unknown", OTHER, 5)
    good = classic_layer(depot, SECOND)
    layers = [missing, damaged, huge, garbage, about_other, copied, keyless, unknown, good]
    for order in (layers, layers[::-1]):
        records = {(record.payload, record.signature): record for record in look(sig_image(order), depot)}
        got = sorted((record.verdict, record.reason) for record in records.values())
        assert got == [
            ("invalid", "bad_format"),
            ("invalid", "bad_format"),
            ("invalid", "blob_missing"),
            ("invalid", "digest_mismatch"),
            ("invalid", "digest_mismatch"),
            ("invalid", "identity_mismatch"),
            ("unsupported", "unknown_key"),
            ("valid", ""),
        ]


def test_nothing_over_the_limit_is_read(depot: Depot) -> None:
    at_limit = b"x" * 1024 * 1024
    over = Descriptor(types.COSIGN_SIMPLE_SIGNING, depot.put(at_limit + b"x"), len(at_limit) + 1)
    assert short(look(sig_image([over]), depot)) == [("cosign-classic", "invalid", "bad_format")]
    assert depot.asked == []
    inside = classic_layer(depot, MINE, at_limit)
    assert short(look(sig_image([inside]), depot)) == [("cosign-classic", "invalid", "bad_format")]
    assert depot.asked == [inside.digest]
    large = Descriptor(types.DSSE_ENVELOPE, OTHER, 16 * 1024 * 1024 + 1)
    assert short(look(sig_image([large]), depot)) == [("attestation", "invalid", "bad_format")]
    assert depot.asked == [inside.digest]


def test_more_than_a_hundred_signatures_are_an_error_and_a_hundred_are_not(depot: Depot) -> None:
    junk = [
        Descriptor(types.COSIGN_SIMPLE_SIGNING, OTHER, 5, annotations={classic.SIGNATURE_ANNOTATION: f"{number:04}"})
        for number in range(100)
    ]
    good = classic_layer(depot, MINE)
    assert short(look(sig_image([*junk[1:], good]), depot))[-1] == ("cosign-classic", "valid", "")
    with pytest.raises(TooLarge):
        look(sig_image([*junk, good]), depot)


def test_the_same_signature_twice_is_one_and_a_spoilt_copy_does_not_win(depot: Depot) -> None:
    good = classic_layer(depot, MINE)
    spoilt = Descriptor(
        good.media_type, good.digest, good.size, annotations={**good.annotations, "dev.sigstore.cosign/bundle": "x"}
    )
    wrong_size = Descriptor(good.media_type, good.digest, good.size + 1, annotations=good.annotations)
    assert short(look(sig_image([wrong_size]), depot)) == [("cosign-classic", "invalid", "digest_mismatch")]
    for layers in ([good, good], [good, spoilt], [spoilt, good], [wrong_size, good], [good, wrong_size]):
        assert short(look(sig_image(layers), depot)) == [("cosign-classic", "valid", "")]


@pytest.mark.parametrize("name", ["certificate", "chain", "bundle", "rfc3161timestamp"])
def test_keyless_material_is_unsupported_and_never_valid(depot: Depot, name: str) -> None:
    good = classic_layer(depot, MINE)
    layer = Descriptor(
        good.media_type, good.digest, good.size, annotations={**good.annotations, f"dev.sigstore.cosign/{name}": ""}
    )
    assert short(look(sig_image([layer]), depot)) == [("cosign-classic", "unsupported", "unknown_key")]


def test_an_endless_signature_text_is_bounded_and_still_one_record_each(depot: Depot) -> None:
    layers = [
        Descriptor(
            types.COSIGN_SIMPLE_SIGNING,
            depot.put(PAYLOAD),
            len(PAYLOAD),
            annotations={classic.SIGNATURE_ANNOTATION: char * 5000},
        )
        for char in "AB"
    ]
    records = look(sig_image(layers), depot)
    assert [record.reason for record in records] == ["bad_format", "bad_format"]
    assert all(len(record.signature) <= 2048 for record in records)


def test_a_key_counts_only_for_what_it_is_trusted_for(depot: Depot) -> None:
    scanner = [TrustedKey(MINE.public, (attestations.VULN,))]
    sig = sig_image([classic_layer(depot, MINE)])
    assert short(look(sig, depot, keys=scanner)) == [("cosign-classic", "untrusted", "wrong_predicate")]
    as_bundle = referrer(depot, STATEMENT, MINE)
    assert short(look(as_bundle, depot, keys=scanner)) == [("sigstore-bundle", "untrusted", "wrong_predicate")]
    report = referrer(depot, attestations.statement(D, attestations.VULN, {}), MINE, said=attestations.VULN)
    assert short(look(report, depot, keys=scanner)) == [("attestation", "valid", "")]
    assert short(look(report, depot, keys=TRUST)) == [("attestation", "untrusted", "wrong_predicate")]
    both = [TrustedKey(MINE.public, (attestations.VULN,)), TrustedKey(MINE.public)]
    for manifest in (sig, as_bundle, report):
        assert [record.verdict for record in look(manifest, depot, keys=both)] == ["valid"]


def test_what_one_key_may_say_is_not_lent_to_another(depot: Depot) -> None:
    trust = [TrustedKey(SECOND.public), TrustedKey(MINE.public, (attestations.VULN,))]
    mine = referrer(depot, STATEMENT, MINE)
    assert short(look(mine, depot, keys=trust)) == [("sigstore-bundle", "untrusted", "wrong_predicate")]
    assert short(look(referrer(depot, STATEMENT, SECOND), depot, keys=trust)) == [("sigstore-bundle", "valid", "")]


def test_without_keys_everything_is_untrusted(depot: Depot) -> None:
    for manifest in (sig_image([classic_layer(depot, MINE)]), referrer(depot, STATEMENT, MINE)):
        assert [(r.verdict, r.reason, r.key_id) for r in look(manifest, depot, keys=[])] == [
            ("untrusted", "unknown_key", None)
        ]


def test_a_bundle_is_a_signature_only_by_its_own_predicate(depot: Depot) -> None:
    [record] = look(referrer(depot, STATEMENT, SECOND), depot)
    assert (record.kind, record.verdict, record.predicate_type) == ("sigstore-bundle", "valid", attestations.SIGN)
    # The annotation claims a signature; the statement inside is what counts.
    lied = referrer(depot, attestations.statement(D, attestations.VULN, {}), MINE, said=attestations.SIGN)
    trust = [TrustedKey(MINE.public, ("signature", attestations.VULN))]
    [record] = look(lied, depot, keys=trust)
    assert (record.kind, record.verdict, record.predicate_type) == ("attestation", "valid", attestations.VULN)


def test_a_bundle_under_another_manifest_is_invalid(depot: Depot) -> None:
    elsewhere = Descriptor(types.OCI_INDEX, OTHER, 2)
    moved = referrer(depot, STATEMENT, MINE, subject=elsewhere)
    assert short(look(moved, depot)) == [("sigstore-bundle", "invalid", "digest_mismatch")]
    assert short(look(moved, depot, subject=OTHER)) == [("sigstore-bundle", "invalid", "digest_mismatch")]
    blob = bundle.sign_statement(STATEMENT, MINE)
    untied = sig_image([Descriptor(types.SIGSTORE_BUNDLE_V03, depot.put(blob), len(blob))])
    assert short(look(untied, depot)) == [("sigstore-bundle", "invalid", "digest_mismatch")]


def test_an_unreadable_bundle_is_a_bad_signature_or_attestation_by_its_annotation(depot: Depot) -> None:
    for said, kind in ((attestations.SIGN, "sigstore-bundle"), (attestations.VULN, "attestation")):
        body = bundle.build(b"{}", subject=SUBJECT, predicate_type=said, created=CREATED)
        depot.put(b"{}")
        assert short(look(manifests.parse(body), depot)) == [(kind, "invalid", "bad_format")]


def test_each_signature_of_a_bare_envelope_is_a_record(depot: Depot) -> None:
    statement = attestations.statement(D, attestations.VULN, {}, annotations={"a": "b"})
    envelope, _, body = attestations.build(statement, FOREIGN)
    value = json.loads(envelope)
    value["signatures"] += json.loads(attestations.build(statement, MINE)[0])["signatures"]
    value["signatures"] += [{"sig": "!"}]
    both = json.dumps(value).encode()
    image = sig_image([Descriptor(types.DSSE_ENVELOPE, depot.put(both), len(both))])
    records = look(image, depot, keys=[TrustedKey(MINE.public, (attestations.VULN,))])
    assert short(records) == [
        ("attestation", "untrusted", "unknown_key"),
        ("attestation", "valid", ""),
        ("attestation", "invalid", "bad_format"),
    ]
    assert records[1].annotations == {"a": "b"}
    depot.put(envelope)
    assert short(look(manifests.parse(body), depot)) == [("attestation", "untrusted", "unknown_key")]


def notation_manifest(layer: Descriptor, **more: Any) -> manifests.Manifest:
    arguments: dict[str, Any] = {"artifact_type": types.NOTARY_SIGNATURE, "subject": SUBJECT} | more
    return manifests.parse(manifests.image(config=Descriptor(types.OCI_EMPTY, D, 2), layers=[layer], **arguments))


def test_notation_envelopes_are_told_apart(depot: Depot) -> None:
    cose = Descriptor("application/cose", OTHER, 5)
    assert short(look(notation_manifest(cose), depot)) == [("notation", "unsupported", "bad_format")]
    broken = Descriptor("application/jose+json", depot.put(b"{}"), 2)
    assert short(look(notation_manifest(broken), depot)) == [("notation", "invalid", "bad_format")]
    missing = Descriptor("application/jose+json", OTHER, 2)
    assert short(look(notation_manifest(missing), depot)) == [("notation", "invalid", "blob_missing")]
    odd = Descriptor("text/plain", OTHER, 2)
    assert short(look(notation_manifest(odd), depot)) == [("notation", "invalid", "bad_format")]
    older = manifests.image(config=Descriptor(types.NOTARY_SIGNATURE, D, 2), layers=[cose], subject=SUBJECT)
    assert short(look(manifests.parse(older), depot)) == [("notation", "unsupported", "bad_format")]


def test_what_carries_no_signature_gives_no_record(depot: Depot) -> None:
    assert look(manifests.parse(manifests.index([SUBJECT])), depot) == []
    assert look(sig_image([Descriptor(types.OCI_LAYER_TAR, OTHER, 5)]), depot) == []
    assert look(sig_image([]), depot) == []
    report = sig_image([Descriptor(types.REPORT_TRIVY, OTHER, 5)], artifact_type=types.REPORT_TRIVY, subject=SUBJECT)
    assert look(report, depot) == []


def test_the_subject_must_be_a_digest(depot: Depot) -> None:
    with pytest.raises(DigestInvalid):
        look(sig_image([classic_layer(depot, MINE)]), depot, subject="latest")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [types.COSIGN_SIMPLE_SIGNING, types.DSSE_ENVELOPE, types.SIGSTORE_BUNDLE_V03, types.JOSE_JSON]
            ),
            st.binary(max_size=60) | st.sampled_from([PAYLOAD, STATEMENT, b"{}", b"[]", b"null"]),
            st.dictionaries(
                st.sampled_from([classic.SIGNATURE_ANNOTATION, "dev.sigstore.cosign/bundle", "predicateType"]),
                st.text(TEXT, max_size=12) | st.just("AAAA"),
            ),
        ),
        max_size=4,
    ),
    st.sampled_from([None, types.NOTARY_SIGNATURE, types.SIGSTORE_BUNDLE_V03]),
)
def test_arbitrary_layers_are_never_valid_and_never_raise(
    parts: list[tuple[str, bytes, dict[str, str]]], artifact_type: str | None
) -> None:
    depot = Depot()
    layers = [Descriptor(kind, depot.put(body), len(body), annotations=notes) for kind, body, notes in parts]
    manifest = sig_image(layers, artifact_type=artifact_type, subject=SUBJECT)
    assert all(record.verdict != "valid" for record in look(manifest, depot))
