"""What xumi.yaml may say, and how a wrong one is explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from berth.authoring import manifest
from berth.errors import ManifestFileInvalid

MINIMAL = """\
xumi: 1
name: acme/echo
version: 1.0.0
interface:
  outputs: [{name: text, type: text}]
entry: {python: "serve:Echo"}
runtime: {base: "docker.io/library/python:3.11-slim"}
"""
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "xumi.schema.json"


def complaints(text: str) -> list[str]:
    with pytest.raises(ManifestFileInvalid) as caught:
        manifest.parse(text)
    return [
        f"{p['line']}:{p['column']} {p['path']} {p['message']} {p['hint'] or ''}".strip()
        for p in caught.value.detail["problems"]
    ]


def test_the_smallest_manifest_gets_the_documented_defaults() -> None:
    found = manifest.parse(MINIMAL).manifest
    assert found.runtime.port == 8080
    assert found.runtime.user == 65532
    assert found.runtime.python == "3.11"
    assert found.hardware.architectures == ["amd64"]
    assert found.checkpoints == []


def test_the_text_is_kept_as_it_was_written() -> None:
    text = "# comment\r\n" + MINIMAL
    assert manifest.parse(text.encode()).text == text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("descripton: x", "8:1  `descripton` is not known here. Did you mean `description`?"),
        ("licence: MIT", "8:1  `licence` is not known here. Did you mean `license`?"),
        ("author: x", "8:1  `author` is not known here. Did you mean `authors`?"),
        ("license: MIT-9", "8:10 license 'MIT-9' is not in the SPDX licence list"),
        ("license: MIT AND (", "8:10 license 'MIT AND (' is no SPDX licence expression"),
        ("tags: [Big]", "8:8 tags[0] 'Big' does not have the right form."),
        ("authors: [1]", "8:11 authors[0] `key: value` lines or text expected, not a number."),
        (
            "hardware: {minimum: {memory: 8 gigs}}",
            '8:30 hardware.minimum.memory write a size with its unit, such as "8GiB"',
        ),
        (
            "hardware: {minimum: {gpu: {vendor: nvidea}}}",
            "8:36 hardware.minimum.gpu.vendor 'nvidea' is not allowed. Did you mean nvidia?",
        ),
        ("checkpoints: [{name: a, mount: /etc/x}]", "8:32 checkpoints[0].mount /etc belongs to the system"),
        ("checkpoints: [{name: a, files: [../x]}]", "8:32 checkpoints[0].files '../x' must stay inside the project"),
        ("checkpoints: [{name: a}, {name: a}]", "1:1  checkpoints has the name a twice."),
        ("samples: [{name: s, inputs: {nope: 1}}]", "1:1  sample 's' gives nope, which is no input; there are none."),
    ],
)
def test_a_mistake_is_explained_at_its_place(line: str, expected: str) -> None:
    (only,) = complaints(MINIMAL + line + "\n")
    assert only.startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1.0.0", "version: v1.0.0", "3:10 version "),
        (
            "version: 1.0.0",
            "version: 1.10",
            '3:10 version text expected, not a number. If it is meant as text, quote it: "1.10".',
        ),
        ("name: acme/echo", "name: Acme/echo", "2:7 name 'Acme' is not the name of a project."),
        ("xumi: 1", "xumi: 2", "1:7 xumi 2 is not allowed. Write one of: 1."),
        ("name: acme/echo\n", "", "1:1  `name` is missing. Add `name: acme/file-type`."),
        ("type: text", "type: txt", "5:32 interface.outputs[0].type 'txt' is not a type. Did you mean text?"),
        ("type: text", "typ: text", "5:13 interface.outputs[0] `type` is missing."),
        ("{python:", "{python: 'x:y', comand:", "6:24 entry `comand` is not known here. Did you mean `command`?"),
        (
            "serve:Echo",
            "serve",
            "6:17 entry.python 'serve' does not have the right form. Write it like serve:Classifier.",
        ),
    ],
)
def test_a_wrong_required_value_is_explained(old: str, new: str, expected: str) -> None:
    assert old in MINIMAL
    assert complaints(MINIMAL.replace(old, new))[0].startswith(expected)


def test_the_hint_for_a_version_names_the_one_to_use() -> None:
    assert "1.2.3" in complaints(MINIMAL.replace("1.0.0", "v1.2.3"))[0]


def test_all_mistakes_are_shown_at_once_in_the_order_of_the_file() -> None:
    found = complaints(MINIMAL.replace("acme/echo", "ACME/x") + "colour: red\nlicense: nope\n")
    assert [c.split(" ")[0] for c in found] == ["2:7", "8:1", "9:10"]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("type: integer, minimum: 1, maximum: 3", "2", "4"),
        ("type: number, maximum: 1", "0.5", "2"),
        ("type: text, pattern: '^a'", "abc", "b"),
        ("type: boolean", "true", "'yes'"),
        ("type: enum, values: [red, blue]", "red", "green"),
        ("type: tensor, dtype: float32, shape: [2]", "[1, 2]", "[1, 2, 3]"),
        ("type: object, schema: {type: object, required: [a]}", "{a: 1}", "{b: 1}"),
        ("type: image", "aGVsbG8=", "'not base64!'"),
    ],
)
def test_a_default_must_fit_its_type_and_bounds(field: str, good: str, bad: str) -> None:
    text = MINIMAL.replace("interface:\n", "interface:\n  inputs: [{name: x, %s, default: %s}]\n")
    assert not manifest.parse(text % (field, good)).manifest.to_json()["interface"]["inputs"][0]["required"]
    assert "the default does not fit" in complaints(text % (field, bad))[0]


def test_sizes_are_read_with_their_units() -> None:
    text = MINIMAL + "hardware: {minimum: {memory: 8GiB, disk: 1.5GB, gpu: {memory: 512Mi}}}\n"
    needs = manifest.parse(text).manifest.hardware.minimum
    assert (needs.memory, needs.disk) == (8_589_934_592, 1_500_000_000)
    assert needs.gpu is not None
    assert needs.gpu.memory == 536_870_912


def test_licence_expressions_and_own_licences_are_accepted() -> None:
    for text in ("MIT OR Apache-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", "LicenseRef-Acme-1"):
        assert manifest.parse(f"{MINIMAL}license: {text}\n").manifest.license == text


def test_an_unsupported_schema_keyword_is_refused_where_it_stands() -> None:
    text = MINIMAL.replace("{name: text, type: text}", "{name: o, type: object, schema: {$ref: 'http://x'}}")
    assert "$ref: this JSON Schema keyword is not supported" in complaints(text)[0]


def test_the_published_json_schema_is_current_and_valid() -> None:
    made = manifest.schema()
    Draft202012Validator.check_schema(made)
    assert json.loads(REFERENCE.read_text()) == made, "run: xumi validate --schema > docs/reference/xumi.schema.json"


def test_the_published_json_schema_accepts_what_the_parser_accepts() -> None:
    import yaml

    validator = Draft202012Validator(manifest.schema())
    validator.validate(yaml.safe_load(MINIMAL))
    assert not validator.is_valid(yaml.safe_load(MINIMAL + "colour: red\n"))
