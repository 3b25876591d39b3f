"""Which Debian packages does a base image need for the named ones, and where do they come from? apt works that out.

apt runs with folders of its own: it sees the packages of the base as installed ones, and the base's release. Mirrors,
proxies and credentials are the host's (its sources with the base's release put in) when the host is of the same
distribution, else those in the base. apt verifies the signature of the release file, the hash of each index and of each
package; what says that it need not be verified is taken out. No address is kept.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from berth.authoring import base_files, deb
from berth.authoring.base import BaseImage, Platform
from berth.authoring.base_files import Files
from berth.authoring.hashing import hash_file
from berth.authoring.installers import ADDRESS
from berth.authoring.lockfile import SystemPackage
from berth.authoring.locking import locked
from berth.authoring.packing import Entry
from berth.authoring.repository import LocalRepository
from berth.errors import InvalidInput, SetupError

OTHER_WAY = "Install them in an image of your own and wrap it: runtime.build with `image:` or `dockerfile:`."
_TIMEOUT_SECONDS = 1800
_HOST_RELEASE = Path("/etc/os-release")
# 'URI' file_version_arch.deb SIZE SHA256:HEX
_PLANNED = re.compile(r"^'[^']*' (\S+)_(\S+)_(\S+)\.deb [0-9]+ SHA256:([0-9a-f]{64})$", re.MULTILINE)
_UNVERIFIED = re.compile(r"^(?:trusted|allow-insecure|allow-weak|allow-downgrade-to-insecure)\s*[:=].*$", re.IGNORECASE)
_SETTINGS = """\
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
APT::Update::Error-Mode "any";
APT::Install-Recommends "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::ForceHash "SHA256";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/sources.list.d";
Dir::Etc::preferences "{folder}/preferences";
Dir::Etc::preferencesparts "{folder}/none";
Dir::Log "{folder}/log";
Debug::NoLocking "true";
"""


@dataclass(frozen=True)
class Found:
    """The packages that are missing in the base, each as a file whose hash was checked."""

    packages: tuple[SystemPackage, ...]
    files: tuple[Path, ...]
    base: Files

    def entries(self) -> list[Entry]:
        """What they add to the image. Raises InvalidInput for a package that cannot be unpacked only."""
        return deb.entries([deb.read(path) for path in self.files], self.base)


@contextmanager
def resolved(
    repository: LocalRepository,
    base: BaseImage,
    names: Sequence[str],
    platform: Platform,
    *,
    pins: Sequence[SystemPackage] | None = None,
    keep: Sequence[SystemPackage] = (),
) -> Iterator[Found]:
    """Resolves packages against a base and downloads them; their files are there during the `with` block.

    Args:
        repository: holds the base's layers, and keeps downloaded packages by hash.
        base: the image they go on.
        names: "name" or "name=version".
        platform: of the image.
        pins: what the lock names; nothing else is taken then.
        keep: what was chosen before; taken again where it is still offered and fits.
    Raises:
        InvalidInput: the base is no Debian, or a package is unknown, not to be verified, or not the pinned one.
        SetupError: there is no apt here.
    """
    files = base_files.debian_files(repository, base)
    home = repository.home / "apt"
    home.mkdir(parents=True, exist_ok=True)
    (home / "debs").mkdir(exist_ok=True)
    with locked(home / "lock"):
        if pins is not None and all(_kept(home, p).is_file() for p in pins):
            packages = list(pins)
        else:
            release = base_files.facts(repository, base).release
            packages = _download(home, files, release, names if pins is None else _exact(pins), platform, keep)
            if pins is not None and set(packages) != set(pins):
                gone = [str(p) for p in pins if p not in packages]
                more = [str(p) for p in packages if p not in pins]
                raise InvalidInput(
                    "The system packages are not offered as xumi.lock has them: "
                    + "; ".join([*(f"{p} is missing" for p in gone), *(f"{p} is not in the lock" for p in more)]),
                    hint="`xumi lock` writes it anew.",
                )
        for package in packages:
            if hash_file(_kept(home, package)) != f"sha256:{package.sha256}":
                _kept(home, package).unlink()
                raise InvalidInput(f"The downloaded package {package} is damaged.", hint="Try again.")
        ordered = sorted(packages, key=lambda p: (p.name, p.architecture))
        yield Found(tuple(ordered), tuple(_kept(home, p) for p in ordered), files)


def _kept(home: Path, package: SystemPackage) -> Path:
    return home / "debs" / f"{package.sha256}.deb"


def _exact(pins: Sequence[SystemPackage]) -> list[str]:
    return [f"{p.name}={p.version}" for p in pins]


def _download(
    home: Path,
    files: Files,
    release: dict[str, str],
    names: Sequence[str],
    platform: Platform,
    keep: Sequence[SystemPackage],
) -> list[SystemPackage]:
    apt = _Apt(home, files, release, platform)
    apt.prefer(keep)
    apt.run("update")
    plan = ["install", "--yes", "--no-remove", "--no-install-recommends", "--print-uris", "--", *names]
    try:
        planned = apt.run(*plan)
    except InvalidInput:
        if not keep:
            raise
        apt.prefer([])  # apt does not look for another choice itself when a preferred one is in the way
        planned = apt.run(*plan)
    found = []
    for name, version, architecture, sha256 in _PLANNED.findall(planned):
        found.append(SystemPackage(name=name, version=unquote(version), architecture=architecture, sha256=sha256))
    if not found:
        return []
    # `download` copies what lies in a folder too, where `install --download-only` would leave it there.
    apt.run("download", "--", *(f"{p.name}={p.version}" for p in found))
    archives = {hash_file(p).removeprefix("sha256:"): p for p in apt.archives.glob("*.deb")}
    for package in found:
        if package.sha256 not in archives:
            raise InvalidInput(f"apt downloaded no {package} with the hash its index names.", hint="Try again.")
        archives[package.sha256].replace(_kept(home, package))
    return found


class _Apt:
    """apt-get for one base: what is installed there, and where its release comes from."""

    def __init__(self, home: Path, files: Files, release: dict[str, str], platform: Platform) -> None:
        program = shutil.which("apt-get")
        if program is None:
            raise SetupError("runtime.system_packages needs apt-get, which is not installed here.", hint=OTHER_WAY)
        codename = release.get("VERSION_CODENAME", "")
        status = deb.installed(files)
        if not status or not codename:
            raise InvalidInput("runtime.system_packages needs a Debian base; this one has no dpkg.", hint=OTHER_WAY)
        sources = _host_sources(release) or _base_sources(files, codename)
        if not sources:
            raise InvalidInput(
                f"There is no package source for the base's release {codename}, on this machine or in the base.",
                hint=OTHER_WAY,
            )
        key = hashlib.sha256("\n".join([*sources, str(platform)]).encode()).hexdigest()[:16]
        self._program = program
        self.folder = home / f"{codename}-{platform.architecture}-{key}"
        self.archives = self.folder / "cache" / "archives"
        for name in ("state/lists/partial", "cache/archives/partial", "sources.list.d", "none", "keys", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_text(status, encoding="utf-8")
        keys = _write_keys(files, self.folder / "keys")
        for number, source in enumerate(sources):
            # A deb822 source names its fields, a line of the old form starts with "deb".
            suffix = "list" if source.startswith("deb") else "sources"
            path = self.folder / "sources.list.d" / f"{number}.{suffix}"
            path.touch(mode=0o600)
            path.write_text(keys(source) + "\n", encoding="utf-8")
        settings = _SETTINGS.format(architecture=platform.architecture, folder=self.folder)
        self._settings = self.folder / "apt.conf"
        self._settings.write_text(settings, encoding="utf-8")

    def prefer(self, keep: Sequence[SystemPackage]) -> None:
        """What apt takes where it may choose; a version that is not offered any more is no choice."""
        # Below 1000: nothing in the base is ever replaced by something older.
        said = [f"Package: {p.name}\nPin: version {p.version}\nPin-Priority: 990\n" for p in keep]
        (self.folder / "preferences").write_text("\n".join(said), encoding="utf-8")

    def run(self, *arguments: str) -> str:
        command = [self._program, "-q", "-c", str(self._settings), *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=self.archives,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidInput(f"apt took longer than {_TIMEOUT_SECONDS} seconds.") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))] or [
                done.stdout[-2000:]
            ]
            told = ADDRESS.sub("<address>", "\n  ".join(lines[-12:]))
            raise InvalidInput(f"The system packages cannot be resolved: {told}", hint="Check runtime.system_packages.")
        return done.stdout


def _host_sources(release: dict[str, str]) -> list[str]:
    """This machine's sources of the base's distribution, with the base's release in place of its own."""
    try:
        here = base_files.read_release(_HOST_RELEASE.read_bytes())
    except OSError:
        return []
    program = shutil.which("apt-config")
    if program is None or here.get("ID") != release.get("ID") or "VERSION_CODENAME" not in here:
        return []
    asked = [program, "shell", "list", "Dir::Etc::sourcelist/f", "parts", "Dir::Etc::sourceparts/d"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    paths = dict(part.partition("=")[::2] for part in shlex.split(done.stdout))
    texts: dict[str, str] = {}
    for path in [Path(paths.get("list", "/nonexistent")), *sorted(Path(paths.get("parts", "/nonexistent")).glob("*"))]:
        if path.suffix in (".list", ".sources") and path.is_file():
            texts[str(path)] = path.read_text(encoding="utf-8", errors="replace")
    return _sources(texts, here["VERSION_CODENAME"], release["VERSION_CODENAME"])


def _base_sources(files: Files, codename: str) -> list[str]:
    texts = {
        name: data.decode("utf-8", "replace")
        for name, data in sorted(files.content.items())
        if name.endswith((".list", ".sources")) and name.startswith("etc/apt/")
    }
    return _sources(texts, codename, codename)


def _sources(texts: dict[str, str], before: str, after: str) -> list[str]:
    """The sources of the release `before` (a paragraph or a line each), changed to the release `after`."""
    suite = re.compile(rf"^{re.escape(before)}(-updates|-security|/updates|/?)$")

    def renamed(words: Sequence[str]) -> list[str]:
        return [after + m[1] for word in words if (m := suite.match(word))]

    found = []
    for name, text in texts.items():
        if name.endswith(".sources"):
            for paragraph in re.split(r"\n\s*\n", text):
                if source := _paragraph(paragraph, renamed):
                    found.append(source)
            continue
        for line in text.splitlines():
            parsed = re.match(r"^deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s+(.+)$", line.strip())
            if parsed and (suites := renamed([parsed[3]])):
                options = [o for o in (parsed[1] or "").split() if not _UNVERIFIED.match(o)]
                shown = f"[{' '.join(options)}] " if options else ""
                found.append(f"deb {shown}{parsed[2]} {suites[0]} {parsed[4].partition('#')[0].strip()}")
    return found


def _paragraph(text: str, renamed: Callable[[Sequence[str]], list[str]]) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    kept = []
    for line in lines:
        field, _, value = line.partition(":")
        if _UNVERIFIED.match(line):
            continue
        if field.lower() == "enabled" and value.strip().lower() == "no":
            return ""
        if field.lower() == "suites":
            suites = renamed(value.split())
            if not suites:
                return ""
            kept.append(f"Suites: {' '.join(suites)}")
        elif field.lower() == "types":
            if "deb" not in value.split():
                return ""
            kept.append("Types: deb")
        else:
            kept.append(line)
    return "\n".join(kept)


class _Keys:
    """Names of keyrings in the base → files written beside apt's other folders."""

    def __init__(self, found: dict[str, Path]) -> None:
        self._found = found

    def __call__(self, source: str) -> str:
        for name, path in self._found.items():
            if not Path(f"/{name}").is_file():
                source = source.replace(f"/{name}", str(path))
        return source


def _write_keys(files: Files, folder: Path) -> _Keys:
    found = {}
    for name, data in files.content.items():
        if "keyrings/" in name or "trusted.gpg" in name:
            path = folder / name.replace("/", "_")
            path.write_bytes(data)
            path.chmod(0o644)
            found[name] = path
    return _Keys(found)
