"""Which files of a model's folder are code, and which are weights? (mission C1: weights apart from code.)

Code is everything in the folder but `xumi.yaml`, `xumi.lock`, what `.xumiignore` lists, the files of the checkpoints,
version control, virtual environments and caches. Secrets (.env, private keys) are refused rather than left out without
a word.
"""

from __future__ import annotations

import ast
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from berth.authoring import detect_conflicts, detect_hints
from berth.authoring.ignore import Rules
from berth.authoring.manifest import FILE_NAME, Checkpoint, Manifest
from berth.authoring.packing import Entry, file_entry
from berth.authoring.safe_tar import folded, name_problem
from berth.errors import InvalidInput, ManifestFileInvalid

IGNORE_FILE = ".xumiignore"
# Says how to build; what it pins is in the other layers already.
LOCK_NAME = "xumi.lock"
# Never part of a model: version control, environments, caches, what tools leave behind.
ALWAYS_LEFT_OUT = (
    ".git",
    ".hg",
    ".svn",
    ".gitignore",
    ".gitattributes",
    ".venv",
    "venv",
    ".tox",
    ".nox",
    "__pycache__",
    "*.pyc",
    "*.pyo",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    ".ipynb_checkpoints",
    ".idea",
    ".vscode",
    ".DS_Store",
    "Thumbs.db",
    "node_modules",
    "*.egg-info",
    IGNORE_FILE,
)
_SECRET_NAMES = re.compile(
    r"^(?:\.env(?:\..+)?|\.netrc|\.pypirc|\.git-credentials|\.npmrc|id_(?:rsa|dsa|ecdsa|ed25519)|.*\.(?:pem|key|p12|pfx|jks|kdbx)"
    r"|credentials(?:\.json)?|service[-_]account.*\.json|cosign\.key)$",
    re.IGNORECASE,
)
_SAFE_SECRET_NAMES = frozenset({".env.example", ".env.sample", ".env.template"})
_SECRET_CONTENT = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*(?:ENCRYPTED )?(?:SIGSTORE |COSIGN )?PRIVATE KEY-----")
_WEIGHT_SUFFIXES = frozenset(
    {
        ".onnx",
        ".safetensors",
        ".pt",
        ".pth",
        ".ckpt",
        ".gguf",
        ".ggml",
        ".h5",
        ".hdf5",
        ".pb",
        ".tflite",
        ".pkl",
        ".joblib",
    }
)
_LARGE_BYTES = 50 * 1024 * 1024
# How people spell them → what Harbor's tabs look for; it shows nothing of more than 4 MiB.
_DOCUMENTS = (
    {"README.md": "README.md", "README": "README"},
    {"LICENSE": "LICENSE", "LICENSE.txt": "LICENSE.txt", "LICENSE.md": "LICENSE"},
)
_DOCUMENT_BYTES = 4 * 1024 * 1024 - 10 * 1024


@dataclass(frozen=True)
class WeightFile:
    """One file of a checkpoint; `path` is relative to the checkpoint's folder, as it will be below the mount path."""

    checkpoint: str
    path: str
    source: Path


@dataclass(frozen=True)
class Document:
    """What people read about a checkpoint; `name` is what registries look for: README.md, LICENSE."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Project:
    """A model's folder, sorted out."""

    root: Path
    code: tuple[Entry, ...]
    weights: tuple[WeightFile, ...]
    warnings: tuple[str, ...]


def collect(root: Path, manifest: Manifest, *, allow_secrets: bool = False) -> Project:
    """Sorts the files of the folder `root`.

    Raises:
        InvalidInput: secrets, links that leave the folder, or names that other systems cannot hold; all are listed.
        ManifestFileInvalid: a checkpoint's pattern matches no file.
    """
    weights = tuple(w for checkpoint in manifest.checkpoints for w in find_weights(root, checkpoint))
    apart = {_relative(w.source, root) for w in weights}
    rules = Rules.read(root / IGNORE_FILE, ALWAYS_LEFT_OUT)
    names, refused, warnings = list(_walk(root, rules, apart)), [], []
    entries: list[Entry] = []
    for name in names:
        path = root / name
        if path.is_symlink():
            entries.append(_link(root, name))
            continue
        if not allow_secrets and _is_secret(path):
            refused.append(name)
        entry = file_entry(name, path)
        if entry.size > _LARGE_BYTES or path.suffix.lower() in _WEIGHT_SUFFIXES:
            warnings.append(f"{name} is packed as code; list it under checkpoints if it is weights.")
        entries.append(entry)
    if refused:
        raise InvalidInput(
            f"These files look like secrets and must not become part of a model: {', '.join(sorted(refused))}.",
            hint=f"List them in {IGNORE_FILE}, or build with --allow-secrets if they are none.",
            detail={"files": sorted(refused)},
        )
    _check_names(entry.name for entry in entries)
    private = [w.path for w in weights if not w.source.stat().st_mode & stat.S_IROTH]
    if private:
        # So safetensors writes them.
        warnings.append(f"{', '.join(private)[:300]}: for the owner only, so no container can mount it; chmod o+r.")
    return Project(root=root, code=tuple(entries), weights=weights, warnings=tuple(warnings))


def find_weights(root: Path, checkpoint: Checkpoint) -> list[WeightFile]:
    """The files of one checkpoint, sorted by path. Raises ManifestFileInvalid, InvalidInput."""
    folder = root / checkpoint.root
    found: dict[str, Path] = {}
    for pattern in checkpoint.files:
        matched = False
        for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
            name = _relative(path, folder)
            if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
                found[name] = path
                matched = True
        if not matched:
            raise ManifestFileInvalid(
                f"Checkpoint {checkpoint.name}: no file matches {checkpoint.root}/{pattern}.",
                hint=f"Put the weights into {folder}, or change checkpoints in {FILE_NAME}.",
            )
    _check_names(found)
    for name, path in found.items():
        if not path.resolve().is_relative_to(root.resolve()) and not path.is_symlink():
            raise InvalidInput(f"The weight file {name} lies outside the project.")
    return [WeightFile(checkpoint.name, name, found[name]) for name in sorted(found)]


def documents(root: Path, checkpoint: Checkpoint) -> tuple[list[Document], list[str]]:
    """README and licence of a checkpoint: its own, or else the project's; and what there is to say about them."""
    rules = Rules.read(root / IGNORE_FILE, ALWAYS_LEFT_OUT)
    found: list[Document] = []
    warnings: list[str] = []
    for spellings in _DOCUMENTS:
        for path in (folder / name for folder in (root / checkpoint.root, root) for name in spellings):
            if not path.is_file() or path.is_symlink() or rules.leaves_out(_relative(path, root), folder=False):
                continue
            if path.stat().st_size > _DOCUMENT_BYTES:
                warnings.append(f"{_relative(path, root)} is too large to be shown beside the weights.")
            else:
                found.append(Document(spellings[path.name], path.read_bytes()))
            break
    return found, warnings


def check_entry(root: Path, manifest: Manifest) -> list[str]:
    """Problems of `entry` and `requirements` that show without running any of the model's code."""
    problems = []
    requirements = manifest.runtime.requirements
    if isinstance(requirements, str) and not (root / requirements).is_file():
        problems.append(f"runtime.requirements: there is no file {requirements}.")
    entry = manifest.entry.python
    if entry is None:
        return problems
    module, _, name = entry.partition(":")
    inner = module.replace(".", "/")
    candidates = [root / f"{inner}.py", root / inner / "__init__.py"]
    file = next((c for c in candidates if c.is_file()), None)
    if file is None:
        if not (root / module.partition(".")[0]).exists() and _from_requirements(manifest):
            return problems
        return [*problems, f"entry.python: there is no {inner}.py."]
    try:
        tree = ast.parse(file.read_bytes(), filename=file.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [*problems, f"entry.python: {file.name} is not Python: {error}."]
    defined = _defined(tree.body)
    if name not in defined:
        problems.append(f"entry.python: {file.name} defines no {name}.")
    found = detect_hints.signature(tree, name)
    if found is not None:
        problems += detect_conflicts.compare(found, manifest.interface)
    return problems


def _from_requirements(manifest: Manifest) -> bool:
    """The class may come from an installed package instead of the folder."""
    return bool(manifest.runtime.requirements)


def _defined(body: Sequence[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names.update(t.id for t in targets if isinstance(t, ast.Name))
            case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
                names.update(a.asname or a.name for a in aliases)
            case ast.If(body=inner, orelse=other) | ast.Try(body=inner, orelse=other):
                names |= _defined(inner) | _defined(other)
    return names


def _walk(root: Path, rules: Rules, apart: set[str]) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        here = _relative(Path(folder), root)
        prefix = "" if here == "." else f"{here}/"
        linked = [f for f in folders if (Path(folder) / f).is_symlink()]
        folders[:] = sorted(f for f in folders if f not in linked and not rules.leaves_out(prefix + f, folder=True))
        for name in sorted([*files, *linked]):
            relative = prefix + name
            if relative in (FILE_NAME, LOCK_NAME) or relative in apart or rules.leaves_out(relative, folder=False):
                continue
            path = root / relative
            if not path.is_symlink() and not path.is_file():
                raise InvalidInput(f"{relative} is no file, folder or link.", hint=f"List it in {IGNORE_FILE}.")
            yield relative


def _link(root: Path, name: str) -> Entry:
    target = os.readlink(root / name)
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if target.startswith("/") or joined == ".." or joined.startswith("../"):
        raise InvalidInput(
            f"The link {name} points to {target}, outside the project.",
            hint=f"Copy the file in, or list the link in {IGNORE_FILE}.",
        )
    return Entry(name=name, kind="link", target=target)


def _is_secret(path: Path) -> bool:
    if path.name in _SAFE_SECRET_NAMES:
        return False
    if path.suffix.lower() == ".pem":
        # Certificates and public keys are no secrets.
        return _holds_key(path)
    return _SECRET_NAMES.match(path.name) is not None or _holds_key(path)


def _holds_key(path: Path) -> bool:
    with path.open("rb") as stream:
        return _SECRET_CONTENT.search(stream.read(64 * 1024)) is not None


def _check_names(names: Iterable[str]) -> None:
    """What `pull` would refuse to write is refused here already."""
    seen: dict[str, str] = {}
    for name in names:
        problem = next((p for part in name.split("/") if (p := name_problem(part))), None)
        if problem:
            raise InvalidInput(f"{name!r} {problem}.", hint=f"Rename it, or list it in {IGNORE_FILE}.")
        key = "/".join(folded(part) for part in name.split("/"))
        other = seen.setdefault(key, name)
        if other != name:
            raise InvalidInput(f"{other!r} and {name!r} are one name on some systems.", hint="Rename one of them.")


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
