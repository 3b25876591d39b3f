"""Referrers and the tags that stand for them: what cosign and clients without the referrers API expect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import DigestInvalid
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci import referrers
from berth.oci.descriptor import Descriptor

HEX = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
D = f"sha256:{HEX}"
LONG = "sha512:" + "0123456789abcdef" * 8


def test_tags_of_a_sha256_digest() -> None:
    assert referrers.fallback_tag(D) == f"sha256-{HEX}"
    assert referrers.signature_tag(D) == f"sha256-{HEX}.sig"
    assert referrers.attestation_tag(D) == f"sha256-{HEX}.att"


def test_the_fallback_tag_of_sha512_is_cut_to_64_characters_and_cosign_has_none() -> None:
    assert referrers.fallback_tag(LONG) == "sha512-" + "0123456789abcdef" * 4
    for tag in (referrers.signature_tag, referrers.attestation_tag):
        with pytest.raises(DigestInvalid):
            tag(LONG)


def test_a_malformed_digest_never_becomes_a_tag() -> None:
    with pytest.raises(DigestInvalid):
        referrers.fallback_tag("sha256:../x")


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (f"sha256-{HEX}", (D, "referrers")),
        (f"sha256-{HEX}.sig", (D, "sig")),
        (f"sha256-{HEX}.att", (D, "att")),
        (f"sha256-{HEX}.sbom", (D, "sbom")),
        (f"sha256-{HEX}.cosign", None),
        (f"sha256-{HEX.upper()}.sig", None),
        (f"sha256-{HEX[1:]}.sig", None),
        (f"sha256-{HEX}.sig\n", None),
        (f"x-sha256-{HEX}.sig", None),
        ("sha512-" + "0" * 64, None),
        ("1.0.0", None),
        ("", None),
    ],
)
def test_the_subject_of_a_tag(tag: str, expected: tuple[str, str] | None) -> None:
    assert referrers.subject_of_tag(tag) == expected


@given(st.from_regex(r"[0-9a-f]{64}", fullmatch=True))
def test_tags_and_subjects_are_inverse(encoded: str) -> None:
    digest = f"sha256:{encoded}"
    assert referrers.subject_of_tag(referrers.signature_tag(digest)) == (digest, "sig")
    assert referrers.subject_of_tag(referrers.attestation_tag(digest)) == (digest, "att")
    assert referrers.subject_of_tag(referrers.fallback_tag(digest)) == (digest, "referrers")


def test_a_referrer_is_listed_with_its_type_and_annotations() -> None:
    body = manifests.image(config=Descriptor(types.NOTARY_SIGNATURE, D, 2), layers=[], annotations={"a": "b"})
    entry = referrers.descriptor_for(manifests.parse(body), LONG)
    assert json.loads(referrers.index_of([entry])) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": LONG,
                "size": len(body),
                "artifactType": "application/vnd.cncf.notary.signature",
                "annotations": {"a": "b"},
            }
        ],
    }
