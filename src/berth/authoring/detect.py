"""What is in this folder? Weights, code, and what other tools' files say about them.

Only headers and small text files are read, nothing is imported or unpickled, and a file that is damaged or not what
its name says becomes a remark. The walk is bounded, so a home directory is looked at as fast as a project.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from berth.authoring import detect_archives, detect_cards, detect_hints, detect_onnx, detect_tensors
from berth.authoring.detect_cards import Card
from berth.authoring.detect_hints import Signature
from berth.authoring.detect_limits import Malformed
from berth.authoring.ignore import Rules
from berth.authoring.project import ALWAYS_LEFT_OUT, IGNORE_FILE
from berth.errors import InvalidInput

MAX_FILES = 20_000
MAX_DEPTH = 4
MAX_SOURCES = 50
# Formats that run nothing when they are loaded come first; the first one found is served.
PREFERENCE = ("safetensors", "gguf", "onnx", "savedmodel", "torchscript", "keras", "pytorch", "pickle")
_CARDS: tuple[tuple[str, Callable[[Path], Card | None]], ...] = (
    ("README.md", detect_cards.read_readme),
    ("Kitfile", detect_cards.read_kitfile),
    ("cog.yaml", detect_cards.read_cog),
    ("MLmodel", detect_cards.read_mlmodel),
    ("pyproject.toml", detect_cards.read_pyproject),
)
# What a transformers model needs beside its weights.
_COMPANIONS = re.compile(
    r"^(?:config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|preprocessor_config"
    r"|processor_config|.*\.index)\.json$|^(?:vocab|merges)\.txt$|^chat_template\.jinja$|^(?:tokenizer|spiece|sentencepiece.*)\.model$"
)
_ZIP, _PICKLE = b"PK\x03\x04", re.compile(rb"^\x80[\x02-\x05]")
_COMPRESSED = (
    b"\x1f\x8b",
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
    b"BZh",
    b"\xfd7zXZ",
    b"\x04\x22\x4d\x18",
    b"ZF",
)
_SERVED_BASES = frozenset({"Model", "BasePredictor"})

Facts = detect_onnx.Onnx | detect_tensors.Safetensors | detect_tensors.Gguf | detect_archives.Pickle | None


@dataclass(frozen=True)
class Weights:
    """The files of one format: `files` are relative to `root`, a folder of the project ("." for the project itself)."""

    format: str
    root: str
    files: tuple[str, ...]
    size: int
    facts: Facts = None
    library: str | None = None


@dataclass(frozen=True)
class Code:
    """A class that can be served, and its predict() as far as the file shows it."""

    entry: str
    file: str
    signature: Signature | None


@dataclass(frozen=True)
class Found:
    """What `look` saw. `weights` are in the order of PREFERENCE; `remarks` say what could not be read, and why."""

    root: Path
    weights: tuple[Weights, ...]
    cards: tuple[Card, ...]
    code: Code | None
    requirements: str | tuple[str, ...] | None
    remarks: tuple[str, ...]

    @property
    def worth_a_draft(self) -> bool:
        """Whether there is anything that a template would not know."""
        telling = any(c.source in ("Kitfile", "cog.yaml", "MLmodel") for c in self.cards)
        return bool(self.weights or self.code or telling)


@dataclass(frozen=True)
class _One:
    """One weight file; `name` is relative to the project."""

    name: str
    format: str
    size: int
    facts: Facts = None
    beside: tuple[str, ...] = ()


def look(root: Path) -> Found:
    """Looks at a folder; never raises for what is in it.

    Raises:
        InvalidInput: there is no such folder, or it cannot be listed.
    """
    if not root.is_dir():
        raise InvalidInput(f"There is no folder {root}.")
    remarks: list[str] = []
    names = list(_walk(root, remarks))
    ones = [one for name in names if (one := _weight(root, name, remarks)) is not None]
    cards = _cards(root, names, remarks)
    weights = _groups(root, ones, names, cards)
    code = _code(root, names, cards)
    declared = next((c.requirements for c in cards if c.requirements and c.source != "pyproject.toml"), None)
    requirements: str | tuple[str, ...] | None = "requirements.txt" if "requirements.txt" in names else None
    if requirements is None and not (isinstance(declared, str) and declared not in names):
        requirements = declared
    if requirements is None:
        requirements = next((c.requirements for c in cards if c.requirements and c.source == "pyproject.toml"), None)
    return Found(root, weights, cards, code, requirements, tuple(remarks))


def _walk(root: Path, remarks: list[str]) -> Iterator[str]:
    try:
        rules = Rules.read(root / IGNORE_FILE, ALWAYS_LEFT_OUT)
    except InvalidInput as error:
        remarks.append(f"{IGNORE_FILE} was not read: {error.message}")
        rules = Rules(ALWAYS_LEFT_OUT)
    count = 0
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root).as_posix()
        prefix = "" if here == "." else f"{here}/"
        deep = prefix.count("/") >= MAX_DEPTH
        folders[:] = (
            []
            if deep
            else sorted(f for f in folders if not f.startswith(".") and not rules.leaves_out(prefix + f, folder=True))
        )
        for name in sorted(files):
            count += 1
            if count > MAX_FILES:
                remarks.append(f"Only the first {MAX_FILES} files were looked at.")
                return
            if not name.startswith(".") and _can_be_written(prefix + name):
                if not rules.leaves_out(prefix + name, folder=False) and _is_plain_file(root / prefix / name):
                    yield prefix + name


def _can_be_written(name: str) -> bool:
    """Whether the name can stand in xumi.yaml."""
    return len(name) < 1000 and name.isprintable() and "\\" not in name and not name.startswith("~")


def _is_plain_file(path: Path) -> bool:
    """Pipes and devices would block; a link counts as what it points to."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _weight(root: Path, name: str, remarks: list[str]) -> _One | None:
    path = root / name
    suffix = path.suffix.lower()
    try:
        size = path.stat().st_size
        match suffix:
            case ".safetensors":
                return _One(name, "safetensors", size, detect_tensors.read_safetensors(path))
            case ".gguf":
                return _One(name, "gguf", size, detect_tensors.read_gguf(path))
            case ".onnx":
                model = detect_onnx.read(path)
                return _One(name, "onnx", size, model, _external(root, name, model, remarks))
            case ".pt" | ".pth" | ".ckpt" | ".bin" | ".keras" | ".pkl" | ".pickle" | ".joblib":
                return _archive_or_pickle(path, name, size)
        if path.name == "saved_model.pb":
            return _One(name, "savedmodel", size)
    except Malformed as error:
        remarks.append(f"{name} was not read: {error.message}.")
    except OSError as error:
        remarks.append(f"{name} was not read: {error.strerror}.")
    return None


def _archive_or_pickle(path: Path, name: str, size: int) -> _One | None:
    with path.open("rb") as stream:
        head = stream.read(8)
    suffix = path.suffix.lower()
    if head.startswith(_ZIP):
        kind = detect_archives.read_archive(path).kind
        if kind == "keras" or suffix == ".keras":
            return _One(name, "keras", size)
        if kind == "torchscript":
            return _One(name, "torchscript", size)
        return _One(name, "pytorch", size) if kind == "torch" else None
    pickled = _PICKLE.match(head) is not None
    if suffix in (".pkl", ".pickle", ".joblib"):
        if not pickled and not head.startswith(_COMPRESSED):
            raise Malformed("it is no pickle that is known")
        return _One(name, "pickle", size, detect_archives.read_pickle(path))
    if suffix == ".bin" and not path.name.startswith("pytorch_model"):
        return None
    if not pickled:
        raise Malformed("it is no PyTorch file")
    return _One(name, "pytorch", size)


def _external(root: Path, name: str, model: detect_onnx.Onnx, remarks: list[str]) -> tuple[str, ...]:
    """Files beside an ONNX model that hold its weights."""
    folder = name.rpartition("/")[0]
    found = []
    for location in model.external:
        inside = not location.startswith(("/", "~")) and ".." not in location.split("/") and _can_be_written(location)
        other = f"{folder}/{location}" if folder else location
        if inside and _is_plain_file(root / other):
            found.append(other)
        else:
            remarks.append(f"{name} names weights in {location[:100]!r}, which is not there.")
    return tuple(found)


def _cards(root: Path, names: list[str], remarks: list[str]) -> tuple[Card, ...]:
    found = []
    configs = [n for n in names if n.rpartition("/")[2] == "config.json"][:20]
    readers = [(name, read) for name, read in _CARDS if name in names]
    readers += [(name, detect_cards.read_config) for name in configs]
    for name, read in readers:
        try:
            card = read(root / name)
        except Malformed as error:
            remarks.append(f"{name} was not read: {error.message}.")
        except OSError as error:
            remarks.append(f"{name} was not read: {error.strerror}.")
        else:
            if card is not None:
                found.append(card)
    return tuple(found)


def _groups(root: Path, ones: list[_One], names: list[str], cards: tuple[Card, ...]) -> tuple[Weights, ...]:
    groups = []
    transformers = any(c.source == "config.json" for c in cards)
    for kind in PREFERENCE:
        own = [one for one in ones if one.format == kind]
        if not own:
            continue
        library, files = None, {one.name for one in own} | {b for one in own for b in one.beside}
        folders = {one.name.rpartition("/")[0] for one in own}
        if kind == "savedmodel":
            files = {n for n in names if any(n.startswith(f"{f}/" if f else "") and _saved(n, f) for f in folders)}
        elif kind in ("safetensors", "pytorch") and transformers:
            library = "transformers"
            files |= {n for n in names if n.rpartition("/")[0] in folders and _COMPANIONS.match(n.rpartition("/")[2])}
        elif isinstance(own[0].facts, detect_archives.Pickle):
            library = own[0].facts.library
        tops = {name.partition("/")[0] if "/" in name else "." for name in files}
        top = tops.pop() if len(tops) == 1 else "."
        relative = sorted(name if top == "." else name.partition("/")[2] for name in files)
        size = sum((root / name).stat().st_size for name in files if _is_plain_file(root / name))
        groups.append(Weights(kind, top, tuple(relative), size, _main(own).facts, library))
    return tuple(groups)


def _main(ones: list[_One]) -> _One:
    """The file that speaks for its format: the largest."""
    return max(ones, key=lambda one: (one.size, one.name))


def _saved(name: str, folder: str) -> bool:
    inside = name.removeprefix(f"{folder}/") if folder else name
    top = inside.partition("/")[0]
    return top in ("saved_model.pb", "keras_metadata.pb", "fingerprint.pb", "variables", "assets", "assets.extra")


def _code(root: Path, names: list[str], cards: tuple[Card, ...]) -> Code | None:
    declared = next((c.entry for c in cards if c.entry), None)
    if declared is not None:
        module, _, owner = declared.partition(":")
        file = module.replace(".", "/") + ".py"
        tree = _parse(root, file) if file in names else None
        if tree is not None and owner in detect_hints.classes_with_predict(tree):
            return Code(declared, file, detect_hints.signature(tree, owner))
    sources = [n for n in names if n.endswith(".py") and "/" not in n and n[:-3].isidentifier() and n.isascii()]
    for file in sources[:MAX_SOURCES]:
        tree = _parse(root, file)
        for owner in detect_hints.classes_with_predict(tree) if tree is not None else ():
            if tree is not None and detect_hints.bases(tree, owner) & _SERVED_BASES:
                return Code(f"{file[:-3]}:{owner}", file, detect_hints.signature(tree, owner))
    return None


def _parse(root: Path, name: str) -> detect_hints.Tree | None:
    try:
        with (root / name).open("rb") as stream:
            return detect_hints.parse(stream.read(detect_hints.MAX_SOURCE_BYTES + 1), name=name)
    except OSError:
        return None
