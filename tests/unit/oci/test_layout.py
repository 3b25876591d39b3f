"""The image layout directory: what other programs find there, and what survives bad luck."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.errors import BlobUnknown, DigestInvalid, IntegrityError, ManifestInvalid, SetupError
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.oci.layout import REF_NAME, Layout

EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "project" / "name").create()


def put_image(layout: Layout, text: str) -> Descriptor:
    config = layout.write_blob(b"{}")
    body = manifests.image(
        config=Descriptor(types.OCI_EMPTY, config.digest, config.size),
        layers=[],
        artifact_type="application/vnd.example",
        annotations={"text": text},
    )
    stored = layout.write_blob(body)
    return Descriptor(types.OCI_MANIFEST, stored.digest, stored.size)


def test_a_new_layout_has_the_files_of_the_specification(layout: Layout) -> None:
    assert json.loads((layout.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((layout.path / "index.json").read_bytes())["manifests"] == []
    assert (layout.path / "blobs").is_dir()
    assert layout.create().index() == []


def test_a_directory_of_another_layout_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(SetupError):
        Layout(tmp_path).create()


def test_a_blob_lies_where_the_specification_says(layout: Layout) -> None:
    stored = layout.write_blob(b"{}")
    assert (stored.digest, stored.size) == (EMPTY, 2)
    assert layout.path_of(EMPTY) == layout.path / "blobs" / "sha256" / EMPTY[7:]
    assert layout.has(EMPTY)
    assert layout.size(EMPTY) == 2
    with layout.open(EMPTY) as source:
        assert source.read() == b"{}"
    assert layout.read(EMPTY) == b"{}"
    assert layout.path_of(EMPTY).stat().st_mode & 0o777 == 0o644


def test_sha512_content_has_its_own_folder(layout: Layout) -> None:
    stored = layout.write_blob(b"{}", "sha512")
    assert layout.path_of(stored.digest).parent.name == "sha512"
    assert layout.read(stored.digest) == b"{}"


@pytest.mark.parametrize("digest", ["sha256:../../x", "../x:y", "sha256:", "sha256:" + "A" * 64, "/etc:passwd", "x"])
def test_a_malformed_digest_never_becomes_a_path(layout: Layout, digest: str) -> None:
    for use in (layout.path_of, layout.has, layout.open, layout.size, layout.read):
        with pytest.raises(DigestInvalid):
            use(digest)


def test_a_missing_blob_is_said_to_be_missing(layout: Layout) -> None:
    assert not layout.has(EMPTY)
    for use in (layout.open, layout.size, layout.read):
        with pytest.raises(BlobUnknown):
            use(EMPTY)


def test_a_blob_that_is_there_is_never_overwritten(layout: Layout) -> None:
    layout.write_blob(b"{}")
    before = layout.path_of(EMPTY).stat()
    layout.write_blob(b"{}")
    after = layout.path_of(EMPTY).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_damaged_blob_is_noticed_when_read(layout: Layout) -> None:
    layout.write_blob(b"{}")
    layout.path_of(EMPTY).write_bytes(b"[]")
    with pytest.raises(IntegrityError):
        layout.read(EMPTY)


def test_a_stream_of_other_content_than_expected_leaves_nothing(layout: Layout) -> None:
    assert layout.write_stream([b"{", b"}"], expected=EMPTY).size == 2
    with pytest.raises(IntegrityError):
        layout.write_stream([b"other"], expected="sha256:" + "0" * 64)
    assert [file.name for file in layout.path.joinpath("blobs", "sha256").iterdir()] == [EMPTY[7:]]


def test_a_stream_that_breaks_leaves_nothing(layout: Layout) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        layout.write_stream(broken())
    assert list(layout.path.joinpath("blobs", "sha256").iterdir()) == []


def test_a_name_points_to_what_was_added_last_and_the_old_manifest_stays_unnamed(layout: Layout) -> None:
    one, two = put_image(layout, "one"), put_image(layout, "two")
    layout.add(one, "1.0.0")
    layout.add(two, "1.0.0")
    found = layout.resolve("1.0.0")
    assert found is not None
    assert found.digest == two.digest
    assert {(entry.digest, entry.annotations.get(REF_NAME)) for entry in layout.index()} == {
        (one.digest, None),
        (two.digest, "1.0.0"),
    }
    assert layout.resolve("2.0.0") is None


def test_one_manifest_may_have_several_names_and_lose_them(layout: Layout) -> None:
    one = put_image(layout, "one")
    layout.add(one)
    layout.add(one, "a")
    layout.add(one, "b")
    layout.add(one)
    assert [entry.annotations for entry in layout.index()] == [{REF_NAME: "a"}, {REF_NAME: "b"}]
    assert layout.remove("a")
    assert not layout.remove("a")
    assert [entry.annotations for entry in layout.index()] == [{REF_NAME: "b"}]


def test_foreign_fields_and_unknown_media_types_of_the_index_are_kept(layout: Layout) -> None:
    foreign = {"mediaType": "application/x-unknown", "digest": EMPTY, "size": 2}
    value = {"schemaVersion": 2, "manifests": [foreign], "annotations": {"a": "b"}, "org.example": [1]}
    (layout.path / "index.json").write_text(json.dumps(value))
    layout.add(put_image(layout, "one"), "x")
    after = json.loads((layout.path / "index.json").read_bytes())
    assert after["manifests"][0] == foreign
    assert (after["annotations"], after["org.example"]) == ({"a": "b"}, [1])
    layout.set_index([])
    assert json.loads((layout.path / "index.json").read_bytes())["annotations"] == {"a": "b"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifests":{}}', '{"manifests":[{"digest":"../x"}]}'])
def test_a_malformed_index_is_refused(layout: Layout, text: str) -> None:
    (layout.path / "index.json").write_text(text)
    with pytest.raises(ManifestInvalid):
        layout.index()


def test_a_directory_without_index_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        Layout(tmp_path).index()


def _add_many(path: Path, first: int, count: int) -> None:
    layout = Layout(path)
    for number in range(first, first + count):
        layout.add(put_image(layout, str(number)), f"1.0.{number}")


def test_no_writer_loses_another_writers_name(layout: Layout) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_many, args=(layout.path, 20 * number, 8)) for number in range(2)]
    threads = [threading.Thread(target=_add_many, args=(layout.path, 100 + 20 * number, 8)) for number in range(2)]
    for worker in (*workers, *threads):
        worker.start()
    for worker in (*workers, *threads):
        worker.join()
    names = {entry.annotations[REF_NAME] for entry in layout.index()}
    assert names == {f"1.0.{first + number}" for first in (0, 20, 100, 120) for number in range(8)}


def test_skopeo_reads_the_layout_and_writes_one_that_we_read(layout: Layout, tmp_path: Path) -> None:
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}
    )
    stored = layout.write_blob(config.encode())
    body = manifests.image(config=Descriptor(types.OCI_CONFIG, stored.digest, stored.size), layers=[])
    image = layout.write_blob(body)
    layout.add(Descriptor(types.OCI_MANIFEST, image.digest, image.size), "1.0.0")
    source, target = f"oci:{layout.path}:1.0.0", tmp_path / "copy"
    raw = subprocess.run(["skopeo", "inspect", "--raw", source], capture_output=True, check=True).stdout
    assert raw == body
    command = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", source, f"oci:{target}:2.0.0"]
    subprocess.run(command, capture_output=True, check=True)
    found = Layout(target).resolve("2.0.0")
    assert found is not None
    assert found.digest == image.digest
    assert Layout(target).read(image.digest) == body
