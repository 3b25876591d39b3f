"""How do a model's Python packages become a layer? Wheels are installed into a folder and stripped of all that varies.

pip does it when pip is configured (an index, find-links, in its files or PIP_*), so that configuration holds; otherwise
uv, which is faster. Only wheels are installed: nothing is compiled and no package's code runs. What either tool leaves
behind that depends on the machine, the tool or the order is removed: bytecode, console scripts, INSTALLER, REQUESTED,
direct_url.json, and the lines for them in RECORD. METADATA stays, so scanners see the packages.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from berth.authoring.base import Platform
from berth.authoring.packing import Entry, file_entry
from berth.errors import InvalidInput, SetupError

SITE_PACKAGES = "opt/xumi/site-packages"
# Wheels for glibc up to this one are taken; base images with an older one are rare.
GLIBC = (2, 28)
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "386": "i686"}
_DROPPED_NAMES = frozenset({"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
_BUILT_FROM_SOURCE = re.compile(r"(?:^|\s)(?:(?:git|hg|svn|bzr)\+|-e\b|--editable\b|--no-binary\b|file:|\.{1,2}/)")
_ADDRESS = re.compile(r"\bhttps?://\S+")
_TIMEOUT_SECONDS = 3600

Installer = Literal["auto", "pip", "uv"]


@dataclass(frozen=True)
class Target:
    """What the packages must run on."""

    python: str
    platform: Platform

    @property
    def machine(self) -> str:
        """The name that wheels use for the architecture. Raises InvalidInput."""
        found = _MACHINES.get(self.platform.architecture)
        if found is None or self.platform.os != "linux":
            raise InvalidInput(f"There are no wheels for {self.platform}.", hint="Use linux/amd64 or linux/arm64.")
        return found


@contextmanager
def installed(
    requirements: str | Sequence[str], root: Path, target: Target, *, installer: Installer = "auto"
) -> Iterator[list[Entry]]:
    """Installs requirements and gives the entries of their layer, for the time of the `with` block.

    Args:
        requirements: a requirements file below `root`, or requirement lines.
        root: the project's folder.
        target: Python and platform of the image.
        installer: which program to use.
    Raises:
        InvalidInput: a requirement cannot be met from wheels, or the file is missing.
        SetupError: neither pip nor uv is there.
    """
    root = root.resolve()
    with tempfile.TemporaryDirectory(prefix="xumi-packages-") as name:
        folder = Path(name) / "site-packages"
        folder.mkdir()
        if isinstance(requirements, str):
            file = root / requirements
            _check_file(file, root)
        else:
            file = Path(name) / "requirements.txt"
            _check_lines(requirements, "runtime.requirements")
            file.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        _run(_command(file, folder, target, installer), root)
        yield list(entries(folder))


def entries(folder: Path) -> Iterator[Entry]:
    """The installed files as layer entries, without what varies between machines, tools and runs."""
    kept = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and _is_kept(path.relative_to(folder))
    }
    for name, path in kept.items():
        if path.name == "RECORD" and path.parent.name.endswith(".dist-info"):
            yield Entry(
                name=f"{SITE_PACKAGES}/{name}", kind="file", source=(data := _record(path, kept)), size=len(data)
            )
        else:
            yield file_entry(f"{SITE_PACKAGES}/{name}", path)


def _is_kept(name: Path) -> bool:
    if name.parts[0] in ("bin", ".lock", "__pycache__") or "__pycache__" in name.parts or name.suffix == ".pyc":
        return False
    in_dist_info = len(name.parts) > 1 and name.parts[-2].endswith(".dist-info")
    return not (in_dist_info and name.name in _DROPPED_NAMES)


def _record(path: Path, kept: dict[str, Path]) -> bytes:
    """RECORD with the lines of kept files only, sorted."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = sorted(row for row in csv.reader(stream) if row and row[0] in kept)
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8")


def _command(file: Path, folder: Path, target: Target, installer: Installer) -> list[str]:
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else None
    uv = _uv()
    if installer == "auto":
        installer = "pip" if pip and (uv is None or _pip_is_configured(pip)) else "uv"
    common = ["--target", str(folder), "--only-binary", ":all:", "-r", str(file)]
    if installer == "uv":
        if uv is None:
            raise SetupError("Neither pip nor uv is installed here.", hint="`pip install uv`.")
        version = ["--python-version", target.python, "--python-platform", _uv_platform(target)]
        return [uv, "pip", "install", "--no-progress", "--quiet", *version, *common]
    if pip is None:
        raise SetupError("pip is not installed beside this program.", hint="Use --installer uv.")
    tags = [f"--platform={tag}" for tag in _platform_tags(target.machine)]
    version = ["--python-version", target.python, "--implementation", "cp", *tags]
    return [*pip, "install", "--quiet", "--no-input", "--no-compile", "--no-warn-script-location", *version, *common]


def _uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.is_file() else shutil.which("uv")


def _uv_platform(target: Target) -> str:
    return f"{target.machine}-manylinux_{GLIBC[0]}_{GLIBC[1]}"


def _platform_tags(machine: str) -> list[str]:
    """manylinux tags from the newest acceptable glibc down; pip does not work them out itself."""
    tags = [f"manylinux_{GLIBC[0]}_{minor}_{machine}" for minor in range(GLIBC[1], 16, -1)]
    tags.append(f"manylinux2014_{machine}")
    if machine in ("x86_64", "i686"):
        tags += [f"manylinux_2_12_{machine}", f"manylinux2010_{machine}", f"manylinux_2_5_{machine}"]
        tags.append(f"manylinux1_{machine}")
    return tags


def _pip_is_configured(pip: list[str]) -> bool:
    """Whether pip is told where packages are; only the names of its settings are looked at."""
    done = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False, timeout=60)
    names = {line.partition("=")[0].rpartition(".")[2].lower() for line in done.stdout.splitlines()}
    return bool(names & {"index-url", "extra-index-url", "find-links", "no-index"})


def _run(command: list[str], root: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(f"Installing the requirements took longer than {_TIMEOUT_SECONDS} seconds.") from error
    if done.returncode:
        raise InvalidInput(
            f"The requirements cannot be installed: {_reason(done.stderr)}",
            hint="Only wheels for the image's Python and platform are used; check names, versions and runtime.python.",
        )


def _reason(stderr: str) -> str:
    """The lines that say why, without addresses (they may hold credentials)."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if not line.lower().startswith(("warning", "[notice]"))]
    return _ADDRESS.sub("<address>", "\n  ".join(told[-12:]))[-2000:] or "the installer gave no reason."


def _check_file(file: Path, root: Path, depth: int = 0) -> None:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InvalidInput(
            f"The requirements file {file} cannot be read: {error.strerror}.", hint="Check runtime.requirements."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The requirements file {file} is not UTF-8.") from error
    _check_lines(lines, file.name)
    for line in lines:
        included = re.match(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]+(\S+)", line)
        if included and "://" not in included[1] and depth < 10:
            _check_file(file.parent / included[1], root, depth + 1)


def _check_lines(lines: Sequence[str], where: str) -> None:
    for number, line in enumerate(lines, 1):
        text = line.partition(" #")[0].strip()
        if text and not text.startswith("#") and _BUILT_FROM_SOURCE.search(text):
            raise InvalidInput(
                f"{where}, line {number}: {_ADDRESS.sub('<address>', text)} would be built from source.",
                hint="Publish it as a wheel, or copy its code into the project.",
            )
