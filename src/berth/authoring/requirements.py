"""How do a model's Python packages become layers? Wheels are resolved for the image, installed and stripped.

Only wheels are installed, and only files whose hash is known beforehand; nothing is compiled and no package's code
runs, unless `allow_sdist` is given. What pip or uv leave behind that depends on the machine, the tool or the order is
removed: bytecode, console scripts, INSTALLER, REQUESTED, direct_url.json, and the lines for them in RECORD. METADATA
stays, so scanners see the packages.
"""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from berth.authoring.installers import ADDRESS, Installer, Job, Offer, Target, Tool, open_tool
from berth.authoring.packing import Entry, file_entry
from berth.authoring.wheels import Package, canonical, is_sdist, rank
from berth.errors import InvalidInput

SITE_PACKAGES = "opt/xumi/site-packages"
# A distribution that takes more than this when installed becomes a layer of its own.
LARGE_BYTES = 100 * 1000 * 1000
_DROPPED_NAMES = frozenset({"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
_BUILT_FROM_SOURCE = re.compile(r"(?:^|\s)(?:(?:git|hg|svn|bzr)\+|-e\b|--editable\b|--no-binary\b|file:|\.{1,2}/)")
_OPTION = re.compile(r"^\s*-")


class Resolved:
    """The exact files that meet the requirements; `install` puts them into a folder, each checked by its hash."""

    def __init__(self, packages: Sequence[Package], tool: Tool, addresses: Mapping[str, str], scratch: Path) -> None:
        self.packages = tuple(packages)
        self._tool, self._addresses, self._scratch = tool, addresses, scratch

    def install(self) -> list[Distribution]:
        """Raises InvalidInput when a file is not there any more or has another content."""
        folder = self._scratch / "site-packages"
        folder.mkdir()
        if self.packages:
            self._tool.install(self.packages, self._addresses, folder)
        return distributions(folder)


@dataclass(frozen=True)
class Distribution:
    """The layer entries of one installed package; those that are not large are one, without a name."""

    name: str | None
    entries: tuple[Entry, ...]


@contextmanager
def resolved(
    requirements: str | Sequence[str],
    root: Path,
    target: Target,
    *,
    installer: Installer = "auto",
    allow_sdist: bool = False,
    pins: Sequence[Package] | None = None,
    keep: Sequence[Package] = (),
) -> Iterator[Resolved]:
    """Works out which files meet the requirements on the target; they can be installed during the `with` block.

    Args:
        requirements: a requirements file below `root`, or requirement lines.
        root: the project's folder.
        target: Python, platform and C library of the image.
        installer: which program to use.
        allow_sdist: build a wheel on this machine for a package that has none.
        pins: what the lock names; nothing else is taken then.
        keep: what was chosen before; taken again where the requirements still allow it.
    Raises:
        InvalidInput: a requirement cannot be met, or not by the pins; or the file is missing.
        SetupError: neither pip nor uv is there.
    """
    root = root.resolve()
    if allow_sdist and not target.is_this_machine:
        raise InvalidInput(
            f"Source packages cannot be built for {target} here.",
            hint="Build on such a machine, or publish wheels: --allow-sdist works for this machine's platform.",
        )
    with tempfile.TemporaryDirectory(prefix="xumi-packages-") as name:
        scratch = Path(name)
        if isinstance(requirements, str):
            file = root / requirements
            _check_file(file, root)
        else:
            file = scratch / "requirements.txt"
            _check_lines(requirements, "runtime.requirements")
            file.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        job = Job(
            target,
            root,
            scratch,
            allow_sdist=allow_sdist,
            options=tuple(_index_options(file)),
            names=tuple(declared(requirements, root)),
        )
        tool = open_tool(installer, job)
        constraints = None
        if pins is not None:
            constraints = scratch / "pins.txt"
            constraints.write_text("".join(f"{p.name}=={p.version}\n" for p in pins), encoding="utf-8")
        offers = tool.resolve(file, constraints, keep)
        chosen = [_kept(offer, keep) or _choose(offer, target, pins, allow_sdist=allow_sdist) for offer in offers]
        packages = sorted((p for p, _ in chosen), key=lambda p: p.name)
        yield Resolved(packages, tool, {p.sha256: address for p, address in chosen}, scratch)


@contextmanager
def installed(
    requirements: str | Sequence[str], root: Path, target: Target, *, installer: Installer = "auto"
) -> Iterator[list[Entry]]:
    """Resolves and installs, and gives all entries at once, for the time of the `with` block. See `resolved`."""
    with resolved(requirements, root, target, installer=installer) as found:
        yield [entry for distribution in found.install() for entry in distribution.entries]


def distributions(folder: Path, *, large_bytes: int = LARGE_BYTES) -> list[Distribution]:
    """The installed files without what varies between machines, tools and runs: large packages first, by name."""
    every = {entry.name: entry for entry in entries(folder)}
    large: list[Distribution] = []
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        with record.open(newline="", encoding="utf-8") as stream:
            names = sorted({f"{SITE_PACKAGES}/{row[0]}" for row in csv.reader(stream) if row} & set(every))
        if sum(every[name].size for name in names) > large_bytes:
            title = record.parent.name.removesuffix(".dist-info").partition("-")[0]
            large.append(Distribution(canonical(title), tuple(every.pop(name) for name in names)))
    rest = [Distribution(None, tuple(every.values()))] if every else []
    return [*sorted(large, key=lambda d: d.name or ""), *rest]


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


def lines(requirements: str | Sequence[str], root: Path) -> Iterator[str]:
    """All lines as they are written; those of included files follow the line that names them.

    Raises:
        InvalidInput: a requirements file cannot be read.
    """
    if isinstance(requirements, str):
        yield from _lines(root / requirements)
    else:
        yield from requirements


def _lines(file: Path, depth: int = 0) -> Iterator[str]:
    for line in _read_lines(file):
        yield line
        if (included := _included(line)) and depth < 10:
            yield from _lines(file.parent / included[1], depth + 1)


def declared(requirements: str | Sequence[str], root: Path) -> list[str]:
    """The requirement lines without options, comments, hashes and addresses; included files are followed.

    Raises:
        InvalidInput: a requirements file cannot be read.
    """
    if isinstance(requirements, str):
        return sorted(set(_declared(root / requirements, root)))
    return sorted({_plain(line) for line in requirements} - {""})


def _declared(file: Path, root: Path, depth: int = 0) -> Iterator[str]:
    text = re.sub(r"\\\r?\n", " ", "\n".join(_read_lines(file)))
    for line in text.splitlines():
        if (included := _included(line)) and depth < 10:
            mark = "constraint: " if included[0] == "c" else ""
            yield from (mark + inner for inner in _declared(file.parent / included[1], root, depth + 1))
        elif plain := _plain(line):
            yield plain


def _index_options(file: Path, depth: int = 0) -> Iterator[str]:
    """The lines that say where packages are, of a requirements file and those it includes."""
    for line in _read_lines(file):
        text = line.partition(" #")[0].strip()
        if (included := _included(line)) and depth < 10:
            yield from _index_options(file.parent / included[1], depth + 1)
        elif found := re.match(r"(?:-f|--find-links)[\s=]+(\S+)$", text):
            here = file.parent / found[1]
            # A relative folder is relative to the file that names it.
            yield f"--find-links {here.resolve() if here.is_dir() else found[1]}"
        elif re.match(r"(?:-i|--index-url|--extra-index-url|--no-index|--trusted-host)(?:[\s=]|$)", text):
            yield text


def _plain(line: str) -> str:
    text = line.partition(" #")[0].strip()
    if not text or text.startswith("#") or _OPTION.match(text):
        return ""
    return " ".join(ADDRESS.sub("<address>", text.partition(" --")[0]).split())


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


def _kept(offer: Offer, keep: Sequence[Package]) -> tuple[Package, str] | None:
    """The same file as before, though a better one for this target may have come since."""
    for package in keep:
        sha256, address = offer.files.get(package.filename, ("", ""))
        if (package.name, package.version, package.sha256) == (offer.name, offer.version, sha256):
            return package, address
    return None


def _choose(offer: Offer, target: Target, pins: Sequence[Package] | None, *, allow_sdist: bool) -> tuple[Package, str]:
    pinned = [p for p in pins or () if p.name == offer.name]
    if pins is not None:
        for filename, (sha256, address) in offer.files.items():
            if any(p.filename == filename and p.sha256 == sha256 for p in pinned):
                return Package(offer.name, offer.version, filename, sha256), address
        wanted = pinned[0].filename if pinned else f"the package {offer.name}, which the requirements need"
        raise InvalidInput(
            f"{wanted} is not offered as xumi.lock has it." if pinned else f"xumi.lock does not name {wanted}.",
            hint="`xumi lock` writes it anew.",
        )
    ranked = [(r, f) for f in offer.files if (r := rank(f, python=target.python)) is not None]
    if ranked:
        filename = max(ranked)[1]
    elif allow_sdist and (sources := sorted(f for f in offer.files if is_sdist(f))):
        filename = sources[0]
    else:
        raise InvalidInput(
            f"{offer.name} {offer.version} has no wheel for {target}.",
            hint="Choose another version, publish a wheel, or say --allow-sdist on such a machine.",
        )
    sha256, address = offer.files[filename]
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidInput(f"The package index gives no SHA-256 for {filename}.", hint="Use an index that does.")
    return Package(offer.name, offer.version, filename, sha256), address


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InvalidInput(
            f"The requirements file {file} cannot be read: {error.strerror}.", hint="Check runtime.requirements."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The requirements file {file} is not UTF-8.") from error


def _included(line: str) -> tuple[str, str] | None:
    """("r" or "c", path) when the line includes another file."""
    found = re.match(r"\s*(?:-(r|c)|--(requirement|constraint))[\s=]*(\S+)", line)
    if not found or "://" in found[3]:
        return None
    return found[1] or found[2][0], found[3]


def _check_file(file: Path, root: Path, depth: int = 0) -> None:
    text = _read_lines(file)
    _check_lines(text, file.name)
    for line in text:
        if (included := _included(line)) and depth < 10:
            _check_file(file.parent / included[1], root, depth + 1)


def _check_lines(given: Sequence[str], where: str) -> None:
    for number, line in enumerate(given, 1):
        text = line.partition(" #")[0].strip()
        if text and not text.startswith("#") and _BUILT_FROM_SOURCE.search(text):
            raise InvalidInput(
                f"{where}, line {number}: {ADDRESS.sub('<address>', text)} would be built from source.",
                hint="Publish it as a wheel, or copy its code into the project.",
            )
