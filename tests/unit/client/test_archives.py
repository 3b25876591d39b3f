"""Fetching an export: broken connections and evidence that comes meanwhile; the service's side is scripted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from berth.client.archives import Archives
from berth.client.session import Session
from berth.errors import ArchiveInvalid, Conflict, Unavailable
from berth.oci import archive
from berth.oci.archive_index import NamedVersion, index_document
from berth.oci.descriptor import Descriptor

LAYER = bytes(range(256)) * 200


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def made(layer: bytes) -> tuple[bytes, str]:
    """An archive of one image with this layer, and the image's digest."""
    config = b"{}"
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": sha256(LAYER),
                    "size": len(LAYER),
                }
            ],
        }
    ).encode()
    root = Descriptor("application/vnd.oci.image.manifest.v1+json", sha256(body), len(body))
    index = index_document([NamedVersion("ml/net", "1.0.0", root)], [], [])
    blobs = {sha256(config): config, sha256(LAYER): layer}
    entries = archive.entries_of(index, [(root.digest, body)], [(d, len(b)) for d, b in blobs.items()])
    data = b"".join(
        blobs[piece.digest] if isinstance(piece, archive.Stretch) else piece for piece in archive.segments(entries)
    )
    return data, root.digest


class Service:
    """Serves `files` by ETag, one per plan; each answer ends after `pieces` bytes where that is set."""

    def __init__(self, *files: bytes, digest: str, pieces: int | None = None) -> None:
        self.files = list(files)
        self.digest = digest
        self.pieces = pieces
        self.plans = 0
        self.ranges: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/plan"):
            self.plans += 1
            etag = sha256(self.files[0])[7:]
            versions = [{"name": "ml/net:1.0.0", "digest": self.digest, "aliases": []}]
            plan = {"versions": versions, "size": len(self.files[0]), "etag": etag}
            if len(self.files) > 1:
                self.files.pop(0)
            return httpx.Response(200, json=plan)
        self.ranges.append(request.headers.get("range"))
        whole = self.files[0]
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        if request.headers.get("if-range") not in (None, f'"{sha256(whole)[7:]}"'):
            start = 0
        headers = {"ETag": f'"{sha256(whole)[7:]}"'}
        return httpx.Response(206 if start else 200, headers=headers, stream=Breaking(whole[start:], self.pieces))


class Breaking(httpx.SyncByteStream):
    def __init__(self, data: bytes, pieces: int | None) -> None:
        self._data = data
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        if self._pieces is None or len(self._data) <= self._pieces:
            yield self._data
            return
        yield self._data[: self._pieces]
        raise httpx.ReadError("the connection was reset")


def archives(service: Service) -> Archives:
    session = Session("http://berth.test", "token", transport=httpx.MockTransport(service))
    return Archives(session, sleep=lambda _: None)


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data, digest = made(LAYER)
    service = Service(data, digest=digest, pieces=20_000)
    done = archives(service).export(["ml/net:1.0.0"], tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == data
    assert done.bytes_transferred == len(data)
    assert service.ranges == [None, "bytes=20000-", "bytes=40000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_a_service_that_never_gets_anywhere_is_given_up_and_the_part_stays(tmp_path: Path) -> None:
    data, digest = made(LAYER)
    with pytest.raises(Unavailable, match="keeps breaking off"):
        archives(Service(data, digest=digest, pieces=0)).export(["ml/net:1.0.0"], tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_evidence_that_comes_meanwhile_begins_the_file_anew(tmp_path: Path) -> None:
    data, digest = made(LAYER)
    changed = data + b"\0" * 512
    service = Service(changed, data, digest=digest)
    archives(service).export(["ml/net:1.0.0"], tmp_path / "x.tar")
    assert (service.plans, (tmp_path / "x.tar").read_bytes()) == (2, data)


def test_wrong_bytes_are_found_before_the_file_has_its_name(tmp_path: Path) -> None:
    data, digest = made(b"x" + LAYER[1:])
    with pytest.raises(ArchiveInvalid, match=sha256(LAYER)):
        archives(Service(data, digest=digest)).export(["ml/net:1.0.0"], tmp_path / "x.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_not_replaced_unasked(tmp_path: Path) -> None:
    data, digest = made(LAYER)
    (tmp_path / "x.tar").write_bytes(b"mine")
    with pytest.raises(Conflict, match="exists already"):
        archives(Service(data, digest=digest)).export(["ml/net:1.0.0"], tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == b"mine"
    archives(Service(data, digest=digest)).export(["ml/net:1.0.0"], tmp_path / "x.tar", force=True)
    assert (tmp_path / "x.tar").read_bytes() == data
