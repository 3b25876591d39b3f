"""A lab whose versions are at the folders `hub` and `mirror` too, and whose depot can be made to forget bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from sqlalchemy import text

from berth.adapters.registries.contract import Registry
from berth.adapters.registries.folder import FolderRegistry
from berth.sync.cache.fetcher import Fetcher
from berth.sync.copy import copy_version
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import push_image, sha256

MIB = 1 << 20
MODEL = "lab/net"


class Served(FolderRegistry):
    """A folder that tells which blobs were asked for from which byte on, and behaves as it is told.

    `tamper` is called for each piece with its first byte; it may change it, wait, or raise.
    """

    def __init__(self, root: object) -> None:
        super().__init__(root)  # type: ignore[arg-type]
        self.asked: list[tuple[str, int]] = []
        self.tamper: Callable[[int, bytes], object] = lambda _, piece: piece

    async def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        self.asked.append((digest, offset))
        at = offset
        async for piece in super().blob(repository, digest, offset=offset):
            for start in range(0, len(piece), 1 << 18):
                part = piece[start : start + (1 << 18)]
                told = self.tamper(at, part)
                if asyncio.iscoroutine(told):
                    told = await told
                assert isinstance(told, bytes)
                at += len(part)
                yield told

    async def close(self) -> None:
        """It belongs to the test."""


@dataclass
class Cache:
    """The lab with a version of one layer, at both registries, and a fetcher as a server process has it."""

    lab: Lab
    layer: bytes
    root: str
    served: dict[str, Served] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return sha256(self.layer)

    def fetcher(self) -> Fetcher:
        async def remote(name: str) -> Registry | None:
            return self.served.get(name)

        return Fetcher(self.lab.database, self.lab.store, remote=remote, clock=self.lab.clock)

    async def forget(self, digest: str | None = None) -> None:
        """The depot loses the bytes of a blob, as after an eviction."""
        async with self.lab.database.transaction() as conn:
            location = await conn.scalar(
                text("select location from blobs where digest = :d"), {"d": digest or self.digest}
            )
            await conn.execute(text("update blobs set location = null where digest = :d"), {"d": digest or self.digest})
        await self.lab.store.delete(location)

    async def location(self) -> str | None:
        rows = await self.lab.rows(f"select location from blobs where digest = '{self.digest}'")
        found: str | None = rows[0][0]
        return found

    def files(self) -> list[str]:
        """What the depot's folder of uploads holds."""
        return sorted(path.name for path in (self.lab.store.root / "uploads").iterdir())


async def make_cache(lab: Lab, size: int = 3 * MIB + 17) -> Cache:
    """Version 1.0.0 of `lab/net`, pushed here and published to `hub` and `mirror`."""
    layer = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    await lab.project("lab")
    root = await push_image(lab.depot, MODEL, "1.0.0", layers=[layer])
    cache = Cache(lab, layer, root, {name: Served(lab.folder / name) for name in ("hub", "mirror")})
    for name, registry in cache.served.items():
        await copy_version(lab.depot, registry, MODEL, MODEL, root, "1.0.0")
        registry.asked.clear()
        await place(lab, name)
    return cache


async def place(lab: Lab, name: str, *, redirect: bool = False) -> None:
    """Registry `name` is known and holds all versions of the model."""
    async with lab.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into registries (name, kind, url, options, created_by) values "
                "(:n, 'folder', 'file:///none', jsonb_build_object('redirect', cast(:r as bool)), 'admin') "
                "on conflict (name) do update set options = excluded.options"
            ),
            {"n": name, "r": redirect},
        )
        await conn.execute(
            text(
                "insert into placements (version_id, registry, repository, state) "
                "select id, :n, 'lab/net', 'published' from versions"
            ),
            {"n": name},
        )
