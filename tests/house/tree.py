"""What is in the tree, as the house tests see it: modules of ours, their imports, the files that git would track."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
STDLIB = sys.stdlib_module_names


@dataclass(frozen=True)
class Import:
    """One imported module, by its full dotted name, and the line it stands on."""

    name: str
    line: int

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    def under(self, package: str) -> bool:
        return self.name == package or self.name.startswith(package + ".")


@dataclass(frozen=True)
class Module:
    """One Python file below src/."""

    path: Path

    @cached_property
    def relative(self) -> str:
        return self.path.relative_to(SRC).as_posix()

    @cached_property
    def name(self) -> str:
        parts = self.path.relative_to(SRC).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def room(self) -> str:
        """`gates` for berth/gates/decide.py, `errors` for berth/errors.py, '' for berth/__init__.py."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), filename=self.relative)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import anywhere in the file: in functions and under TYPE_CHECKING too, relative ones made absolute.

        `from a.b import c` counts as `a.b.c` where that is a module of ours, else as `a.b`.
        """
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        found: list[Import] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [Import(alias.name, node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*parent, base] if base else parent)
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    found.append(Import(inner if is_module(inner) else base, node.lineno))
        return tuple(dict.fromkeys(found))

    def walk(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree)

    def at(self, line: int) -> str:
        """Where a finding stands, to be read and clicked."""
        return f"src/{self.relative}:{line}"


@cache
def is_module(dotted: str) -> bool:
    path = SRC.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@cache
def modules(package: str = "berth") -> tuple[Module, ...]:
    return tuple(Module(path) for path in sorted((SRC / package).rglob("*.py")))


def modules_in(*rooms: str) -> tuple[Module, ...]:
    return tuple(module for module in modules() if module.room in rooms)


@cache
def tracked_files() -> tuple[Path, ...]:
    """Files that are in git or would be with the next `git add`; without git all files but the ignored folders."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = [name for name in listing.stdout.decode().split("\0") if name]
        return tuple(path for name in sorted(set(names)) if (path := ROOT / name).is_file() and not path.is_symlink())
    skipped = {".venv", ".git", ".demo", ".bench", ".berth", "__pycache__", ".mypy_cache", ".ruff_cache"}
    return tuple(p for p in sorted(ROOT.rglob("*")) if p.is_file() and not skipped & set(p.relative_to(ROOT).parts))


def report(findings: list[str]) -> str:
    """The message of a failed house test: one finding a line."""
    return "\n" + "\n".join(sorted(findings))
