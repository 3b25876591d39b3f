"""The same files give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from berth.authoring.packing import Entry, file_entry, open_layer, pack, tar_bytes, with_parents
from berth.authoring.repository import LocalRepository
from berth.errors import InvalidInput


def test_a_layer_says_nothing_about_where_and_when_it_was_packed(repository: LocalRepository, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    (tmp_path / "f").chmod(0o640)
    layer = pack(repository, "code", [file_entry("opt/model/f", tmp_path / "f"), file_entry("opt/a", b"1")])
    with repository.open_blob(layer.descriptor.digest) as blob:
        data = blob.read()
    assert data[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        seen = [(m.name, m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime, m.isdir()) for m in archive]
    assert seen == [
        ("opt", 0o755, 0, 0, "", "", 0, True),
        ("opt/a", 0o644, 0, 0, "", "", 0, False),
        ("opt/model", 0o755, 0, 0, "", "", 0, True),
        ("opt/model/f", 0o644, 0, 0, "", "", 0, False),
    ]
    assert layer.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}"
    assert layer.descriptor.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_golden_layer_keeps_its_digest() -> None:
    # A change here changes the digest of every version built from now on. Apart from the device fields, which are
    # empty here, GNU tar --format=ustar --mtime=@0 --owner=:0 --group=:0 -b 20 writes the same bytes.
    raw = b"".join(tar_bytes(with_parents([file_entry("a/b", b"hello\n"), Entry("a/l", "link", target="b")])))
    assert len(raw) == 10240
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert archive.getnames() == ["a", "a/b", "a/l"]
    assert hashlib.sha256(raw).hexdigest() == "6850dbca9207e71ba07e475e94ae41b3044780637fa1badeddbd8b2e5a394e7b"


def test_packing_again_compresses_nothing_and_a_plain_layer_is_the_tar_itself(repository: LocalRepository) -> None:
    first = pack(repository, "code", [file_entry("x", b"1" * 5000)])
    again = pack(repository, "code", [file_entry("x", b"1" * 5000)])
    assert (first.reused, again.reused) == (False, True)
    assert first.descriptor == again.descriptor
    plain = pack(repository, "weights", [file_entry("x", b"1" * 5000)], compression="none")
    assert plain.descriptor.digest == plain.diff_id == first.diff_id
    for layer in (first, plain):
        with repository.open_blob(layer.descriptor.digest) as blob:
            assert open_layer(blob).read() == b"".join(tar_bytes(with_parents([file_entry("x", b"1" * 5000)])))


def test_long_and_foreign_names_survive(repository: LocalRepository) -> None:
    names = ["n" * 180 + "/" + "m" * 180, "grüße/日本語.txt", "a" * 99, "a" * 101]
    layer = pack(repository, "code", [file_entry(name, b"") for name in names])
    with (
        repository.open_blob(layer.descriptor.digest) as blob,
        tarfile.open(fileobj=open_layer(blob), mode="r|") as archive,
    ):
        assert set(names) <= set(archive.getnames())


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInput, match="named a/b"):
        with_parents([file_entry("a/b", b"1"), file_entry("a/b", b"2")])
    with pytest.raises(InvalidInput, match="no folder"):
        with_parents([file_entry("a", b"1"), file_entry("a/b", b"2")])
