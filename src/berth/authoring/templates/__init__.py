"""What does a new project start with? One folder here per template; `{{name}}` and the like are filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from berth.authoring.manifest import parse
from berth.errors import Conflict, InvalidInput
from berth.oci.reference import ModelName

# Files whose real names would take effect inside this package.
_RENAMED = {"xumiignore": ".xumiignore"}
# A project may have these of its own already; nothing in a template depends on them.
_LEFT = frozenset({"README.md", ".xumiignore"})
# Code that imports what a model's image has and this package does not: kept from type checkers and importers.
_CODE_SUFFIX = ".py.txt"
_FOLDERS = {
    "command": (),
    "gguf": ("weights",),
    "onnx": ("weights",),
    "pytorch": ("weights",),
    "savedmodel": ("weights",),
    "sklearn": ("weights",),
    "transformers": ("weights",),
}


def names() -> list[str]:
    """The templates there are."""
    return sorted(_FOLDERS)


def write(model: ModelName, template: str, destination: Path, *, author: str = "", force: bool = False) -> list[Path]:
    """Writes a new project; returns the files written. A README.md or .xumiignore that is there stays.

    Args:
        model: project and name of the new model.
        template: one of `names()`.
        destination: the folder; made when it does not exist.
        author: first entry of `authors`.
        force: replace files that exist.
    Raises:
        Conflict: a file exists already; nothing was written.
        InvalidInput: no such template.
    """
    files = texts(model, template, author=author)
    if not force:
        files = {name: text for name, text in files.items() if name not in _LEFT or not (destination / name).exists()}
    written = write_files(files, destination, force=force)
    for name in _FOLDERS[template]:
        (destination / name).mkdir(exist_ok=True)
    return written


def texts(model: ModelName, template: str, *, author: str = "") -> dict[str, str]:
    """The files of a template by name, filled in. Raises InvalidInput."""
    if template not in _FOLDERS:
        raise InvalidInput(f"There is no template {template}.", hint=f"Write one of: {', '.join(names())}.")
    values = {
        "name": str(model),
        "title": json.dumps(title_of(model), ensure_ascii=False),
        "author": json.dumps(author or team_of(model), ensure_ascii=False),
    }
    files = {name: _fill(item, values) for name, item in _files(template)}
    parse(files["xumi.yaml"])
    return files


def write_files(files: Mapping[str, str], destination: Path, *, force: bool = False) -> list[Path]:
    """Writes text files into a folder, all or none; returns their paths.

    Raises:
        Conflict: a file exists already; nothing was written.
        InvalidInput: the folder cannot be written to.
    """
    paths = {destination / name: text for name, text in files.items()}
    taken = [path for path in paths if path.exists() or path.is_symlink()]
    if taken and not force:
        raise Conflict(
            f"{', '.join(str(p) for p in taken)} exist already; nothing was written.",
            hint="Name another folder with --directory, or replace them with --force.",
        )
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            if path.is_symlink():
                path.unlink()
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InvalidInput(f"{destination} cannot be written: {error.strerror}.") from error
    return list(paths)


def title_of(model: ModelName) -> str:
    """A title for people, made from the name."""
    return model.name.replace("-", " ").replace("_", " ").capitalize()


def team_of(model: ModelName) -> str:
    """Who to name as author when nobody is known."""
    return f"The {model.project} team"


def _files(template: str) -> list[tuple[str, Traversable]]:
    folder = resources.files(__name__) / template
    found = [(_name(item.name), item) for item in folder.iterdir() if item.is_file()]
    return sorted(found, key=lambda pair: pair[0])


def _name(stored: str) -> str:
    if stored.endswith(_CODE_SUFFIX):
        return stored.removesuffix(".txt")
    return _RENAMED.get(stored, stored)


def _fill(item: Traversable, values: dict[str, str]) -> str:
    text = item.read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    return text
