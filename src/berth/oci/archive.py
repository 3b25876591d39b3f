"""How is an OCI image layout kept in one file? A tar in one fixed form (image-layout.md; POSIX.1-2017 `pax`).

The same content always gives the same bytes, so a download that broke off goes on where it stopped. Reading is
strict: plain files under the names of a layout and nothing else, so no entry can point anywhere.

    oci-layout · index.json · manifests, parents before children · blobs by digest · two empty blocks
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from berth.errors import ArchiveInvalid
from berth.oci import digest as digests
from berth.oci.documents import dumps
from berth.oci.layout import LAYOUT_VERSION

BLOCK: Final = 512
# Two empty blocks: an archive without them was cut off.
END: Final = b"\0" * (2 * BLOCK)
MARKER: Final = dumps({"imageLayoutVersion": LAYOUT_VERSION})
# Eleven octal digits: what the size field of a header holds without an extension.
_PLAIN_SIZE: Final = 8**11 - 1
_PLAIN_NAME: Final = 100
_MAX_EXTENSION: Final = 4096
_NAME: Final = re.compile(r"oci-layout|index\.json|blobs/(sha256|sha512)/([0-9a-f]+)")
_HINT: Final = "Copy the file again from where it was exported, or export it again."


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive: `data` where it is small and known, else the blob `digest` of `size` bytes."""

    name: str
    size: int
    data: bytes | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a blob that belong at this place."""

    digest: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before a file: its name and size; `digest` unless it is one of the two documents of a layout."""

    name: str
    size: int
    digest: str | None


def entries_of(index: bytes, manifests: Iterable[tuple[str, bytes]], blobs: Iterable[tuple[str, int]]) -> list[Entry]:
    """The archive's files in their order.

    Args:
        manifests: (digest, body), parents before children, each once.
        blobs: (digest, size), in any order, each once.
    """
    found = [Entry("oci-layout", len(MARKER), MARKER), Entry("index.json", len(index), index)]
    found += [Entry(name_of(digest), len(body), body) for digest, body in manifests]
    return found + [Entry(name_of(digest), size, digest=digest) for digest, size in sorted(blobs)]


def name_of(digest: str) -> str:
    """Where a layout keeps a blob. Raises DigestInvalid."""
    parsed = digests.parse(digest)
    return f"blobs/{parsed.algorithm}/{parsed.encoded}"


def total_size(entries: Sequence[Entry]) -> int:
    """Bytes of the whole archive."""
    return sum(len(_head(entry)) + entry.size + padding(entry.size) for entry in entries) + len(END)


def segments(entries: Sequence[Entry], start: int = 0) -> Iterator[bytes | Stretch]:
    """The archive from byte `start` on, as bytes and stretches of blobs."""
    position = 0
    for piece in _whole(entries):
        length = piece.length if isinstance(piece, Stretch) else len(piece)
        skip = max(0, start - position)
        position += length
        if skip >= length:
            continue
        if isinstance(piece, Stretch):
            yield Stretch(piece.digest, skip, length - skip)
        else:
            yield piece[skip:]


def header_of(block: bytes) -> Header | None:
    """What a header block says; None for an empty block, which ends the archive.

    Raises:
        ArchiveInvalid: it is none, or announces something else than a plain file of a layout.
    """
    if not block.strip(b"\0"):
        return None
    kind = _kind(block)
    if kind not in (b"0", b"\0"):
        shown = kind.decode("latin-1")
        raise refused(f"It holds {_text(block[:100])!r}, which is not a plain file but of kind {shown!r}")
    return _named(_text(block[:100]), _octal(block[124:136]))


def extension_size(block: bytes) -> int | None:
    """Bytes of the `pax` records that this header announces for the file after it; None for any other header."""
    if not block.strip(b"\0") or _kind(block) != b"x":
        return None
    size = _octal(block[124:136])
    if size > _MAX_EXTENSION:
        raise refused(f"An extended header has {size} bytes")
    return size


def extended(block: bytes, records: bytes) -> Header:
    """What a header says together with the `pax` records before it: a longer name, a larger size."""
    if _kind(block) not in (b"0", b"\0"):
        raise refused("An extended header stands before something that is no plain file")
    name, size = _text(block[:100]), _octal(block[124:136])
    for key, value in _records(records):
        if key == "path":
            name = value
        elif key == "size" and re.fullmatch(r"[0-9]{1,19}", value):
            size = int(value)
        else:
            raise refused(f"An extended header says {key!r}")
    return _named(name, size)


def refused(what: str) -> ArchiveInvalid:
    """The error for an archive that is not, or no longer, what an export writes."""
    return ArchiveInvalid(f"The archive is damaged or was not made by an export: {what}.", hint=_HINT)


def padding(size: int) -> int:
    """Empty bytes after a file of that size."""
    return -size % BLOCK


def _whole(entries: Sequence[Entry]) -> Iterator[bytes | Stretch]:
    for entry in entries:
        yield _head(entry)
        if entry.data is not None:
            yield entry.data
        elif entry.digest is not None and entry.size:
            yield Stretch(entry.digest, 0, entry.size)
        if padding(entry.size):
            yield b"\0" * padding(entry.size)
    yield END


def _head(entry: Entry) -> bytes:
    records = b""
    if len(entry.name) > _PLAIN_NAME:
        records += _record("path", entry.name)
    if entry.size > _PLAIN_SIZE:
        records += _record("size", str(entry.size))
    own = _block(entry.name[:_PLAIN_NAME], entry.size if entry.size <= _PLAIN_SIZE else 0, b"0")
    if not records:
        return own
    return _block("pax", len(records), b"x") + records + b"\0" * padding(len(records)) + own


def _record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n"
    length = len(rest) + 2
    while len(f"{length}{rest}") != length:
        length = len(f"{length}{rest}")
    return f"{length}{rest}".encode("ascii")


def _block(name: str, size: int, kind: bytes) -> bytes:
    """A `ustar` header that says nothing about who made the file or when."""
    fields = [
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        f"{size:011o}\0".encode("ascii"),
        b"00000000000\0",
        b" " * 8,
        kind,
        b"\0" * 100,
        b"ustar\x0000",
        b"\0" * (32 + 32),
        b"0000000\0",
        b"0000000\0",
        b"\0" * (155 + 12),
    ]
    block = bytearray(b"".join(fields))
    block[148:156] = f"{sum(block):06o}\0 ".encode("ascii")
    return bytes(block)


def _kind(block: bytes) -> bytes:
    told = _octal(block[148:156])
    if sum(block[:148]) + sum(block[156:]) + 8 * 32 != told:
        raise refused("A header has a wrong checksum")
    if block[257:263] != b"ustar\0" or block[345:500].strip(b"\0"):
        raise refused("A header is not of the form that exports write")
    return block[156:157]


def _named(name: str, size: int) -> Header:
    match = _NAME.fullmatch(name)
    if match is None:
        raise refused(f"It holds {name[:100]!r}, which is no file of an image layout")
    digest = f"{match[1]}:{match[2]}" if match[1] else None
    if digest is not None and not digests.is_digest(digest):
        raise refused(f"It holds {name[:100]!r}, which is no digest")
    return Header(name, size, digest)


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    while data:
        match = re.match(rb"([1-9][0-9]{0,3}) ([a-z]{1,20})=", data)
        length = int(match[1]) if match else 0
        if match is None or len(data) < length or length <= match.end() or data[length - 1 : length] != b"\n":
            raise refused("An extended header is malformed")
        yield match[2].decode("ascii"), data[match.end() : length - 1].decode("latin-1")
        data = data[length:]


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("latin-1")


def _octal(field: bytes) -> int:
    text = field.rstrip(b"\0 ")
    if re.fullmatch(rb"[0-7]{1,12}", text) is None:
        raise refused("A header holds something that is no number")
    return int(text, 8)
