"""Descriptors: every field checked, unknown fields tolerated, embedded data must be what it says."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from berth.errors import ManifestInvalid
from berth.oci.descriptor import Descriptor, from_json

EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
GOOD: dict[str, Any] = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": EMPTY, "size": 2}


def test_all_fields_survive_a_round_trip() -> None:
    value = GOOD | {
        "artifactType": "application/vnd.example",
        "annotations": {"a": "b"},
        "platform": {"os": "linux", "architecture": "arm64", "variant": "v8", "os.features": ["x"]},
        "urls": ["https://example.org/x"],
        "data": "e30=",
    }
    assert from_json(value).to_json() == value


def test_a_plain_descriptor_writes_only_what_it_has() -> None:
    assert Descriptor("a/b", EMPTY, 2).to_json() == {"mediaType": "a/b", "digest": EMPTY, "size": 2}


def test_unknown_fields_and_null_optional_fields_are_tolerated() -> None:
    value = GOOD | {"org.example": 1, "annotations": None, "platform": None, "urls": None, "data": None}
    assert from_json(value) == Descriptor("application/vnd.oci.empty.v1+json", EMPTY, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"size": True},
        {"size": -1},
        {"size": 2.0},
        {"size": "2"},
        {"size": None},
        {"size": 2**63},
        {"digest": None},
        {"digest": 5},
        {"digest": "sha256:xyz"},
        {"digest": "blake3:" + "0" * 64},
        {"digest": EMPTY.upper()},
        {"mediaType": None},
        {"mediaType": ""},
        {"mediaType": "text"},
        {"mediaType": "text/plain; charset=utf-8"},
        {"mediaType": "a/b\n"},
        {"mediaType": "a/" + "b" * 128},
        {"mediaType": 5},
        {"artifactType": "nonsense"},
        {"annotations": []},
        {"annotations": {"a": 1}},
        {"annotations": {"a": None}},
        {"platform": "linux"},
        {"platform": {"os": 1}},
        {"platform": {"OS": "linux"}},
        {"urls": "https://example.org"},
        {"urls": [1]},
        {"data": 1},
        {"data": "e30"},
        {"data": "e30=\n"},
        {"data": base64.b64encode(b"[]").decode()},
        {"data": base64.b64encode(b"{} ").decode()},
        {"data": "e30=", "size": 3},
        {"Size": 3},
        {"Digest": EMPTY},
    ],
    ids=repr,
)
def test_a_malformed_field_is_refused(change: dict[str, Any]) -> None:
    from_json(GOOD)  # the admitted twin
    with pytest.raises(ManifestInvalid):
        from_json(GOOD | change)


@pytest.mark.parametrize("missing", ["mediaType", "digest", "size"])
def test_required_fields_are_required(missing: str) -> None:
    with pytest.raises(ManifestInvalid, match="thing"):
        from_json({key: item for key, item in GOOD.items() if key != missing}, what="thing")


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_only_an_object_is_a_descriptor(value: object) -> None:
    with pytest.raises(ManifestInvalid):
        from_json(value)
