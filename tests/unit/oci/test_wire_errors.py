"""Error bodies: ours in the form of the specification, theirs whatever they are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import errors
from berth.oci import wire_errors
from berth.oci.wire_errors import WireError


def test_our_errors_have_code_message_with_hint_and_detail() -> None:
    body = wire_errors.render(
        [errors.ManifestUnknown("No such manifest.", hint="Look again."), WireError("DENIED", "no", {"reasons": []})]
    )
    assert json.loads(body) == {
        "errors": [
            {"code": "MANIFEST_UNKNOWN", "message": "No such manifest. Look again."},
            {"code": "DENIED", "message": "no", "detail": {"reasons": []}},
        ]
    }
    assert json.loads(wire_errors.render(errors.BlobUnknown("x")))["errors"][0]["code"] == "BLOB_UNKNOWN"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"errors":[{"code":"A","message":"m","detail":{"x":1}}]}', [WireError("A", "m", {"x": 1})]),
        (b'{"errors":[{"code":"A"},{"message":"no code"},7,null]}', [WireError("A")]),
        (b'{"errors":[{"code":"A","message":5}]}', [WireError("A")]),
        (b'{"errors":null}', []),
        (b'{"errors":{}}', []),
        (b'{"error":"x"}', []),
        (b"[]", []),
        (b"<html>502</html>", []),
        (b"", []),
        (b"\xff", []),
        (b"[" * 100_000, []),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_any_body_is_read(body: bytes, expected: list[WireError]) -> None:
    assert wire_errors.parse(body) == expected


def test_a_flood_of_errors_or_text_is_cut() -> None:
    many = wire_errors.parse(json.dumps({"errors": [{"code": "A", "message": "m" * 5000}] * 500}).encode())
    assert len(many) == 100
    assert len(many[0].message) == 2000


@given(st.lists(st.builds(WireError, st.text("AB_", min_size=1, max_size=9), st.text("xyz é", max_size=9)), max_size=5))
def test_what_we_render_reads_back_equal(items: list[WireError]) -> None:
    assert wire_errors.parse(wire_errors.render(items)) == items


@given(st.binary(max_size=100))
def test_arbitrary_bytes_never_raise(body: bytes) -> None:
    wire_errors.parse(body)
