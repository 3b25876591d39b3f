"""What does a .deb add to an image when it is unpacked and its scripts are not run? (deb(5), deb-control(5), dpkg(1).)

A package is taken when unpacking is all that it needs: no preinst, postinst or config script that does more than
refresh ldconfig's cache or Python bytecode, no trigger but ldconfig's, no file with special rights or of another owner
than root, no library folder of its own. Everything else is refused with its name. The dpkg database is written as if
dpkg had installed it, so that scanners see the packages.
"""

from __future__ import annotations

import io
import lzma
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from berth.authoring.base_files import Files
from berth.authoring.compression import open_zstd
from berth.authoring.packing import Entry, file_entry
from berth.errors import InvalidInput

DPKG = "var/lib/dpkg"
_HINT = "Install it in an image of your own and wrap it: runtime.build with `image:` or `dockerfile:`."
_SCRIPTS = ("preinst", "postinst", "config")
# Commands of a script that change nothing in an image: shell structure, tests, ldconfig, bytecode, and helpers of dpkg
# that only act when an older version was there before.
_HARMLESS = re.compile(
    r"^(?:|:|true|set -[eux]+|exit 0|exit \$\?|fi|else|then|esac|case \S+ in|\[ .* \]|test .*"
    r"|which [\w./-]+|command -v [\w./-]+"
    r"|(?:/sbin/)?ldconfig|py3compile .*|py3clean .*|dpkg-maintscript-helper .*|dpkg-trigger (?:--no-await )?ldconfig)$"
)
_CASE = re.compile(r"^[\w|*\"' -]+\)(?P<rest>.*)$")
_SHELL = re.compile(r"^#! ?/bin/(?:sh|bash|dash)\b")
_TO_NOWHERE = re.compile(r"[12]?>\s*(?:/dev/null|&[12])")
_HARMLESS_TRIGGER = re.compile(r"^(?:#.*|interest(?:-\w+)?\s.*|activate(?:-\w+)?\s+ldconfig)?$")


@dataclass(frozen=True)
class Deb:
    """A package file: its control fields as text, and its files."""

    name: str
    architecture: str
    control: str
    md5sums: bytes
    multi_arch: bool
    members: tuple[tuple[tarfile.TarInfo, bytes], ...]


def read(path: Path) -> Deb:
    """Reads a package whose hash was checked before. Raises InvalidInput when it needs more than unpacking."""
    parts = dict(_ar(path))
    control = {posixpath.normpath(m.name): data for m, data in _tar(parts, "control.tar", path)}
    text = control.get("control", b"").decode("utf-8", "replace").strip()
    fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in text.splitlines()) if v}
    name = fields.get("package", path.name)
    problem = _scripts_problem(control) or _triggers_problem(control.get("triggers", b""))
    members = tuple(_tar(parts, "data.tar", path))
    problem = problem or next((p for m, _ in members if (p := _member_problem(m))), None)
    if problem:
        raise InvalidInput(f"The Debian package {name} needs more than unpacking: {problem}.", hint=_HINT)
    return Deb(
        name=name,
        architecture=fields.get("architecture", ""),
        control=text,
        md5sums=control.get("md5sums", b""),
        multi_arch=fields.get("multi-arch") == "same",
        members=members,
    )


def entries(packages: Sequence[Deb], base: Files) -> list[Entry]:
    """What the packages add to the base: their files, and the dpkg database that names them."""
    found: dict[str, Entry] = {}
    empty: dict[str, Entry] = {}
    for package in packages:
        for entry in _files(package, base):
            if entry.kind == "folder":
                empty[entry.name] = entry
            else:
                found[entry.name] = entry
    for name, entry in empty.items():
        # A folder that the base has keeps its mode there; only those that would be missing are made.
        if not any(other.startswith(f"{name}/") for other in found) and name not in ("tmp", "var/tmp", "root", "proc"):
            found.setdefault(name, entry)
    return [*found.values(), *_database(packages, base)]


def installed(base: Files) -> str:
    """The packages of an image as one dpkg status file; empty when it has none."""
    parts = [base.content.get(f"{DPKG}/status", b"").decode("utf-8", "replace").strip()]
    for name, data in sorted(base.content.items()):
        if name.startswith(f"{DPKG}/status.d/") and not name.endswith(".md5sums"):
            parts.append(_stanza(data.decode("utf-8", "replace").strip()))
    return "\n\n".join(p for p in parts if p) + "\n" if any(parts) else ""


def _database(packages: Sequence[Deb], base: Files) -> Iterator[Entry]:
    if any(name.startswith(f"{DPKG}/status.d/") for name in base.content):
        for package in packages:
            yield file_entry(f"{DPKG}/status.d/{package.name}", f"{package.control}\n".encode())
            yield file_entry(f"{DPKG}/status.d/{package.name}.md5sums", package.md5sums)
        return
    new = {(p.name, p.architecture) for p in packages}
    kept = [s for s in re.split(r"\n\s*\n", installed(base).strip()) if s and _identity(s) not in new]
    text = "\n\n".join([*kept, *(_stanza(p.control) for p in packages)]) + "\n"
    yield file_entry(f"{DPKG}/status", text.encode())
    for package in packages:
        title = f"{package.name}:{package.architecture}" if package.multi_arch else package.name
        names = ["/."] + [f"/{posixpath.normpath(m.name)}" for m, _ in package.members if m.name not in (".", "./")]
        yield file_entry(f"{DPKG}/info/{title}.list", ("\n".join(names) + "\n").encode())
        yield file_entry(f"{DPKG}/info/{title}.md5sums", package.md5sums)


def _stanza(control: str) -> str:
    """A control paragraph as the status file has it."""
    if re.search(r"^Status:", control, re.MULTILINE):
        return control
    first, _, rest = control.partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}".rstrip()


def _identity(stanza: str) -> tuple[str, str]:
    fields = dict(re.findall(r"^(Package|Architecture): *(\S+)", stanza, re.MULTILINE))
    return fields.get("Package", ""), fields.get("Architecture", "")


def _files(package: Deb, base: Files) -> Iterator[Entry]:
    content: dict[str, tuple[bytes, bool]] = {}
    above = {posixpath.dirname(posixpath.normpath(member.name)) for member, _ in package.members}
    for member, data in package.members:
        plain = posixpath.normpath(member.name).lstrip("/")
        if plain == "." or (member.isdir() and posixpath.normpath(member.name) in above):
            continue
        if member.isdir():
            # A folder of the package may be a link in the base (/lib → usr/lib).
            yield Entry(posixpath.dirname(base.resolve(f"{plain}/x")), "folder")
            continue
        name = base.resolve(plain)
        if member.issym():
            yield Entry(name, "link", target=member.linkname)
            continue
        if member.islnk():
            content[plain] = content[posixpath.normpath(member.linkname).lstrip("/")]
        else:
            content[plain] = data, bool(member.mode & 0o111)
        source, executable = content[plain]
        yield Entry(name, "file", source=source, size=len(source), executable=executable)


def _scripts_problem(control: dict[str, bytes]) -> str | None:
    for script in _SCRIPTS:
        if script not in control:
            continue
        text = control[script].decode("utf-8", "replace").replace("\\\n", " ")
        if not _SHELL.match(text):
            return f"its {script} script is not a shell script"
        for line in text.splitlines():
            if not _is_harmless(line.strip()):
                return f"its {script} script runs {line.strip()[:80]!r}"
    return None


def _is_harmless(line: str) -> bool:
    if line.startswith("#"):
        return True
    if "`" in line or "$(" in line:
        return False
    plain = _TO_NOWHERE.sub("", line)
    if case := _CASE.match(plain):
        plain = case["rest"]
    if any(sign in plain for sign in "<>&|"):
        plain = plain.replace("&&", ";").replace("||", ";")
    if any(sign in plain for sign in "<>&|"):
        return False
    return all(_HARMLESS.match(re.sub(r"^(?:(?:if|elif|then|else|!) +)+", "", c.strip())) for c in plain.split(";"))


def _triggers_problem(data: bytes) -> str | None:
    for line in data.decode("utf-8", "replace").splitlines():
        if not _HARMLESS_TRIGGER.match(line.strip()):
            return f"it has the trigger {line.strip()!r}"
    return None


def _member_problem(member: tarfile.TarInfo) -> str | None:
    name = posixpath.normpath(member.name)
    if name.startswith("../") or name == "..":
        return f"its file {member.name!r} leaves the image"
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return f"{name} is a device"
    if member.isfile() and member.mode & 0o6000:
        return f"{name} has special rights (setuid or setgid)"
    if member.isfile() and (member.uid or member.gid):
        return f"{name} belongs to another user than root"
    if name.lstrip("/").startswith("etc/ld.so.conf.d/") and not member.isdir():
        return f"{name} adds a library folder, which ldconfig would have to read"
    return None


def _ar(path: Path) -> Iterator[tuple[str, bytes]]:
    """The members of a Unix `ar` archive."""
    data = path.read_bytes()
    position = 8
    if data[:8] != b"!<arch>\n":
        raise InvalidInput(f"{path.name} is no Debian package.")
    while position + 60 <= len(data):
        header = data[position : position + 60]
        name, size = header[:16].decode("ascii", "replace").rstrip(" /"), header[48:58].strip()
        if not size.isdigit():
            raise InvalidInput(f"{path.name} is a damaged Debian package.")
        yield name, data[position + 60 : position + 60 + int(size)]
        position += 60 + int(size) + int(size) % 2


def _tar(parts: dict[str, bytes], name: str, path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    found = next((n for n in parts if n == name or n.startswith(f"{name}.")), None)
    if found is None:
        raise InvalidInput(f"{path.name} is no Debian package: it has no {name}.")
    try:
        with tarfile.open(fileobj=_plain(found, parts[found]), mode="r|") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                yield member, stream.read() if stream else b""
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise InvalidInput(f"{path.name} is a damaged Debian package: {error}.") from error


def _plain(name: str, data: bytes) -> BinaryIO:
    if name.endswith(".xz"):
        return io.BytesIO(lzma.decompress(data))
    if name.endswith(".zst"):
        return open_zstd(io.BytesIO(data))
    if name.endswith(".gz"):
        return io.BytesIO(zlib.decompress(data, 16 + zlib.MAX_WBITS))
    return io.BytesIO(data)
