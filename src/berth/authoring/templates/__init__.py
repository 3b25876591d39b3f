"""What does a new project start with? One folder here per template; `{{name}}` and the like are filled in."""

from __future__ import annotations

import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from berth.authoring.manifest import parse
from berth.errors import Conflict, InvalidInput
from berth.oci.reference import ModelName

# Files whose real names would take effect inside this package.
_RENAMED = {"xumiignore": ".xumiignore"}
_FOLDERS = {"onnx": ("weights",), "command": ()}


def names() -> list[str]:
    """The templates there are."""
    return sorted(_FOLDERS)


def write(model: ModelName, template: str, destination: Path, *, author: str = "", force: bool = False) -> list[Path]:
    """Writes a new project; returns the files written.

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
    if template not in _FOLDERS:
        raise InvalidInput(f"There is no template {template}.", hint=f"Write one of: {', '.join(names())}.")
    values = {
        "name": str(model),
        "title": json.dumps(model.name.replace("-", " ").replace("_", " ").capitalize(), ensure_ascii=False),
        "author": json.dumps(author or f"The {model.project} team", ensure_ascii=False),
    }
    files = {destination / name: _fill(item, values) for name, item in _files(template)}
    parse(files[destination / "xumi.yaml"])
    taken = [path for path in files if path.exists() or path.is_symlink()]
    if taken and not force:
        raise Conflict(
            f"{', '.join(str(p) for p in taken)} exist already; nothing was written.",
            hint="Name another folder with --directory, or replace them with --force.",
        )
    destination.mkdir(parents=True, exist_ok=True)
    for name in _FOLDERS[template]:
        (destination / name).mkdir(exist_ok=True)
    for path, text in files.items():
        if path.is_symlink():
            path.unlink()
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(files)


def _files(template: str) -> list[tuple[str, Traversable]]:
    folder = resources.files(__name__) / template
    found = [(_RENAMED.get(item.name, item.name), item) for item in folder.iterdir() if item.is_file()]
    return sorted(found, key=lambda pair: pair[0])


def _fill(item: Traversable, values: dict[str, str]) -> str:
    text = item.read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    return text
