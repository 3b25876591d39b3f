"""Archives of images: written ones read by the standard library, read ones as Docker and Podman write them."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator

import pytest

from berth.adapters.registries.contract import WholeImage
from berth.adapters.registries.docker_archive import unpacked, written
from berth.errors import IntegrityError, ManifestInvalid, RemoteError
from berth.oci.descriptor import Descriptor
from tests.support.daemons import packed, sha256

TAR = "application/vnd.oci.image.layer.v1.tar"
LOW, HIGH = packed({"low": b"l" * 2_000_000}), packed({"high": b"h"})
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [sha256(LOW), sha256(HIGH)]}}).encode()
NAME = "lab/net:1.0.0"


def archive(members: list[tuple[str, bytes | str]]) -> bytes:
    """A tar; a member whose content is text is a symbolic link to it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                made.addfile(member)
            else:
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
    return out.getvalue()


def listed(config: str, *layers: str, name: str = NAME) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": [name], "Layers": list(layers)}]).encode()


async def pieces(data: bytes, size: int = 65_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(data: bytes) -> tuple[WholeImage, list[bytes]]:
    kept: list[bytes] = []

    async def keep(size: int, chunks: AsyncIterator[bytes]) -> str:
        content = b"".join([piece async for piece in chunks])
        assert len(content) == size
        kept.append(content)
        return sha256(content)

    return await unpacked(pieces(data), name=NAME, keep=keep), kept


async def test_what_is_written_is_a_tar_that_others_read() -> None:
    content = {sha256(LOW): LOW, sha256(HIGH): HIGH}
    low, high = (Descriptor(TAR, digest, len(data)) for digest, data in content.items())

    async def source(layer: Descriptor) -> AsyncIterator[bytes]:
        async for piece in pieces(content[layer.digest]):
            yield piece

    image = WholeImage(CONFIG, [low, high, low])  # the same layer twice is sent once
    data = b"".join([piece async for piece in written(image, name=NAME, read=source)])
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        [entry] = json.load(found.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert entry["RepoTags"] == [NAME]
        assert entry["Layers"][0] == entry["Layers"][2]
        for path, expected in ((entry["Config"], CONFIG), (entry["Layers"][0], LOW), (entry["Layers"][1], HIGH)):
            assert found.extractfile(path).read() == expected  # type: ignore[union-attr]
        assert len(found.getnames()) == 4
    again, _ = await read(data)
    assert [layer.digest for layer in again.layers] == [low.digest, high.digest, low.digest]


@pytest.mark.parametrize("wrong", [LOW[:-1] + b"!", LOW[:-512], LOW + b"more"])
async def test_an_archive_with_other_bytes_ends_before_its_end(wrong: bytes) -> None:
    async def source(_: Descriptor) -> AsyncIterator[bytes]:
        yield wrong

    sent = bytearray()
    with pytest.raises(IntegrityError):
        async for piece in written(
            WholeImage(CONFIG, [Descriptor(TAR, sha256(LOW), len(LOW))]), name=NAME, read=source
        ):
            sent += piece
    assert b"manifest.json" not in sent


@pytest.mark.parametrize(
    "members",
    [
        pytest.param(
            [("b/layer.tar", HIGH), ("a/layer.tar", LOW), ("c.json", CONFIG),
             ("manifest.json", listed("c.json", "a/layer.tar", "b/layer.tar"))],
            id="docker-20: layers by their ids, in any order",
        ),
        pytest.param(
            [("low.tar", LOW), ("high.tar", HIGH), ("x/layer.tar", "../low.tar"), ("y/layer.tar", "../high.tar"),
             ("c.json", CONFIG), ("manifest.json", listed("c.json", "x/layer.tar", "y/layer.tar"))],
            id="podman: links to layers",
        ),
        pytest.param(
            [("oci-layout", b"{}"), ("index.json", b"{}"), ("blobs/sha256/low", LOW), ("blobs/sha256/high", HIGH),
             ("blobs/sha256/config", CONFIG),
             ("manifest.json", listed("blobs/sha256/config", "blobs/sha256/low", "blobs/sha256/high"))],
            id="docker-25: an OCI layout with manifest.json",
        ),
    ],
)  # fmt: skip
async def test_archives_of_all_ages_are_read(members: list[tuple[str, bytes | str]]) -> None:
    found, kept = await read(archive(members))
    assert found.config == CONFIG
    assert [(layer.digest, layer.media_type) for layer in found.layers] == [(sha256(LOW), TAR), (sha256(HIGH), TAR)]
    assert sorted(kept) == sorted([LOW, HIGH])


async def test_compressed_layers_are_known_by_their_content() -> None:
    zipped = gzip.compress(LOW)
    found, _ = await read(
        archive([("l.tar", zipped), ("c.json", CONFIG), ("manifest.json", listed("c.json", "l.tar"))])
    )
    assert found.layers == [Descriptor(f"{TAR}+gzip", sha256(zipped), len(zipped))]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("c.json", CONFIG)], ManifestInvalid),
        ([("manifest.json", listed("c.json", "l.tar"))], ManifestInvalid),
        ([("c.json", CONFIG), ("manifest.json", listed("c.json", "l.tar"))], ManifestInvalid),
        ([("c.json", CONFIG), ("l.tar", "/etc/passwd"), ("manifest.json", listed("c.json", "l.tar"))], ManifestInvalid),
    ],
)
async def test_archives_without_what_they_name_are_refused(
    members: list[tuple[str, bytes | str]], expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        await read(archive(members))


@pytest.mark.parametrize("part", [0.3, 0.9])
async def test_an_archive_that_ends_too_early_is_refused(part: float) -> None:
    whole = archive([("l.tar", LOW), ("c.json", CONFIG), ("manifest.json", listed("c.json", "l.tar"))])
    with pytest.raises((RemoteError, ManifestInvalid)):
        await read(whole[: int(len(whole) * part)])


async def test_giving_up_ends_the_thread_that_waits_for_bytes() -> None:
    asked = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield archive([("l.tar", LOW)])[:100_000]
        asked.set()
        await asyncio.Event().wait()

    async def keep(size: int, chunks: AsyncIterator[bytes]) -> str:
        return sha256(b"".join([piece async for piece in chunks]))

    reading = asyncio.create_task(unpacked(stalled(), name=NAME, keep=keep))
    await asked.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
