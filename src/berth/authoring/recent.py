"""Was the same asked of the package indexes a few minutes ago? Then a build without a lock need not ask them again.

pypi.org lets clients remember an index page for ten minutes, and pip and uv do; most private indexes say nothing, and
each build waits for them though only code changed. What is remembered is which packages were chosen, by the key of
their layers, never an address. It is not used where the answer depends on what is not seen here: folders of wheels
that only the requirements name, remote requirements files, sources that are built.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from berth.authoring import layer_cache, pip_settings, requirements
from berth.authoring.installers import Installer, Target
from berth.authoring.repository import LocalRepository
from berth.settings import environment_of_installers

SECONDS = 600
_UNSEEN = re.compile(
    r"""^\s*(?:-f|--find-links)\b          # a folder of wheels
    | \bfile:                             # a wheel on this disk
    | ^\s*(?:-[rc]|--requirement|--constraint)[\s=]*\S+://  # requirements elsewhere""",
    re.VERBOSE,
)


def question(
    asked: str | Sequence[str], root: Path, target: Target, *, installer: Installer, allow_sdist: bool
) -> str | None:
    """A key for all that the choice of packages depends on, the indexes apart; None if that cannot be told.

    Args:
        asked: a requirements file below `root`, or requirement lines.
        others: as of `requirements.resolved`.
    Raises:
        InvalidInput: a requirements file or pip's settings cannot be read.
    """
    environment = environment_of_installers()
    if allow_sdist or "UV_CONFIG_FILE" in environment:
        return None
    settings = pip_settings.read(environment)
    folders = [*settings.get("find-links", ()), *environment.get("UV_FIND_LINKS", "").split(",")]
    wheels = [_wheels(folder) for folder in folders if folder and "://" not in folder]
    lines = [*requirements.lines(asked, root), *(folder for folder in folders if folder.startswith("file:"))]
    configuration = list(_uv_files(root, environment))
    if any(map(_UNSEEN.search, lines)) or any("find-links" in text for text in configuration):
        return None
    of_uv = sorted((name, value) for name, value in environment.items() if name.startswith("UV_"))
    for_whom = [sys.executable, installer, str(target), target.glibc, target.musl]
    text = json.dumps([lines, settings, wheels, configuration, of_uv, for_whom], sort_keys=True)
    # A hash only: settings may hold passwords.
    return hashlib.sha256(text.encode()).hexdigest()


def answer(repository: LocalRepository, question: str, *, now: float | None = None) -> str | None:
    """The key of the layers that the same question led to at most SECONDS ago."""
    found = layer_cache.noted(repository, question)
    at = time.time() if now is None else now
    return found[1] if found is not None and 0 <= at - found[0] <= SECONDS else None


def remember(repository: LocalRepository, question: str, key: str, *, now: float | None = None) -> None:
    layer_cache.note(repository, question, time.time() if now is None else now, key)


def _wheels(folder: str) -> list[tuple[str, int, int]]:
    """What is in a folder of wheels: name, size in bytes, time of change in nanoseconds."""
    with suppress(OSError):
        return sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in os.scandir(Path(folder).expanduser()))
    return []


def _uv_files(root: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The texts of uv's settings: those of the folder and of what it lies in, the user's and the machine's."""
    root = root.resolve()
    user = Path(environment.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    machine = [Path(folder) for folder in environment.get("XDG_CONFIG_DIRS", "").split(os.pathsep) if folder]
    folders = [root, *root.parents]
    for path in (*(f / "uv.toml" for f in folders), *(f / "uv/uv.toml" for f in (user, *machine, Path("/etc")))):
        with suppress(OSError):
            yield path.read_text(encoding="utf-8", errors="replace")
    for folder in folders:
        with suppress(OSError, ValueError):
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
            yield json.dumps(project.get("tool", {}).get("uv"), default=str)
