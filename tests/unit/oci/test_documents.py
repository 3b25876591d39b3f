"""Strict JSON: what two programs could read differently is refused, and nothing but our errors ever comes out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import ManifestInvalid
from berth.oci import documents

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"a":1,"a":2}', "occurs twice"),
        (b'{"a":{"b":1,"b":1}}', "occurs twice"),
        (b'{"a":1,"\\u0061":2}', "occurs twice"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ('{"a":1}'.encode("utf-16"), "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":-Infinity}', "not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b'"\\ud800"', "lone surrogate"),
        (b'{"\\u0000":1}', "NUL"),
        (b'["\\u0000"]', "NUL"),
        (b"[" * 65 + b"]" * 65, "nested deeper"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper"),
        (b"[" * 4_000_000, "nested deeper"),
        (b'{} {"a":1}', "not JSON"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_document_that_can_be_read_in_two_ways_or_none_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(ManifestInvalid, match=why):
        documents.loads(body)


def test_sixty_four_levels_pass_and_brackets_in_strings_do_not_count() -> None:
    assert documents.loads(b"[" * 64 + b"]" * 64)
    assert documents.loads(json.dumps({"a": "[" * 500 + '"\\{' * 500}).encode()) == {"a": "[" * 500 + '"\\{' * 500}


def test_the_depth_check_is_linear_for_a_hostile_unterminated_string() -> None:
    with pytest.raises(ManifestInvalid):
        documents.loads(b'"\\"' * 1_300_000)
    with pytest.raises(ManifestInvalid):
        documents.loads(b'"' + b'\\"' * 2_000_000)


def test_a_body_over_the_limit_is_refused_before_it_is_parsed() -> None:
    assert documents.loads(b"[1]  ", max_bytes=5) == [1]
    with pytest.raises(ManifestInvalid, match="limit is 4"):
        documents.loads(b"[1]  ", max_bytes=4)


def test_escaped_text_that_is_harmless_is_kept() -> None:
    assert documents.loads(b'{"a":"\\u00e9","b":"\\\\u0000","c":"\\ud83d\\ude00"}') == {
        "a": "é",
        "b": "\\u0000",
        "c": "😀",
    }


def test_canonical_form_sorts_keys_and_has_no_spaces() -> None:
    assert documents.dumps({"b": [1, 2], "a": {"d": None, "c": "é"}}) == b'{"a":{"c":"\xc3\xa9","d":null},"b":[1,2]}'
    assert documents.dumps({"b": 1, "a": 2}, sort_keys=False) == b'{"b":1,"a":2}'


@pytest.mark.parametrize("value", ["\udc80", {"\ud800": 1}, float("nan"), float("inf")], ids=ascii)
def test_what_is_not_json_is_not_written(value: object) -> None:
    with pytest.raises(ManifestInvalid):
        documents.dumps(value)


@pytest.mark.parametrize("key", ["Layers", "LAYERS", "layer\u017f"])
def test_a_key_that_go_would_match_to_a_known_field_is_refused(key: str) -> None:
    with pytest.raises(ManifestInvalid, match="written 'layers'"):
        documents.check_spelling({key: 1}, ("layers",), "x")


def test_known_and_foreign_keys_are_accepted() -> None:
    documents.check_spelling({"layers": 1, "org.example.custom": 2}, ("layers",), "x")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_value_or_manifest_invalid(body: bytes) -> None:
    try:
        documents.loads(body)
    except ManifestInvalid:
        pass


@given(JSON)
def test_what_we_write_reads_back_equal(value: object) -> None:
    body = documents.dumps(value) if not _has_odd_text(value) else b"null"
    assert documents.loads(body) == (None if body == b"null" else value)


def _has_odd_text(value: object) -> bool:
    text = json.dumps(value)
    return "\\u0000" in text or "\\ud" in text
