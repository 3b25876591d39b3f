"""Which program resolves and installs Python packages for an image, and how is it told the target? uv or pip.

Both are run as they are, so that their configuration holds: indexes, netrc, keyring, per-package indexes. uv is taken
where it is there, because it works out versions and environment markers for another Python, platform and C library than
this machine's. What pip is told about indexes is handed to uv in a file.
"""

from __future__ import annotations

import importlib.util
import json
import platform as host
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from berth.authoring import pip_settings
from berth.authoring.base import Platform
from berth.authoring.package_indexes import project_with_sources
from berth.authoring.wheels import Package, canonical
from berth.errors import InvalidInput, SetupError

# What is assumed of a base in which no C library was found: the oldest that today's wheels are made for.
OLDEST_GLIBC = (2, 17)
ADDRESS = re.compile(r"\b(?:https?|file)://\S+")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "386": "i686"}
# The targets that uv has (uv pip compile --help); the newest that is not newer than the base's is used.
_UV_MACHINES = frozenset({"x86_64", "aarch64"})
_UV_GLIBC_MINORS = (17, 28, *range(31, 41))
_TIMEOUT_SECONDS = 3600

Installer = Literal["auto", "pip", "uv"]


@dataclass(frozen=True)
class Target:
    """What the packages must run on. `glibc` and `musl` are (major, minor) of the base's C library."""

    python: str
    platform: Platform
    glibc: tuple[int, int] | None = None
    musl: tuple[int, int] | None = None

    @property
    def machine(self) -> str:
        """The name that wheels use for the architecture. Raises InvalidInput."""
        found = _MACHINES.get(self.platform.architecture)
        if found is None or self.platform.os != "linux":
            raise InvalidInput(f"There are no wheels for {self.platform}.", hint="Use linux/amd64 or linux/arm64.")
        return found

    @property
    def is_this_machine(self) -> bool:
        """Whether what is compiled here runs there: same system, processor, and a C library that is not older."""
        if sys.platform != "linux" or host.machine() != self.machine or self.musl is not None:
            return False
        name, _, version = " ".join(host.libc_ver()).partition(" ")
        here = tuple(int(n) for n in version.split(".")[:2]) if name == "glibc" else None
        return here is not None and here <= (self.glibc or OLDEST_GLIBC)

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform}"


@dataclass(frozen=True)
class Offer:
    """A package at the version chosen, and the files that would do: filename → (sha256, address)."""

    name: str
    version: str
    files: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Job:
    """What a tool works for.

    Attributes:
        scratch: a folder that is thrown away.
        options: the index options of the requirements files.
        names: the requirement lines without options, to know which packages are asked for.
    """

    target: Target
    root: Path
    scratch: Path
    allow_sdist: bool = False
    options: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


class Tool:
    """Runs one installer for one target."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def resolve(self, file: Path, constraints: Path | None, keep: Sequence[Package] = ()) -> list[Offer]:
        """The packages that meet the requirements.

        Args:
            constraints: a file with what must be taken.
            keep: what is to be taken where it can.
        """
        raise NotImplementedError

    def install(self, packages: Sequence[Package], addresses: Mapping[str, str], folder: Path) -> None:
        raise NotImplementedError

    def _only(self) -> list[str]:
        return [] if self.job.allow_sdist else ["--only-binary", ":all:"]

    def _private(self, name: str, lines: Sequence[str]) -> Path:
        """A file that only this user reads, for what may hold credentials."""
        path = self.job.scratch / name
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def _run(self, command: list[str]) -> None:
        try:
            done = subprocess.run(
                command,
                cwd=self.job.root,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_SECONDS,
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidInput(f"Installing the requirements took longer than {_TIMEOUT_SECONDS} seconds.") from error
        if done.returncode:
            raise InvalidInput(
                f"The requirements cannot be installed for {self.job.target}: {_reason(done.stderr)}",
                hint="Only wheels for the image's Python and platform are used; check names, versions, runtime.python.",
            )


class _Uv(Tool):
    """uv: resolves for any target; its answer is a pylock.toml (PEP 751)."""

    def __init__(self, uv: str, job: Job) -> None:
        super().__init__(job)
        self._uv = uv
        self._arguments: list[str] = []
        self._settings = _pip_settings(job.options, self._arguments)

    def resolve(self, file: Path, constraints: Path | None, keep: Sequence[Package] = ()) -> list[Offer]:
        out = self.job.scratch / "pylock.toml"
        if keep:
            # uv prefers what the file it is to write says already.
            named = [f'[[packages]]\nname = "{p.name}"\nversion = "{p.version}"\n' for p in keep]
            out.write_text("\n".join(['lock-version = "1.0"\ncreated-by = "xumi"\n', *named]), encoding="utf-8")
        command = ["compile", "--format", "pylock.toml", "--no-header", "--no-annotate", "-o", str(out), *self._only()]
        command += [str(file)]
        own = project_with_sources(self.job.root, self.job.names, self.job.scratch)
        if own is not None:
            command += [str(own)]
        if self._settings:
            command += [str(self._private("settings.txt", self._settings))]
        self._run(self._command(*command, *(["-c", str(constraints)] if constraints else [])))
        return _offers(tomllib.loads(out.read_text(encoding="utf-8")), out.parent)

    def install(self, packages: Sequence[Package], addresses: Mapping[str, str], folder: Path) -> None:
        # The options come with the addresses: credentials may be in them.
        file = self._private("chosen.txt", [*self._settings, *self.job.options, *_lines(packages, addresses)])
        target = ["--target", str(folder), "--no-deps", "--require-hashes"]
        self._run(self._command("install", *target, *self._only(), "-r", str(file)))

    def _command(self, verb: str, *arguments: str) -> list[str]:
        version = ["--python-version", self.job.target.python, "--python-platform", _uv_platform(self.job.target)]
        return [self._uv, "pip", verb, "--no-progress", "--quiet", *self._arguments, *version, *arguments]


class _Pip(Tool):
    """pip: evaluates environment markers for the interpreter it runs on, so that must be the target's."""

    def __init__(self, pip: list[str], job: Job) -> None:
        super().__init__(job)
        target = job.target
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        other = None if here == target.python else shutil.which(f"python{target.python}")
        if host.machine() != target.machine or sys.platform != "linux" or (here != target.python and other is None):
            raise SetupError(
                f"pip can resolve for this machine's Python {here} on {host.machine()} only, not for {target}.",
                hint="`pip install uv`: uv resolves for any Python and platform.",
            )
        self._pip = [*pip, "--python", other] if other else pip

    def resolve(self, file: Path, constraints: Path | None, keep: Sequence[Package] = ()) -> list[Offer]:
        """pip knows constraints only: those that are in the way are found by halves."""
        if not keep:
            return self._resolved(file, constraints)
        pins = self.job.scratch / "kept.txt"
        held: list[Package] = []
        best: list[Offer] | None = None

        def hold(more: Sequence[Package]) -> None:
            nonlocal best
            pins.write_text("".join(f"{p.name}=={p.version}\n" for p in (*held, *more)), encoding="utf-8")
            try:
                best = self._resolved(file, pins)
            except InvalidInput:
                if best is None:
                    best = self._resolved(file, None)  # or it is not because of the pins
                if len(more) > 1:
                    hold(more[: len(more) // 2])
                    hold(more[len(more) // 2 :])
            else:
                held.extend(more)

        hold(keep)
        return best or []

    def _resolved(self, file: Path, constraints: Path | None) -> list[Offer]:
        out = self.job.scratch / "report.json"
        # Nothing is installed there; pip before 23.3 takes a foreign platform only together with a target folder.
        nowhere = ["--target", str(self.job.scratch / "nowhere")]
        command = ["--dry-run", "--ignore-installed", *nowhere, "--report", str(out), "-r", str(file)]
        self._run(self._command(*command, *(["-c", str(constraints)] if constraints else [])))
        found = []
        for item in json.loads(out.read_text(encoding="utf-8"))["install"]:
            address = item["download_info"]["url"]
            sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "")
            meta = item["metadata"]
            found.append(Offer(canonical(meta["name"]), meta["version"], {_filename(address): (sha256, address)}))
        return found

    def install(self, packages: Sequence[Package], addresses: Mapping[str, str], folder: Path) -> None:
        file = self._private("chosen.txt", [*self.job.options, *_lines(packages, addresses)])
        self._run(self._command("--target", str(folder), "--no-deps", "--require-hashes", "-r", str(file)))

    def _command(self, *arguments: str) -> list[str]:
        tags = [f"--platform={tag}" for tag in _platform_tags(self.job.target)]
        version = ["--python-version", self.job.target.python, "--implementation", "cp", *tags]
        quiet = ["--quiet", "--no-input", "--no-compile", "--no-warn-script-location"]
        # pip takes the target's tags only together with wheels; without them this machine's own tags hold.
        return [*self._pip, "install", *quiet, *([] if self.job.allow_sdist else version), *self._only(), *arguments]


def open_tool(installer: Installer, job: Job) -> Tool:
    """The program to use. Raises SetupError when it is not here, or cannot work for the target."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else None
    uv = _uv()
    if installer == "auto":
        installer = "uv" if uv is not None or pip is None else "pip"
    if installer == "uv":
        if uv is None:
            raise SetupError("uv is not installed here.", hint="`pip install uv`, or use --installer pip.")
        return _Uv(uv, job)
    if pip is None:
        raise SetupError("pip is not installed beside this program.", hint="Use --installer uv.")
    return _Pip(pip, job)


def _uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.is_file() else shutil.which("uv")


def _uv_platform(target: Target) -> str:
    machine = target.machine
    if machine not in _UV_MACHINES:
        raise InvalidInput(f"uv cannot resolve for {target}.", hint="Use --installer pip on such a machine.")
    if target.musl is not None:
        return f"{machine}-unknown-linux-musl"
    major, minor = target.glibc or OLDEST_GLIBC
    fitting = [m for m in _UV_GLIBC_MINORS if (2, m) <= (major, minor)]
    if not fitting:
        raise InvalidInput(f"The base image's glibc {major}.{minor} is too old: there are no wheels for it.")
    return f"{machine}-manylinux_2_{fitting[-1]}"


def _platform_tags(target: Target) -> list[str]:
    """Platform tags from the base's C library down; pip does not work them out itself."""
    machine = target.machine
    if target.musl is not None:
        return [f"musllinux_1_{minor}_{machine}" for minor in range(target.musl[1], -1, -1)]
    newest = (target.glibc or OLDEST_GLIBC)[1]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 16, -1)]
    tags.append(f"manylinux2014_{machine}")
    if machine in ("x86_64", "i686"):
        tags += [f"manylinux_2_12_{machine}", f"manylinux2010_{machine}", f"manylinux_2_5_{machine}"]
        tags.append(f"manylinux1_{machine}")
    return tags


def _pip_settings(options: Sequence[str], arguments: list[str]) -> list[str]:
    """What pip is told about indexes, as lines of a requirements file; the rest is added to uv's `arguments`.

    An index in the requirements files (`options`) comes before pip's settings, as with pip.
    """
    found = pip_settings.read()
    if any(option.startswith(("-i", "--index-url")) for option in options):
        found.pop("index-url", None)
    lines = []
    for name in ("index-url", "extra-index-url", "find-links"):
        lines += [f"--{name} {value}" for value in found.get(name, ())]
    if _is_true(found.get("no-index", [])):
        lines.append("--no-index")
    for value in found.get("trusted-host", ()):
        arguments += ["--allow-insecure-host", value]
    if found.get("keyring-provider", ["disabled"]) not in (["disabled"], []):
        arguments += ["--keyring-provider", "subprocess"]
    return lines


def _is_true(value: list[str]) -> bool:
    return bool(value) and value[0].lower() in ("1", "true", "yes", "on", "y", "t")


def _offers(pylock: Mapping[str, Any], folder: Path) -> list[Offer]:
    found = []
    for package in pylock.get("packages", ()):
        files: dict[str, tuple[str, str]] = {}
        for item in [*package.get("wheels", ()), *(package[k] for k in ("sdist", "archive") if k in package)]:
            address = item.get("url") or (folder / item["path"]).resolve().as_uri()
            files[item.get("name") or _filename(address)] = (item.get("hashes", {}).get("sha256", ""), address)
        version = package.get("version") or next((f.split("-")[1] for f in files if f.count("-") > 1), "")
        found.append(Offer(canonical(package["name"]), version, files))
    return found


def _lines(packages: Sequence[Package], addresses: Mapping[str, str]) -> list[str]:
    """Requirement lines for exactly these files."""
    return [f"{p.name} @ {addresses[p.sha256]} --hash=sha256:{p.sha256}" for p in packages]


def _filename(address: str) -> str:
    return unquote(urlsplit(address).path.rpartition("/")[2])


def _reason(stderr: str) -> str:
    """The lines that say why, without addresses (they may hold credentials)."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if not line.lower().startswith(("warning", "[notice]"))]
    return ADDRESS.sub("<address>", "\n  ".join(told[-12:]))[-2000:] or "the installer gave no reason."
