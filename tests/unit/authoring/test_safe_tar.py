"""Every attack on extraction is refused, and its harmless twin is written."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from berth.authoring.safe_tar import Limits, extract
from berth.errors import IntegrityError


def entry(name: str, content: bytes | None = b"x", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    info.size = len(content or b"") if kind == tarfile.REGTYPE else 0
    return info, content or b""


def archive(entries: Iterable[tuple[tarfile.TarInfo, bytes]], layout: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as made:
        for info, content in entries:
            made.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


SYM, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry("/etc/passwd")], "absolute"),
        ([entry("m/../../x")], "leaves the folder"),
        ([entry("..")], "leaves the folder"),
        ([entry("m/a\\b")], "not safe"),
        ([entry("m/a\nb")], "not safe"),
        ([entry("m/.wh.a")], "whiteout"),
        ([entry("m/a"), entry("m/a")], "twice"),
        ([entry("m/a"), entry("m/A")], "one name on some systems"),
        ([entry("m/dir/a"), entry("m/DIR/b")], "one name on some systems"),
        ([entry("m/\u00e9"), entry("m/e\u0301")], "one name on some systems"),
        ([entry("m/a"), entry("m/a/b")], "no folder"),
        ([entry("m/a/b"), entry("m/a")], "twice"),
        ([entry("m/l", kind=SYM, link="/etc")], "not a relative path"),
        ([entry("m/l", kind=SYM, link="../outside")], "outside the folder"),
        ([entry("m/d/l", kind=SYM, link="../../outside")], "outside the folder"),
        ([entry("m/l", kind=SYM, link="d/../x")], "down and up"),
        ([entry("m/l", kind=SYM, link="d"), entry("m/l/x")], "no folder"),
        ([entry("m/l", kind=SYM, link=".."), entry("m/l/x")], "outside the folder"),
        ([entry("m/h", kind=HARD, link="/etc/passwd")], "no file of this archive"),
        ([entry("m/h", kind=HARD, link="m/later"), entry("m/later")], "no file of this archive"),
        ([entry("other/f"), entry("m/h", kind=HARD, link="other/f")], "no file of this archive"),
        ([entry("m/l", kind=SYM, link="x"), entry("m/h", kind=HARD, link="m/l")], "no file of this archive"),
        ([entry("m/dev", kind=tarfile.CHRTYPE)], "device"),
        ([entry("m/dev", kind=tarfile.BLKTYPE)], "device"),
        ([entry("m/pipe", kind=tarfile.FIFOTYPE)], "device"),
        ([entry("m", b"file")], "must be a folder"),
        ([entry("m/" + "d/" * 150 + "f")], "too long a path"),
    ],
)
def test_an_attack_is_refused_and_nothing_leaves_the_folder(tmp_path: Path, entries: list, words: str) -> None:
    (tmp_path / "top" / "inside").mkdir(parents=True)
    with pytest.raises(IntegrityError, match=words):
        extract(archive(entries), tmp_path / "top" / "inside", below="m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["top"]
    assert sorted(p.name for p in (tmp_path / "top").iterdir()) == ["inside"]


def test_files_folders_and_inner_links_are_written(tmp_path: Path) -> None:
    long = "n" * 90
    names = extract(
        archive(
            [
                entry("m", kind=FOLDER),
                entry("m/run", b"#!", mode=0o4777),
                entry("m/" + f"{long}/" * 3 + "f", b"deep", mode=0o600),
                entry("m/d/l", kind=SYM, link="../run"),
                entry("m/h", kind=HARD, link="m/run"),
                entry("elsewhere/x", b"not wanted"),
            ]
        ),
        tmp_path,
        below="m",
    )
    assert names == ["run", f"{long}/{long}/{long}/f", "d/l", "h"]
    assert (tmp_path / "run").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / long / long / long / "f").stat().st_mode & 0o7777 == 0o644
    assert os.readlink(tmp_path / "d" / "l") == "../run"
    assert (tmp_path / "h").read_bytes() == b"#!"
    assert not (tmp_path / "elsewhere").exists()


def test_limits_on_entries_and_bytes_hold(tmp_path: Path) -> None:
    many = [entry(f"m/{n}") for n in range(4)]
    with pytest.raises(IntegrityError, match="more than 3 entries"):
        extract(archive(many), tmp_path / "", below="m", limits=Limits(entries=3))
    (tmp_path / "b").mkdir()
    with pytest.raises(IntegrityError, match="more than 10 bytes"):
        extract(archive([entry("m/a", b"x" * 11)]), tmp_path / "b", below="m", limits=Limits(total_bytes=10))
    (tmp_path / "c").mkdir()
    assert extract(archive([entry("m/a", b"x" * 10)]), tmp_path / "c", below="m", limits=Limits(total_bytes=10))


def test_a_giant_long_name_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    raw = io.BytesIO(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(IntegrityError, match="header of 8589934592 bytes"):
        extract(raw, tmp_path)


@pytest.mark.parametrize("data", [b"", b"not a tar" * 100])
def test_what_is_no_archive_is_refused_or_empty(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        extract(io.BytesIO(data), tmp_path)


def test_a_cut_off_archive_is_refused(tmp_path: Path) -> None:
    whole = archive([entry("m/a", os.urandom(40_000))]).getvalue()
    with pytest.raises(IntegrityError):
        extract(io.BytesIO(whole[:20_000]), tmp_path, below="m")
