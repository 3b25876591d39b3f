"""An archive is a tar that other programs read, the same bytes for the same content, and can be sent from any byte."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import ArchiveInvalid
from berth.oci import archive
from berth.oci.archive import Entry, Stretch


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


BLOBS = {sha256(data): data for data in (b"", b"a", b"b" * 511, b"c" * 512, b"d" * 5000)}
MANIFEST = b'{"schemaVersion":2}'
ENTRIES = archive.entries_of(
    b"{}", [(sha256(MANIFEST), MANIFEST)], [(digest, len(data)) for digest, data in BLOBS.items()]
)


def written(start: int = 0) -> bytes:
    return b"".join(
        BLOBS[piece.digest][piece.start : piece.start + piece.length] if isinstance(piece, Stretch) else piece
        for piece in archive.segments(ENTRIES, start)
    )


def test_python_reads_what_we_write() -> None:
    with tarfile.open(fileobj=io.BytesIO(written())) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert {(m.mode, m.uid, m.mtime, m.isfile()) for m in tar} == {(0o644, 0, 0, True)}
    assert files["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    for digest, data in BLOBS.items():
        assert files[digest.replace("sha256:", "blobs/sha256/")] == data
    assert list(files) == [
        "oci-layout",
        "index.json",
        "blobs/sha256/" + hashlib.sha256(MANIFEST).hexdigest(),
        *sorted(digest.replace("sha256:", "blobs/sha256/") for digest in BLOBS),
    ]


def test_the_size_is_known_before() -> None:
    assert archive.total_size(ENTRIES) == len(written())


@given(st.integers(0, len(written())))
def test_from_any_byte_on_it_is_the_same_file(start: int) -> None:
    assert written(start) == written()[start:]


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 2**40])
def test_large_blobs_have_headers_that_others_read(size: int) -> None:
    digest = "sha512:" + "ab" * 64
    head = b""
    for piece in archive.segments([Entry(archive.name_of(digest), size, digest=digest)]):
        if isinstance(piece, Stretch):
            break
        head += piece
    with tarfile.open(fileobj=io.BytesIO(head + b"\0" * 10240), ignore_zeros=False) as tar:
        member = tar.next()
    assert member is not None
    assert (member.name, member.size) == ("blobs/sha512/" + "ab" * 64, size)
    extension = archive.extension_size(head[:512])
    assert extension is not None
    own = head[512 + extension + archive.padding(extension) :][:512]
    assert archive.extended(own, head[512 : 512 + extension]) == archive.Header(member.name, size, digest)


def foreign(name: str, **facts: object) -> bytes:
    """A header as Python's tarfile writes it."""
    info = tarfile.TarInfo(name)
    info.size = 1
    for key, value in facts.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "block",
    [
        foreign("../etc/passwd"),
        foreign("/etc/passwd"),
        foreign("blobs/sha256/../../x"),
        foreign("blobs/sha256/" + "A" * 64),
        foreign("blobs/sha256/" + "a" * 63),
        foreign("blobs/md5/" + "a" * 32),
        foreign("index.json/"),
        foreign("index.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        foreign("index.json", type=tarfile.LNKTYPE, linkname="oci-layout"),
        foreign("blobs", type=tarfile.DIRTYPE),
        foreign("index.json", type=tarfile.FIFOTYPE),
        foreign("index.json", type=tarfile.CHRTYPE),
        foreign("index.json", type=tarfile.GNUTYPE_SPARSE),
        bytes([foreign("index.json")[0] ^ 1]) + foreign("index.json")[1:],
        b"\x1f\x8b" + b"\x08" * 510,
    ],
)
def test_anything_but_plain_files_of_a_layout_is_refused(block: bytes) -> None:
    with pytest.raises(ArchiveInvalid):
        archive.header_of(block)
    assert archive.header_of(foreign("index.json")) == archive.Header("index.json", 1, None)
