"""What do other tools' files say about a model? Hugging Face cards, Kitfile, cog.yaml, MLmodel, pyproject.toml.

Each reader takes the text and gives what it knows in our words; what it cannot use it leaves out. YAML is read by
`document`, so no tag, alias or merge key of a strange file has an effect.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from berth.authoring import document
from berth.authoring.detect_limits import Malformed
from berth.authoring.interface import TensorValue
from berth.errors import ManifestFileInvalid

MAX_BYTES = 256 * 1024
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_PYTHON = re.compile(r"3\.(?:9|[1-9][0-9])(?![0-9])")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")
_MLFLOW_DTYPES = {
    "double": "float64",
    "float": "float32",
    "long": "int64",
    "integer": "int32",
    "boolean": "bool",
}
_DTYPES = frozenset(get_args(TensorValue.model_fields["dtype"].annotation))


@dataclass(frozen=True)
class Card:
    """What one file declares; None or empty where it says nothing. `entry` is module:Class."""

    source: str
    title: str | None = None
    description: str | None = None
    version: str | None = None
    license: str | None = None
    authors: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    library: str | None = None
    task: str | None = None
    python: str | None = None
    requirements: str | tuple[str, ...] | None = None
    entry: str | None = None
    gpu: bool = False
    homepage: str | None = None
    inputs: tuple[dict[str, Any], ...] = ()
    outputs: tuple[dict[str, Any], ...] = ()


def read_readme(path: Path) -> Card | None:
    """A README, with a Hugging Face card's front matter when it has one. Raises Malformed, OSError."""
    text = _text(path)
    found = _FRONT.match(text)
    front = _yaml(found[1], path) if found else {}
    body = text[found.end() :] if found else text
    title, description = _opening(body)
    licenses = _words(front.get("license"))
    name = _line(front.get("license_name"))
    return Card(
        source=path.name,
        title=title,
        description=description,
        license=(name if licenses[0] == "other" and name else licenses[0]) if licenses else None,
        tags=_words(front.get("tags")),
        library=_line(front.get("library_name")),
        task=_line(front.get("pipeline_tag")),
    )


def read_kitfile(path: Path) -> Card | None:
    """A KitOps Kitfile. Raises Malformed, OSError."""
    read = _yaml(_text(path), path)
    package, model = _map(read.get("package")), _map(read.get("model"))
    return Card(
        source=path.name,
        title=_line(package.get("name")) or _line(model.get("name")),
        description=_prose(package.get("description")) or _prose(model.get("description")),
        version=_line(package.get("version")) or _line(model.get("version")),
        license=_line(package.get("license")) or _line(model.get("license")),
        authors=_words(package.get("authors")),
        library=_line(model.get("framework")),
    )


def read_cog(path: Path) -> Card | None:
    """A cog.yaml. Raises Malformed, OSError."""
    read = _yaml(_text(path), path)
    build = _map(read.get("build"))
    predict = _line(read.get("predict"))
    entry = None
    if predict:
        file, _, name = predict.partition(":")
        module = file.removesuffix(".py").replace("/", ".")
        if re.fullmatch(r"[A-Za-z_][\w.]*", module, re.ASCII) and re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            entry = f"{module}:{name}"
    file_name = _line(build.get("python_requirements"))
    packages = _words(build.get("python_packages"))
    return Card(
        source=path.name,
        python=_python(build.get("python_version")),
        requirements=file_name or packages or None,
        entry=entry,
        gpu=build.get("gpu") is True,
    )


def read_mlmodel(path: Path) -> Card | None:
    """MLflow's MLmodel. Raises Malformed, OSError."""
    read = _yaml(_text(path), path)
    flavors = _map(read.get("flavors"))
    if not flavors:
        return None
    own = next((name for name in flavors if name != "python_function"), None)
    signature = _map(read.get("signature"))
    return Card(
        source=path.name,
        library=own,
        python=_python(_map(flavors.get("python_function")).get("python_version")),
        inputs=_mlflow(signature.get("inputs"), "features"),
        outputs=_mlflow(signature.get("outputs"), "predictions"),
    )


def read_pyproject(path: Path) -> Card | None:
    """The `[project]` table of a pyproject.toml. Raises Malformed, OSError."""
    try:
        project = _map(tomllib.loads(_text(path)).get("project"))
    except (ValueError, RecursionError) as error:
        raise Malformed("it is no TOML") from error
    declared = project.get("license")
    urls = _map(project.get("urls"))
    homepage = next((u for k, u in urls.items() if k.lower() in ("homepage", "repository", "source")), None)
    authors = [_line(_map(a).get("name")) for a in project.get("authors") or () if isinstance(a, Mapping)]
    dependencies = _words(project.get("dependencies"))
    return Card(
        source=path.name,
        description=_prose(project.get("description")),
        license=_line(declared) if isinstance(declared, str) else _line(_map(declared).get("text")),
        authors=tuple(a for a in authors if a),
        python=_python(project.get("requires-python")),
        requirements=dependencies or None,
        homepage=_line(homepage) if re.fullmatch(r"https?://\S{1,1900}", str(homepage)) else None,
    )


def read_config(path: Path) -> Card | None:
    """A Hugging Face config.json; None for any other file of that name. Raises Malformed, OSError."""
    try:
        read = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise Malformed("it is no JSON") from error
    if not isinstance(read, dict) or not (_line(read.get("model_type")) or _words(read.get("architectures"))):
        return None
    names = " ".join(_words(read.get("architectures")))
    tasks = (
        ("ForSequenceClassification", "text-classification"),
        ("ForTokenClassification", "token-classification"),
        ("ForQuestionAnswering", "question-answering"),
        ("ForMaskedLM", "fill-mask"),
        ("ForImageClassification", "image-classification"),
        ("ForCausalLM", "text-generation"),
        ("LMHeadModel", "text-generation"),
    )
    task = next((t for name, t in tasks if name in names), None)
    return Card(source=path.name, library="transformers", task=task)


def _text(path: Path) -> str:
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Malformed(f"it is longer than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed("it is not UTF-8") from error


def _yaml(text: str, path: Path) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        read = document.parse(text, name=path.name).data
    except ManifestFileInvalid as error:
        problems = error.detail.get("problems") or [{}]
        raise Malformed(f"line {problems[0].get('line')}: {problems[0].get('message')}") from error
    if not isinstance(read, dict):
        raise Malformed("it holds no `key: value` lines")
    return read


def _opening(body: str) -> tuple[str | None, str | None]:
    """The first heading and the first paragraph of prose after it."""
    title, lines = None, list[str]()
    for line in body.splitlines()[:200]:
        text = line.strip()
        if title is None and text.startswith("# "):
            title = _line(text[2:].strip("# `*"))
        elif text and text[0] not in "#<[!|-*>`=:{" and not text.startswith("---"):
            lines.append(text)
        elif lines:
            break
    return title, _prose(" ".join(lines))


def _mlflow(value: Any, name: str) -> tuple[dict[str, Any], ...]:
    """MLflow's signature: named columns become one table of numbers, tensors stay tensors."""
    try:
        entries = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return ()
    if not isinstance(entries, list) or not 1 <= len(entries) <= 200 or not all(isinstance(e, dict) for e in entries):
        return ()
    if len(entries) == 1 and entries[0].get("type") == "tensor":
        spec = _map(entries[0].get("tensor-spec"))
        dtype, shape = spec.get("dtype"), spec.get("shape")
        if dtype not in _DTYPES or not isinstance(shape, list) or not 1 <= len(shape) <= 16:
            return ()
        lengths = [n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for n in shape]
        return ({"name": name, "type": "tensor", "dtype": dtype, "shape": lengths},)
    kinds = {_MLFLOW_DTYPES.get(str(e.get("type"))) for e in entries}
    if len(kinds) != 1 or None in kinds:
        return ()
    columns = ", ".join(_line(e.get("name")) or str(i) for i, e in enumerate(entries))
    entry = {"name": name, "type": "tensor", "dtype": kinds.pop(), "shape": ["batch", len(entries)]}
    return ({**entry, "description": f"Columns: {columns}."[:4000]},)


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _line(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return " ".join(_CONTROL.sub(" ", str(value)).split())[:400] or None


def _prose(value: Any) -> str | None:
    text = " ".join(_CONTROL.sub(" ", value).split()) if isinstance(value, str) else ""
    return text[:2000] or None


def _words(value: Any) -> tuple[str, ...]:
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    return tuple(line for item in items[:200] if (line := _line(item)))


def _python(value: Any) -> str | None:
    found = _PYTHON.search(_line(value) or "")
    return found[0] if found else None
