"""Type hints of predict(), read from the syntax tree: what they say, and where they contradict the manifest."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.authoring import detect_hints, manifest, project
from berth.errors import ManifestFileInvalid

Make = Callable[..., Path]


def read(line: str, more: str = "") -> detect_hints.Signature:
    tree = ast.parse(f"{more}\nclass M(Model):\n    {line} ...\n")
    found = detect_hints.signature(tree, "M")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("x: str", {"type": "text"}),
        ("x: 'str'", {"type": "text"}),
        ("x: int = 3", {"type": "integer", "default": 3}),
        ("x: float = 1", {"type": "number", "default": 1}),
        ("x: bool = True", {"type": "boolean", "default": True}),
        ("x: Literal['a', 'b']", {"type": "enum", "values": ["a", "b"]}),
        ("x: Optional[str] = None", {"type": "text", "required": False}),
        ("x: str | None = None", {"type": "text", "required": False}),
        ("x: int | float", {"type": "number"}),
        ("x: Annotated[str, 'words']", {"type": "text"}),
        ("x: list[int]", {"type": "object", "schema": {"type": "array", "items": {"type": "integer"}}}),
        ("x: typing.List[Thing]", {"type": "object", "schema": {"type": "array"}}),
        ("x: dict[str, int]", {"type": "object", "schema": {"type": "object"}}),
        ("x: np.ndarray", {"type": "tensor", "dtype": "float32", "shape": ["batch", None]}),
        ("x: PIL.Image.Image", {"type": "image"}),
        ("x: xumi.File", {"type": "file"}),
        ("x: str | int", {"type": "object"}),
        ("x: Whatever[3]", {"type": "object"}),
        ("x", {"type": "object"}),
        ("x: str = compute()", {"type": "text", "required": False}),
        ("x: int = 'three'", {"type": "integer", "required": False}),
        ("*, x: str", {"type": "text"}),
    ],
)
def test_a_hint_becomes_an_input(argument: str, expected: dict[str, Any]) -> None:
    assert detect_hints.inputs(read(f"def predict(self, {argument}):")) == [{"name": "x", **expected}]


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ("-> str", [{"name": "output", "type": "text"}]),
        ("", [{"name": "output", "type": "object"}]),
        ("-> dict", [{"name": "output", "type": "object"}]),
        ("-> Answer", [{"name": "label", "type": "text"}, {"name": "score", "type": "number"}]),
    ],
)
def test_a_return_hint_becomes_outputs(returns: str, expected: list[dict[str, Any]]) -> None:
    more = "class Answer(TypedDict):\n    label: str\n    score: float\n"
    assert detect_hints.outputs(read(f"def predict(self) {returns}:", more)) == expected


def test_a_base_class_of_the_same_file_is_followed() -> None:
    tree = ast.parse("class A:\n    def predict(self, x: int): ...\nclass B(A): ...\nclass C(Elsewhere): ...\n")
    found = detect_hints.signature(tree, "B")
    assert found is not None
    assert [p.name for p in found.parameters] == ["x"]
    assert detect_hints.signature(tree, "C") is None


@pytest.mark.parametrize(
    ("line", "inputs", "problem"),
    [
        ("self, text: str", "{name: text, type: text}", None),
        ("self, text", "{name: text, type: integer}", None),
        ("self, text: str", "{name: text, type: object}", None),
        ("self, text: Foreign", "{name: text, type: integer}", None),
        ("self, **inputs", "{name: text, type: integer}", None),
        ("self, text: float", "{name: text, type: integer}", None),
        ("self, text: str", "{name: text, type: enum, values: [a]}", None),
        ("self, text: str, more=1", "{name: text, type: text}", None),
        ("self, text: int", "{name: text, type: text}", "text is text, but Echo.predict() takes text: int"),
        ("self, words", "{name: text, type: text}", "takes no text; it takes words"),
        ("self, text, more", "{name: text, type: text}", "needs more, which no call can give"),
        ("self, text, /", "{name: text, type: text}", "only by position"),
        ("self, text", "{name: text, type: text, required: false}", "has no default for it"),
        ("self, text: Literal['a']", "{name: text, type: enum, values: [a, b]}", "may be b, which"),
    ],
)
def test_hints_are_compared_with_the_inputs(make_project: Make, line: str, inputs: str, problem: str | None) -> None:
    root = make_project()
    text = (root / "xumi.yaml").read_text().replace("{name: text, type: text, max_length: 20}", inputs)
    (root / "xumi.yaml").write_text(text)
    (root / "serve.py").write_text(f"class Echo:\n    def predict({line}): ...\n")
    problems = project.check_entry(root, manifest.load(root).manifest)
    if problem is None:
        assert problems == []
    else:
        assert problem in " ".join(problems)


@pytest.mark.parametrize(
    ("returns", "outputs", "problem"),
    [
        ("str", "- {name: text, type: text}", None),
        ("dict", "- {name: text, type: text}\n    - {name: n, type: integer}", None),
        ("int", "- {name: n, type: number}", None),
        ("Iterator[str]", "- {name: n, type: number}", None),
        ("int", "- {name: text, type: text}", "text is text, but Echo.predict() returns int"),
        ("str", "- {name: text, type: text}\n    - {name: n, type: integer}", "not a dict with text, n"),
    ],
)
def test_hints_are_compared_with_the_outputs(
    make_project: Make, returns: str, outputs: str, problem: str | None
) -> None:
    root = make_project()
    text = (root / "xumi.yaml").read_text()
    before, _, after = text.partition("  outputs:\n    - {name: text, type: text}\n")
    (root / "xumi.yaml").write_text(f"{before}  outputs:\n    {outputs}\n{after}")
    (root / "serve.py").write_text(f"class Echo:\n    def predict(self, text) -> {returns}: ...\n")
    problems = project.check_entry(root, manifest.load(root).manifest)
    assert problems == [] if problem is None else problem in problems[0]


def test_a_decorator_may_change_the_signature_so_nothing_is_complained_about(make_project: Make) -> None:
    root = make_project()
    (root / "serve.py").write_text("class Echo:\n    @wrapped\n    def predict(self, other: int): ...\n")
    assert project.check_entry(root, manifest.load(root).manifest) == []


def test_build_refuses_what_validate_refuses(make_project: Make, repository: Any) -> None:
    from berth.authoring.build import build

    root = make_project()
    (root / "serve.py").write_text("class Echo:\n    def predict(self, other: int): ...\n")
    with pytest.raises(ManifestFileInvalid, match="takes no text"):
        build(root, repository)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=120))
def test_no_annotation_crashes_the_reader(text: str) -> None:
    tree = detect_hints.parse(
        f"class M:\n    def predict(self, x: {text}) -> {text}: ...\n".encode("utf-8", "replace"), name="x"
    )
    if tree is not None and (found := detect_hints.signature(tree, "M")) is not None:
        detect_hints.inputs(found)
        detect_hints.outputs(found)


def test_code_nested_very_deep_says_nothing() -> None:
    deep = "[" * 3000 + "int" + "]" * 3000
    tree = detect_hints.parse(f"class M:\n    def predict(self, x: {deep}): ...\n".encode(), name="x")
    assert tree is None or detect_hints.signature(tree, "M") is None
