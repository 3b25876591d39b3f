"""Manifests: one reading only, whatever a stranger sends."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import ManifestInvalid
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor

EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
OTHER = "sha256:" + "ab" * 32
CONFIG = {"mediaType": types.OCI_CONFIG, "digest": EMPTY, "size": 2}
LAYER = {"mediaType": types.OCI_LAYER_TAR_GZIP, "digest": OTHER, "size": 7}
CHILD = {"mediaType": types.OCI_MANIFEST, "digest": OTHER, "size": 9, "platform": {"os": "linux", "architecture": "x"}}
IMAGE: dict[str, Any] = {"schemaVersion": 2, "mediaType": types.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": types.OCI_INDEX, "manifests": [CHILD]}


def read(value: object, content_type: str | None = None) -> manifests.Manifest:
    return manifests.parse(json.dumps(value).encode(), content_type)


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in names}


def test_an_image_gives_its_parts() -> None:
    body = json.dumps(IMAGE | {"annotations": {"a": "b"}, "org.example": [1]}).encode()
    got = manifests.parse(body, types.OCI_MANIFEST)
    assert (got.media_type, got.kind, got.body, got.size) == (types.OCI_MANIFEST, "image", body, len(body))
    assert got.config == Descriptor(types.OCI_CONFIG, EMPTY, 2)
    assert got.layers == (Descriptor(types.OCI_LAYER_TAR_GZIP, OTHER, 7),)
    assert got.blobs() == (got.config, *got.layers)
    assert got.children() == ()
    assert got.annotations == {"a": "b"}
    assert (got.artifact_type, got.subject) == (None, None)


def test_an_index_gives_its_children_and_no_blobs() -> None:
    got = read(INDEX)
    assert got.kind == "index"
    assert [child.digest for child in got.children()] == [OTHER]
    assert got.blobs() == ()
    assert got.config is None


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        (types.OCI_MANIFEST, "image"),
        (types.DOCKER_MANIFEST, "image"),
        (types.OCI_INDEX, "index"),
        (types.DOCKER_LIST, "index"),
    ],
)
def test_oci_and_docker_types_have_the_same_two_kinds(media_type: str, kind: str) -> None:
    base = INDEX if kind == "index" else IMAGE
    got = read(base | {"mediaType": media_type}, media_type)
    assert (got.media_type, got.kind) == (media_type, kind)


def test_an_artifact_without_layers_is_accepted() -> None:
    assert read(IMAGE | {"layers": []}).layers == ()


def test_an_empty_index_is_accepted() -> None:
    assert read(INDEX | {"manifests": []}).children() == ()


@pytest.mark.parametrize("base", [IMAGE, INDEX], ids=["image", "index"])
def test_artifact_type_and_subject_are_read_on_both_kinds(base: dict[str, Any]) -> None:
    got = read(base | {"artifactType": "application/vnd.example", "subject": LAYER})
    assert got.artifact_type == "application/vnd.example"
    assert got.subject is not None
    assert got.subject.digest == OTHER


def test_the_referrer_type_is_the_own_one_else_the_config_of_an_image_else_none() -> None:
    assert read(IMAGE | {"artifactType": "a/b"}).referrer_artifact_type == "a/b"
    assert read(IMAGE).referrer_artifact_type == types.OCI_CONFIG
    assert read(INDEX | {"artifactType": "a/b"}).referrer_artifact_type == "a/b"
    assert read(INDEX).referrer_artifact_type is None


def test_without_media_type_the_content_type_decides_and_its_parameters_are_ignored() -> None:
    bare = without(IMAGE, "mediaType")
    assert read(bare, "application/vnd.oci.image.manifest.v1+json; charset=utf-8").media_type == types.OCI_MANIFEST
    assert read(bare).media_type == types.OCI_MANIFEST
    assert read(without(INDEX, "mediaType")).media_type == types.OCI_INDEX
    assert read(IMAGE, types.OCI_MANIFEST.upper() + " ;q=1").media_type == types.OCI_MANIFEST


@pytest.mark.parametrize(
    ("value", "content_type", "why"),
    [
        (IMAGE, types.OCI_INDEX, "Content-Type"),
        (IMAGE, types.DOCKER_MANIFEST, "Content-Type"),
        (IMAGE, "application/json", "Content-Type"),
        (without(IMAGE, "mediaType"), types.OCI_INDEX, "fields"),
        (without(INDEX, "mediaType"), types.OCI_MANIFEST, "fields"),
        (without(IMAGE, "mediaType"), "application/json", "not the media type"),
        (without(IMAGE, "mediaType"), types.DOCKER_MANIFEST, "must name its mediaType"),
        (IMAGE | {"mediaType": types.OCI_INDEX}, None, "fields"),
        (INDEX | {"mediaType": types.OCI_MANIFEST}, None, "fields"),
        (IMAGE | {"mediaType": "application/vnd.oci.artifact.manifest.v1+json"}, None, "not the media type"),
        (IMAGE | {"mediaType": 1}, None, "mediaType"),
        (IMAGE | {"mediaType": ""}, None, "mediaType"),
        (IMAGE | {"manifests": [CHILD]}, None, "both"),
        (INDEX | {"layers": []}, None, "both"),
        (INDEX | {"config": CONFIG}, None, "both"),
        ({"schemaVersion": 2, "mediaType": types.OCI_MANIFEST}, None, "neither"),
        (without(IMAGE, "config"), None, "`config`"),
        (without(IMAGE, "layers"), None, "`layers`"),
        (IMAGE | {"layers": None}, None, "`layers`"),
        (IMAGE | {"config": None}, None, "`config`"),
        (IMAGE | {"layers": {}}, None, "not a list"),
        (INDEX | {"manifests": None}, None, "not a list"),
        (IMAGE | {"layers": [1]}, None, r"layers\[0\]"),
        (INDEX | {"manifests": [CHILD, CHILD | {"size": True}]}, None, r"manifests\[1\]"),
        (IMAGE | {"config": CONFIG | {"size": -2}}, None, "config"),
        (IMAGE | {"subject": []}, None, "subject"),
        (IMAGE | {"annotations": {"a": 1}}, None, "annotations"),
        (IMAGE | {"artifactType": "x"}, None, "artifactType"),
        (IMAGE | {"schemaVersion": 3}, None, "schemaVersion"),
        (IMAGE | {"schemaVersion": "2"}, None, "schemaVersion"),
        (IMAGE | {"schemaVersion": 2.0}, None, "schemaVersion"),
        (without(IMAGE, "schemaVersion"), None, "schemaVersion"),
        (IMAGE | {"Layers": []}, None, "written 'layers'"),
        (INDEX | {"Manifests": []}, None, "written 'manifests'"),
        (IMAGE | {"MediaType": types.OCI_INDEX}, None, "written 'mediaType'"),
        ([], None, "not a JSON object"),
        (None, None, "not a JSON object"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(value: object, content_type: str | None, why: str) -> None:
    with pytest.raises(ManifestInvalid, match=why):
        read(value, content_type)


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        ({"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": [], "history": []}, None),
        ({"schemaVersion": 1, "mediaType": types.OCI_MANIFEST, "config": CONFIG, "layers": []}, None),
        (IMAGE | {"fsLayers": []}, None),
        (without(IMAGE, "mediaType"), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ({"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+json"}, None),
    ],
)
def test_docker_schema_1_is_named_as_such(value: object, content_type: str | None) -> None:
    with pytest.raises(ManifestInvalid, match="schema 1") as caught:
        read(value, content_type)
    assert caught.value.hint is not None


def test_a_key_that_occurs_twice_is_refused() -> None:
    body = json.dumps(IMAGE).encode()[:-1] + b',"layers":[]}'
    with pytest.raises(ManifestInvalid, match="twice"):
        manifests.parse(body)


def test_deep_nesting_is_manifest_invalid_and_never_a_recursion_error() -> None:
    body = b'{"schemaVersion":2,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(ManifestInvalid, match="nested"):
        manifests.parse(body)


def test_a_body_over_four_mebibytes_is_refused_unless_more_is_allowed() -> None:
    body = json.dumps(IMAGE | {"annotations": {"a": "x" * 4 * 1024 * 1024}}).encode()
    with pytest.raises(ManifestInvalid, match="limit"):
        manifests.parse(body)
    assert manifests.parse(body, max_bytes=5 * 1024 * 1024).size == len(body)


def test_an_index_of_more_than_ten_thousand_children_parses_fast() -> None:
    body = json.dumps(INDEX | {"manifests": [CHILD] * 12_000}).encode()
    start = time.perf_counter()
    assert len(manifests.parse(body).children()) == 12_000
    assert time.perf_counter() - start < 5  # a quadratic reader needs minutes


def test_sha512_content_is_accepted() -> None:
    long = "sha512:" + "0" * 128
    assert read(IMAGE | {"layers": [LAYER | {"digest": long}]}).layers[0].digest == long


def test_the_golden_bytes_of_what_we_write() -> None:
    """Field order and escapes of Go's encoding/json, so that skopeo and podman write back what they read."""
    body = manifests.image(
        config=Descriptor(types.OCI_EMPTY, EMPTY, 2),
        layers=[Descriptor("a/b", OTHER, 3, annotations={"k": "v"})],
        artifact_type="application/vnd.example",
        subject=Descriptor(types.OCI_INDEX, OTHER, 4),
        annotations={"z": "<1&2>", "a": "é"},
    )
    assert body.decode() == (
        '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        '"artifactType":"application/vnd.example",'
        '"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},'
        '"layers":[{"mediaType":"a/b","digest":"%s","size":3,"annotations":{"k":"v"}}],'
        '"subject":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"%s","size":4},'
        '"annotations":{"a":"é","z":"\\u003c1\\u00262\\u003e"}}'
    ) % (EMPTY, OTHER, OTHER)
    platform = {"os": "linux", "variant": "v8", "architecture": "arm64"}
    assert (
        manifests.index([Descriptor(types.OCI_MANIFEST, OTHER, 3, platform=platform)]).decode()
        == (
            '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":['
            '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":3,'
            '"platform":{"architecture":"arm64","os":"linux","variant":"v8"}}]}'
        )
        % OTHER
    )


DESCRIPTORS = st.builds(
    Descriptor,
    media_type=st.sampled_from([types.OCI_MANIFEST, types.OCI_LAYER_TAR, "text/plain"]),
    digest=st.sampled_from([EMPTY, OTHER, "sha512:" + "0f" * 64]),
    size=st.integers(0, 2**63 - 1),
    artifact_type=st.none() | st.just("application/vnd.example"),
    annotations=st.dictionaries(st.text("abc.", max_size=4), st.text("xyz é", max_size=4), max_size=2),
)


@given(
    layers=st.lists(DESCRIPTORS, max_size=4),
    config=DESCRIPTORS,
    subject=st.none() | DESCRIPTORS,
    artifact_type=st.none() | st.just("application/vnd.example"),
)
def test_an_image_we_write_reads_back_equal(
    layers: list[Descriptor], config: Descriptor, subject: Descriptor | None, artifact_type: str | None
) -> None:
    got = manifests.parse(
        manifests.image(config=config, layers=layers, subject=None, artifact_type=artifact_type), types.OCI_MANIFEST
    )
    assert (got.config, list(got.layers), got.artifact_type) == (config, layers, artifact_type)
    index = manifests.parse(manifests.index(layers, subject=subject))
    assert list(index.children()) == layers
    assert (index.subject is None) == (subject is None)
    assert index.subject is None or subject is None or index.subject.digest == subject.digest


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", EMPTY, types.OCI_MANIFEST, types.OCI_INDEX]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["mediaType", "digest", "size", "annotations", "platform", "urls", "data", "Size"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations", "artifactType"]
        ),
        VALUES,
    ),
    st.none() | st.sampled_from([types.OCI_MANIFEST, types.OCI_INDEX, "", ";", "a/b"]),
)
def test_arbitrary_json_gives_a_manifest_or_manifest_invalid(value: dict[str, Any], content_type: str | None) -> None:
    try:
        read(value | {"schemaVersion": 2}, content_type)
        read(value, content_type)
    except ManifestInvalid:
        pass


@given(st.binary(max_size=300), st.none() | st.text(max_size=20))
def test_arbitrary_bytes_give_manifest_invalid(body: bytes, content_type: str | None) -> None:
    with pytest.raises(ManifestInvalid):
        manifests.parse(body, content_type)
