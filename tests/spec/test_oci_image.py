"""Clauses of the OCI image and distribution specifications (1.1), each quoted as the docstring of its test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from berth.errors import DigestInvalid, ManifestInvalid, NameInvalid
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import reference, referrers
from berth.oci.layout import Layout

EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": EMPTY, "size": 2}
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": EMPTY, "size": 2}


def image(**change: Any) -> manifests.Manifest:
    value = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]} | change
    return manifests.parse(json.dumps(value).encode(), "application/vnd.oci.image.manifest.v1+json")


def test_schema_version() -> None:
    """ "schemaVersion … MUST be 2 to ensure backward compatibility with older versions of Docker." (manifest.md)"""
    assert image().kind == "image"
    with pytest.raises(ManifestInvalid):
        image(schemaVersion=1)


def test_unknown_fields() -> None:
    """ "Implementations … reading or processing manifests … MUST NOT generate an error if they encounter an unknown
    property." (considerations.md)"""
    assert image(unknown={"a": [1]}).kind == "image"


def test_unknown_media_types() -> None:
    """ "Implementations storing or copying image manifests MUST NOT error on encountering a mediaType that is unknown
    to the implementation" (manifest.md, layers)."""
    assert image(layers=[LAYER | {"mediaType": "application/vnd.example.new"}]).layers[0].media_type.endswith("new")


def test_unknown_config_media_type() -> None:
    """ "Implementations MUST NOT attempt to parse the referenced content if the media type is unknown" and accept it
    (manifest.md, config)."""
    assert image(config=CONFIG | {"mediaType": "application/vnd.example+json"}).referrer_artifact_type is not None


def test_digest_grammar() -> None:
    """ "When the algorithm is registered, the encoded portion MUST match /[a-f0-9]{64}/" (descriptor.md, SHA-256)."""
    assert digests.parse(EMPTY).encoded == EMPTY[7:]
    for text in (EMPTY.upper(), EMPTY[:-1], EMPTY + "0"):
        with pytest.raises(DigestInvalid):
            digests.parse(text)


def test_sha512_grammar() -> None:
    """ "When the algorithm identifier is sha512, the encoded portion MUST match /[a-f0-9]{128}/" (descriptor.md)."""
    assert digests.is_digest("sha512:" + "0" * 128)
    assert not digests.is_digest("sha512:" + "0" * 64)


def test_repository_names() -> None:
    """ "<name> MUST match the following regular expression" (distribution-spec, Pulling manifests)."""
    for name in ("a", "a/b/c", "a__b", "a.b-c--d"):
        reference.check_repository(name)
    for name in ("A", "a/", "a___b", "a..b", "_a"):
        with pytest.raises(NameInvalid):
            reference.check_repository(name)


def test_tags() -> None:
    """ "<reference> as a tag MUST be at most 128 characters in length and MUST match the following regular expression:
    [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}" (distribution-spec)."""
    reference.check_tag("a" * 128)
    for tag in ("a" * 129, "", "-a", ".a", "a+b"):
        with pytest.raises(NameInvalid):
            reference.check_tag(tag)


def test_referrers_descriptor() -> None:
    """ "If the artifactType is empty or missing in the image manifest, the value of artifactType MUST be set to the
    config descriptor mediaType value. If the artifactType is empty or missing in an index, the artifactType MUST be
    omitted." (distribution-spec, Listing Referrers)"""
    assert referrers.descriptor_for(image(), EMPTY).artifact_type == CONFIG["mediaType"]
    assert referrers.descriptor_for(image(artifactType=""), EMPTY).artifact_type == CONFIG["mediaType"]
    assert referrers.descriptor_for(image(artifactType="a/b"), EMPTY).artifact_type == "a/b"
    index = manifests.parse(b'{"schemaVersion":2,"manifests":[]}', "application/vnd.oci.image.index.v1+json")
    assert "artifactType" not in referrers.descriptor_for(index, EMPTY).to_json()


def test_referrers_annotations() -> None:
    """ "The descriptors MUST include annotations from the image manifest or index." (distribution-spec)"""
    assert referrers.descriptor_for(image(annotations={"a": "b"}), EMPTY).annotations == {"a": "b"}


def test_referrers_tag() -> None:
    """ "Truncate the algorithm to 32 characters. Truncate the ref to 64 characters." (distribution-spec, Referrers Tag
    Schema)"""
    assert referrers.fallback_tag(EMPTY) == "sha256-" + EMPTY[7:]
    assert referrers.fallback_tag("sha512:" + "a" * 128) == "sha512-" + "a" * 64


def test_layout_files(tmp_path: Path) -> None:
    """ "The blobs directory MUST exist and MAY be empty"; "index.json … MUST exist"; oci-layout "MUST exist … MUST be a
    JSON object … MUST contain an imageLayoutVersion field" (image-layout.md)."""
    Layout(tmp_path).create()
    assert (tmp_path / "blobs").is_dir()
    assert json.loads((tmp_path / "index.json").read_text())["schemaVersion"] == 2
    assert json.loads((tmp_path / "oci-layout").read_text())["imageLayoutVersion"] == "1.0.0"


def test_layout_blobs(tmp_path: Path) -> None:
    """ "The content of blobs/<alg>/<encoded> MUST match the digest <alg>:<encoded>" (image-layout.md)."""
    layout = Layout(tmp_path).create()
    for algorithm in digests.ALGORITHMS:
        stored = layout.write_blob(b"content", algorithm)
        file = tmp_path / "blobs" / algorithm / stored.digest.partition(":")[2]
        assert digests.of_bytes(file.read_bytes(), algorithm) == stored.digest


def test_layout_unknown_entries(tmp_path: Path) -> None:
    """ "An encountered mediaType that is unknown MUST NOT generate an error." (image-layout.md, index.json)"""
    layout = Layout(tmp_path).create()
    value = {"schemaVersion": 2, "manifests": [LAYER | {"mediaType": "application/xml"}]}
    (tmp_path / "index.json").write_text(json.dumps(value))
    assert layout.index()[0].media_type == "application/xml"
