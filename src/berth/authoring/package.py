"""How does a notebook or a training job make a model? `berth.package(...)` writes a folder that `xumi build` builds.

Source is saved, never pickled (see `package_source`); weight files stay where they are and are linked. Requirements
that are not given are the installed versions of what the source imports.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from berth.authoring import detect_archives, detect_hints, package_source, project, templates
from berth.authoring.manifest import FILE_NAME, load, parse
from berth.errors import BerthError, Conflict, InvalidInput
from berth.oci.reference import ModelName

CODE_FILE = "serve.py"
REQUIREMENTS_FILE = "requirements.txt"
_CLASS = "Served"
_IGNORE = "# Files that are not part of the model, by the rules of .gitignore.\n.env\n"
_CHECKPOINT = re.compile(r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$")

PathLike = str | os.PathLike[str]
Weights = PathLike | Sequence[PathLike] | Mapping[str, PathLike | Sequence[PathLike]]


@dataclass(frozen=True)
class Packaged:
    """A folder ready for `xumi build`. `notes` say what to look over."""

    path: Path
    reference: str
    requirements: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.reference} is in {self.path}", *(f"note: {n}" for n in self.notes)]
        return "\n".join([*lines, f"→ xumi build {self.path}"])


def package(
    name: str,
    *,
    predict: Callable[..., Any],
    setup: Callable[..., Any] | None = None,
    weights: Weights | None = None,
    requirements: PathLike | Sequence[str] | None = None,
    version: str = "0.1.0",
    out: PathLike | None = None,
    code: Sequence[PathLike] = (),
    base: str | None = None,
    description: str | None = None,
    license: str | None = None,  # noqa: A002 - the manifest's word
    copy_weights: bool = False,
    force: bool = False,
) -> Packaged:
    """Writes a project folder for a function or class of this session.

    Args:
        name: project/model.
        predict: a function, or a class with predict() and perhaps setup(), as for `xumi.Model`. Its type hints
            become the manifest's interface.
        setup: for a function: called once with the weights (checkpoint name → folder); what it returns is the first
            argument of each predict().
        weights: a file, a folder, or several; with a mapping, by checkpoint name (otherwise `main`).
        requirements: a requirements file, or lines; default: the installed versions of what the source imports.
        version: semantic version.
        out: folder to write; default: one named like the model.
        code: files and folders that the source imports from beside it; copied in.
        base: base image; default: docker.io/library/python:X.Y-slim of this Python.
        description, license: for the manifest; the licence is an SPDX expression.
        copy_weights: copy the files instead of linking to them.
        force: replace a folder that `package` wrote before.
    Raises:
        InvalidInput: the source or the weights cannot be saved; the message says why and what to do.
        Conflict: the folder exists and is not empty.
        ManifestFileInvalid: name, version, licence or base are wrong.
    """
    model = ModelName.parse(name)
    folder = Path(out) if out is not None else Path(model.name)
    notes: list[str] = []
    text, owner, modules = _source(predict, setup)
    files = _weight_files(weights)
    if files and setup is None and not isinstance(predict, type):
        raise InvalidInput(
            "A function has no way to its weights.",
            hint='Give setup=, a function that loads them from weights["main"], or a class with setup() and predict().',
        )
    modules |= _pickled(files, notes) if requirements is None else set()
    lines = _requirements(requirements, modules, code, notes)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    manifest = _manifest(
        model,
        version,
        owner,
        text,
        {
            "title": templates.title_of(model),
            "description": description or (inspect.getdoc(predict) or "").strip() or None,
            "license": license,
        },
        base or f"docker.io/library/python:{python}-slim",
        python,
        bool(lines),
        {key: [target for target, _ in pairs] for key, pairs in files.items()},
        notes,
    )
    parse(manifest)
    _make_folder(folder, force=force)
    written = {FILE_NAME: manifest, CODE_FILE: text, project.IGNORE_FILE: _IGNORE}
    if lines:
        written[REQUIREMENTS_FILE] = "".join(f"{line}\n" for line in lines)
    templates.write_files(written, folder, force=True)
    _copy_code(code, folder)
    for checkpoint, pairs in files.items():
        _place(pairs, folder / "weights" / checkpoint, copy=copy_weights)
    _check(folder)
    return Packaged(folder, f"{model}:{version}", tuple(lines), tuple(notes))


def _source(predict: Callable[..., Any], setup: Callable[..., Any] | None) -> tuple[str, str, set[str]]:
    """(text of serve.py, name of the class to serve, modules it imports)."""
    name = package_source.name_of(predict)
    if isinstance(predict, type):
        if setup is not None:
            raise InvalidInput("setup= goes with a function; a class has a setup() of its own.")
        if not callable(getattr(predict, "predict", None)):
            raise InvalidInput(f"The class {name} has no predict().", hint="Write def predict(self, …) in it.")
        _check_kind(inspect.getattr_static(predict, "predict"))
        saved = package_source.save(predict)
        return _module(saved, ""), name, saved.modules
    _check_kind(predict)
    targets = [predict] if setup is None else [predict, setup]
    if setup is not None:
        package_source.name_of(setup)
    saved = package_source.save(*targets)
    if _CLASS in saved.pieces or _CLASS in saved.constants:
        raise InvalidInput(f"The name {_CLASS} is taken by the class that serves.", hint="Rename yours.")
    return _module(saved, _wrapper(predict, setup)), _CLASS, saved.modules


def _check_kind(function: Any) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidInput(
            f"{function.__name__} is async; predict() is called in threads.", hint="Write it with plain `def`."
        )


def _module(saved: package_source.Saved, end: str) -> str:
    parts = ['"""Saved by berth.package."""', "from __future__ import annotations", saved.text().rstrip()]
    text = "\n\n".join(parts) + "\n" + end
    compile(text, CODE_FILE, "exec", dont_inherit=True)
    return text


def _wrapper(predict: Callable[..., Any], setup: Callable[..., Any] | None) -> str:
    """A class around the function, with the function's own arguments, so that hints can be checked and read."""
    tree = ast.parse(package_source.source_of(predict))
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef))
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if arguments.vararg is not None or arguments.posonlyargs:
        raise InvalidInput(f"{function.name} takes arguments by position only; a call names them.")
    if setup is not None:
        if not positional:
            raise InvalidInput(f"{function.name} needs a first argument for what setup returns.")
        gap = len(positional) - len(arguments.defaults)
        arguments.args, arguments.defaults = positional[1:], arguments.defaults[0 if gap else 1 :]
    names = [a.arg for a in (*arguments.args, *arguments.kwonlyargs)]
    passed = [f"{n}={n}" for n in names] + ([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])
    calls = ", ".join((["self.state"] if setup is not None else []) + passed)
    taken = ast.unparse(arguments)
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    state = (
        f"    def setup(self):\n        self.state = {setup.__name__}(self.weights)\n\n" if setup is not None else ""
    )
    return (
        f"\n\nfrom xumi import Model  # noqa: E402\n\n\nclass {_CLASS}(Model):\n{state}"
        f"    def predict(self{', ' if taken else ''}{taken}){returns}:\n"
        f"        return {function.name}({calls})\n"
    )


def _manifest(
    model: ModelName,
    version: str,
    owner: str,
    text: str,
    words: Mapping[str, str | None],
    base: str,
    python: str,
    has_requirements: bool,
    files: Mapping[str, Sequence[str]],
    notes: list[str],
) -> str:
    found = detect_hints.signature(ast.parse(text), owner)
    inputs = detect_hints.inputs(found) if found else []
    outputs = detect_hints.outputs(found) if found else [{"name": "output", "type": "object"}]
    unsaid = [p.name for p in found.parameters if p.hint.kind is None] if found else []
    if unsaid:
        notes.append(
            f"{', '.join(unsaid)} have no type hint that says more than `object`; see interface in {FILE_NAME}"
        )
    if any(value["type"] == "tensor" for value in (*inputs, *outputs)):
        notes.append(f"dtype and shape of tensors are guesses; see interface in {FILE_NAME}")
    method = next((n for n in ast.walk(ast.parse(text)) if _is_generator(n, owner)), None)
    content: dict[str, Any] = {
        "xumi": 1,
        "name": str(model),
        "version": version,
        **{key: value for key, value in words.items() if value},
        "interface": {
            "inputs": inputs,
            "outputs": outputs,
            **({"streaming": True} if method is not None else {}),
        },
        "entry": {"python": f"{CODE_FILE.removesuffix('.py')}:{owner}"},
        "runtime": {
            "base": base,
            "python": python,
            **({"requirements": REQUIREMENTS_FILE} if has_requirements else {}),
        },
    }
    if files:
        content["checkpoints"] = [{"name": key, "root": f"weights/{key}", "files": ["**/*"]} for key in files]
    lines = ["# Written by berth.package. `xumi validate` explains every mistake with its line."]
    lines += _yaml(content, "")
    return "\n".join(lines) + "\n"


def _is_generator(node: ast.AST, owner: str) -> bool:
    if not isinstance(node, ast.ClassDef) or node.name != owner:
        return False
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "predict"]
    return any(isinstance(inner, ast.Yield | ast.YieldFrom) for m in methods for inner in ast.walk(m))


def _yaml(value: Mapping[str, Any], indent: str) -> list[str]:
    """Block style for the outer mappings and lists of mappings, JSON (which is YAML) inside."""
    lines = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item and key not in ("schema",):
            lines += [f"{indent}{key}:", *_yaml(item, indent + "  ")]
        elif isinstance(item, list) and item and all(isinstance(i, Mapping) for i in item):
            lines.append(f"{indent}{key}:")
            for entry in item:
                inner = _yaml(entry, indent + "    ")
                lines += [f"{indent}  - {inner[0].lstrip()}", *inner[1:]]
        else:
            lines.append(f"{indent}{key}: {json.dumps(_printable(item), ensure_ascii=False)}")
    return lines


def _printable(value: Any) -> Any:
    match value:
        case str():
            return "".join(c if c.isprintable() or c == "\n" else " " for c in value)
        case dict():
            return {k: _printable(v) for k, v in value.items()}
        case list():
            return [_printable(v) for v in value]
        case _:
            return value


def _weight_files(weights: Weights | None) -> dict[str, list[tuple[str, Path]]]:
    """Checkpoint → (path within it, file). Raises InvalidInput."""
    if weights is None:
        return {}
    given = dict(weights) if isinstance(weights, Mapping) else {"main": weights}
    found = {}
    for name, paths in given.items():
        if not _CHECKPOINT.match(str(name)):
            raise InvalidInput(f"{name!r} cannot name a checkpoint.", hint="Use lower case letters, digits and - . _.")
        pairs: dict[str, Path] = {}
        for one in [paths] if isinstance(paths, str | os.PathLike) else paths:
            for target, path in _expand(Path(one)):
                if pairs.setdefault(target, path) != path:
                    raise InvalidInput(f"Two weight files are named {target}.", hint="Give the folder that holds both.")
        if not pairs:
            raise InvalidInput(f"The weights {name} hold no file.")
        found[str(name)] = sorted(pairs.items())
    return found


def _expand(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path.absolute())]
    if not path.is_dir():
        raise InvalidInput(f"There are no weights at {path}.", hint="Save them first, then package.")
    files = [f for f in sorted(path.rglob("*")) if f.is_file()]
    return [
        (f.relative_to(path).as_posix(), f.absolute())
        for f in files
        if not any(part.startswith(".") for part in f.relative_to(path).parts)
    ]


def _pickled(files: Mapping[str, Sequence[tuple[str, Path]]], notes: list[str]) -> set[str]:
    """Libraries that pickles among the weights need, whoever imports them; told from their text, never loaded."""
    found = set()
    for target, path in (pair for pairs in files.values() for pair in pairs):
        if path.suffix.lower() in (".pkl", ".pickle", ".joblib"):
            library = detect_archives.read_pickle(path).library
            if library:
                found.add(library)
            else:
                notes.append(f"{target} is a pickle that does not say what it needs; see {REQUIREMENTS_FILE}")
    return found


def _requirements(
    given: PathLike | Sequence[str] | None, modules: set[str], code: Sequence[PathLike], notes: list[str]
) -> list[str]:
    if isinstance(given, str | os.PathLike):
        try:
            return Path(given).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"The requirements file {given} cannot be read: {error}.", hint="Or give a list of lines."
            ) from error
    if given is not None:
        return list(given)
    beside = {Path(p).name.removesuffix(".py") for p in code}
    known = metadata.packages_distributions()
    lines = set()
    for module in sorted(modules - set(sys.stdlib_module_names) - beside - {"xumi", "__future__"}):
        names = known.get(module)
        if not names:
            raise InvalidInput(
                f"The source imports {module}, which no installed package brings.",
                hint=f'If it is a file of yours, add code=["{module}.py"]; else give requirements=.',
            )
        lines |= {f"{n}=={metadata.version(n).partition('+')[0]}" for n in sorted(set(names))[:1]}
    if code and modules:
        notes.append("what the files of code= import is not looked at; give requirements= if they need more")
    return sorted(lines, key=str.lower)


def _make_folder(folder: Path, *, force: bool) -> None:
    """An empty place to write to; with `force` only what an earlier `package` wrote is removed."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    ours = folder.is_dir() and (folder / FILE_NAME).is_file() and (folder / CODE_FILE).is_file()
    if not force or not ours:
        raise Conflict(
            f"{folder} exists already; nothing was written.",
            hint="Name another folder with out=" + (", or replace it with force=True." if ours else "."),
        )
    weights = folder / "weights"
    if weights.is_symlink():
        weights.unlink()
    elif weights.is_dir():
        shutil.rmtree(weights)
    for name in (FILE_NAME, CODE_FILE, REQUIREMENTS_FILE, project.IGNORE_FILE):
        (folder / name).unlink(missing_ok=True)


def _copy_code(code: Sequence[PathLike], folder: Path) -> None:
    for one in code:
        path = Path(one)
        target = folder / path.name
        if path.name in (FILE_NAME, CODE_FILE, REQUIREMENTS_FILE, "weights"):
            raise InvalidInput(f"{path.name} is a name that package itself writes.", hint="Rename the file.")
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".git"))
        elif path.is_file():
            shutil.copy2(path, target)
        else:
            raise InvalidInput(f"There is no code at {path}.")


def _place(pairs: Sequence[tuple[str, Path]], folder: Path, *, copy: bool) -> None:
    for target, path in pairs:
        place = folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copy2(path, place)
        else:
            place.symlink_to(path)


def _check(folder: Path) -> None:
    """The folder is what `xumi build` takes; what is wrong with it is said now."""
    manifest = load(folder).manifest
    problems = project.check_entry(folder, manifest)
    if problems:
        raise InvalidInput("\n".join(problems), hint=f"The folder {folder} was written; change {FILE_NAME} there.")
    try:
        project.collect(folder, manifest)
    except BerthError as error:
        raise InvalidInput(f"{folder} was written, but cannot be built: {error.message}", hint=error.hint) from error
