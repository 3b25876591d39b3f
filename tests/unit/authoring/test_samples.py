"""Matchers of samples: which answers fit, and the exact words about those that do not."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.authoring import manifest, samples
from berth.errors import ManifestFileInvalid
from xumi.problems import InvalidValue

TEXT = {"name": "out", "type": "text"}
NUMBER = {"name": "out", "type": "number"}
OBJECT = {"name": "out", "type": "object", "schema": {}}
GRID = {"name": "out", "type": "tensor", "dtype": "float32", "shape": [None, 2]}
FILE = {"name": "out", "type": "file"}
HELLO = base64.b64encode(b"hello").decode()


def differ(field: dict[str, Any], expected: Any, actual: Any, **files: bytes) -> list[str]:
    return samples.differences([field], {"out": expected}, {"out": actual}, files)


@pytest.mark.parametrize(
    ("field", "expected", "actual"),
    [
        (TEXT, "a", "a"),
        (TEXT, {"equals": "a"}, "a"),
        (TEXT, {"contains": "ell"}, "hello"),
        (TEXT, {"schema": {"type": "string", "maxLength": 3}}, "abc"),
        (NUMBER, 1, 1.0),
        (NUMBER, {"close": 100, "rtol": 0.01}, 101),
        (NUMBER, {"close": 0, "atol": 0.5}, -0.5),
        (NUMBER, {"close": 1.0}, 1.000009),
        (OBJECT, {"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]}),
        (OBJECT, {"contains": {"a": 1, "c": {"d": 2}}}, {"a": 1, "b": 2, "c": {"d": 2, "e": 3}}),
        (OBJECT, {"contains": [2, "x"]}, [1, 2, "x"]),
        (OBJECT, {"contains": 2}, [1, 2]),
        (OBJECT, {"close": [[1, 2]], "atol": 0.1}, [[1.05, 1.95]]),
        (OBJECT, {"equals": {"equals": 1}}, {"equals": 1}),
        (OBJECT, {"close": 1, "other": 2}, {"close": 1, "other": 2}),
        (GRID, [[1, 2]], [[1.0, 2.0]]),
        # 1.0 and 2.0 as little-endian IEEE 754 single precision
        (GRID, {"close": [[1, 2]]}, {"dtype": "float32", "shape": [1, 2], "data": "AACAPwAAAEA="}),
        (FILE, HELLO, {"data": HELLO, "media_type": "text/plain"}),
        (FILE, {"contains": "ell"}, {"data": HELLO}),
    ],
)
def test_an_answer_that_fits_has_no_differences(field: dict[str, Any], expected: Any, actual: Any) -> None:
    assert differ(field, expected, actual) == []


@pytest.mark.parametrize(
    ("field", "expected", "actual", "words"),
    [
        (TEXT, "a", "b", ['out: is "b", expected "a"']),
        (TEXT, {"contains": "x"}, "hello", ['out: "hello" does not contain "x"']),
        (TEXT, {"schema": {"maxLength": 2}}, "abc", ['out: longer than 2 characters (answer: "abc")']),
        (NUMBER, 1, True, ["out: is true, expected 1"]),
        (NUMBER, 0, False, ["out: is false, expected 0"]),
        (
            NUMBER,
            {"close": 100, "rtol": 0.01},
            102,
            ["out: is 102, expected 100 (difference 2, allowed 1: rtol 0.01, atol 0)"],
        ),
        (NUMBER, {"close": 1}, "x", ['out: is "x", expected a number close to 1']),
        (OBJECT, {"a": 1, "b": 2}, {"a": 1, "c": 3}, ["out.b: is missing", "out.c: is not expected"]),
        (OBJECT, {"a": [1, 2]}, {"a": [1, 3]}, ["out.a[1]: is 3, expected 2"]),
        (OBJECT, [1, 2], [1], ["out: has 1 item, expected 2"]),
        (OBJECT, {"contains": [4]}, [1, 2], ["out: does not contain 4 (answer: [1, 2])"]),
        (OBJECT, {"contains": {"a": {"b": 1}}}, {"a": {"b": 2}}, ["out.a.b: is 2, expected 1"]),
        (OBJECT, {"contains": 1}, 5, ["out: is integer and cannot contain 1"]),
        (
            GRID,
            {"close": [[1, 2], [3, 4]], "atol": 0.5},
            [[1, 2.6], [3, 5]],
            [
                ("2 of 4 numbers differ; the worst: out[1][1]: is 5.0, expected 4 "
                "(difference 1, allowed 0.5: rtol 0, atol 0.5)")
            ],
        ),
        (GRID, {"close": [[1, 2]]}, [[1, 2], [3, 4]], ["out: has 2 items, expected 1"]),
        (FILE, HELLO, {"data": base64.b64encode(b"help").decode()},
         ["out: has 4 bytes, expected 5; they differ from byte 3 on"]),
        (FILE, {"contains": "xyz"}, {"data": HELLO}, ['out: its 5 bytes do not contain "xyz"']),
    ],
)  # fmt: skip
def test_a_difference_is_named_exactly(field: dict[str, Any], expected: Any, actual: Any, words: list[str]) -> None:
    assert differ(field, expected, actual) == words


def test_a_missing_output_is_named_and_others_are_not_compared() -> None:
    fields = [TEXT, {**NUMBER, "name": "score"}]
    assert samples.differences(fields, {"out": "a"}, {"score": 1}, {}) == ["out: is missing in the answer"]
    assert samples.differences(fields, {"out": "a"}, {"out": "a", "score": 7}, {}) == []


def test_of_many_differences_the_first_are_shown_and_the_rest_counted() -> None:
    found = differ(OBJECT, list(range(9)), [n + 1 for n in range(9)])
    assert len(found) == 6
    assert found[-1] == "… and 4 more differences"


def test_a_file_is_compared_by_its_bytes_and_text_with_a_file_too() -> None:
    assert differ(FILE, {"file": "x"}, {"data": HELLO}, out=b"hello") == []
    assert differ(TEXT, {"file": "x"}, "hello", out=b"hello") == []
    assert differ(TEXT, {"file": "x"}, "hellO", out=b"hello") == [
        "out: has 5 bytes, expected 5; they differ from byte 4 on"
    ]


def test_of_a_stream_text_is_joined_and_other_values_are_the_last_ones() -> None:
    pieces = [{"out": "a", "n": 1}, {"out": "b", "n": 2}, {"out": "c"}]
    assert samples.combine([TEXT, {**NUMBER, "name": "n"}], pieces) == {"out": "abc", "n": 2}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (TEXT, {"close": 1}, "close is for numbers and tensors, not for text"),
        (NUMBER, {"close": "x"}, "close needs a number"),
        (NUMBER, {"close": 1, "rtol": -1}, "rtol: a number of at least 0"),
        (NUMBER, {"close": 1, "atol": True}, "atol: a number of at least 0"),
        (NUMBER, {"equals": 1, "rtol": 1}, "rtol and atol belong to close"),
        (NUMBER, {"contains": 1}, "contains is for text, lists and objects"),
        (TEXT, {"contains": 1}, "contains needs text"),
        (TEXT, {"schema": {"typ": "string"}}, "typ: this JSON Schema keyword is not supported"),
        (TEXT, {"equals": 5}, "text expected, not integer"),
        (GRID, {"close": [[1, 2, 3]]}, "shape [1, 3]"),
    ],
)
def test_a_matcher_that_cannot_fit_is_refused(field: dict[str, Any], value: Any, words: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        samples.check_expectation(field, value)
    assert words in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_every_value_equals_itself(value: Any) -> None:
    assert differ(OBJECT, {"equals": value}, value) == []


@given(JSON, JSON)
def test_any_two_values_are_compared_without_a_crash(expected: Any, actual: Any) -> None:
    for kind in ("equals", "contains"):
        assert isinstance(differ(OBJECT, {kind: expected}, actual), list)


MANIFEST = """\
xumi: 1
name: acme/echo
version: 1.2.3
interface:
  inputs: [{name: text, type: text}]
  outputs: [{name: score, type: number}]
entry: {python: "serve:Echo"}
runtime: {base: "oci-layout:base"}
samples:
  - name: one
    inputs: {text: a}
    outputs: {score: SCORE}
"""


def test_matchers_are_part_of_the_manifest_and_of_what_the_image_serves() -> None:
    parsed = manifest.parse(MANIFEST.replace("SCORE", "{close: 0.5, atol: 0.1}")).manifest
    assert parsed.to_json()["samples"][0]["outputs"] == {"score": {"close": 0.5, "atol": 0.1}}
    with pytest.raises(ManifestFileInvalid, match="sample 'one', output score: contains is for text"):
        manifest.parse(MANIFEST.replace("SCORE", "{contains: a}"))


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        ("open_inference: true", "open_inference is for tensors only; text is none"),
        ("streaming: maybe", "streaming"),
    ],
)
def test_protocols_that_do_not_fit_the_interface_are_refused(interface: str, words: str) -> None:
    text = MANIFEST.replace("SCORE", "1").replace("interface:\n", f"interface:\n  {interface}\n")
    with pytest.raises(ManifestFileInvalid, match=words):
        manifest.parse(text)
