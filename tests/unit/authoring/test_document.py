"""YAML text → data and places."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.authoring import document, manifest
from berth.errors import ManifestFileInvalid


def problem(text: str | bytes) -> dict[str, object]:
    with pytest.raises(ManifestFileInvalid) as caught:
        document.parse(text)
    (only,) = caught.value.detail["problems"]
    return dict(only)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "twice"),
        ("a: &x 1\n", 1, 4, "Anchors"),
        ("a: *x\n", 1, 4, "Aliases"),
        ("a: 1\n<<: {b: 1}\n", 2, 1, "Merge keys"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, 4, "tag"),
        ("a: 1\n---\nb: 2\n", 2, 1, "second document"),
        ("a: [1, 2\n", 2, 1, "Not YAML"),
        ("a:\n\t- b\n", 2, 1, "Not YAML"),
        ("a: b: c\n", 1, 5, "Not YAML"),
        ("? [a]\n: b\n", 1, 3, "key must be text"),
        ("", 1, 1, "empty"),
        ("a: 99999999999999999999\n", 1, 4, "99999999999999999999"),
        ("a: 1e999\n", 1, 4, "too large"),
        ('a: "\\0"\n', 1, 4, "not allowed"),
        ('a: "\\ud800"\n', 1, 4, "not allowed"),
        ("ok: 1\nb: \x07\n", 2, 4, "not allowed"),
    ],
)
def test_refused_text_names_line_and_column(text: str, line: int, column: int, words: str) -> None:
    found = problem(text)
    assert (found["line"], found["column"]) == (line, column)
    assert words in str(found["message"])


def test_bytes_that_are_not_utf8_are_refused_with_their_place() -> None:
    assert (problem(b"a: 1\nb: \xff\n")["line"], problem(b"a: 1\nb: \xff\n")["column"]) == (2, 4)


def test_a_file_over_the_limit_is_refused() -> None:
    assert "262145 bytes" in str(problem(b"#" * (256 * 1024 + 1))["message"])
    assert document.parse(b"a: 1\n#" + b"x" * (256 * 1024 - 6)).data == {"a": 1}


def test_depth_and_number_of_values_are_limited() -> None:
    assert "deeper" in str(problem("[" * 60_000)["message"])
    assert "more than" in str(problem("[" + "1," * 20_001 + "]")["message"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("~", None),
        ("1.10", 1.1),
        (".inf", ".inf"),
        ("-3", -3),
        ("'1'", "1"),
    ],
)
def test_words_mean_what_yaml_12_says(text: str, value: object) -> None:
    assert document.parse(f"a: {text}\n").data == {"a": value}


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_any_input_is_data_or_a_manifest_error(text: bytes | str) -> None:
    try:
        found = document.parse(text)
    except ManifestFileInvalid as error:
        assert error.detail["problems"]
        assert all(p["line"] >= 1 and p["column"] >= 1 for p in error.detail["problems"])
    else:
        json.dumps(found.data, allow_nan=False).encode()


_keys = st.sampled_from(
    ["xumi", "name", "version", "entry", "runtime", "interface", "inputs", "outputs", "type", "shape", "base", "python"]
    + ["hardware", "minimum", "gpu", "checkpoints", "files", "samples", "license", "tags", "schema", "default", "x y"]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12) | _keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(_keys, _values, max_size=8))
def test_any_mapping_is_a_manifest_or_a_manifest_error(data: dict[str, object]) -> None:
    try:
        manifest.parse(json.dumps(data))
    except ManifestFileInvalid as error:
        assert error.detail["problems"]
