"""A repository in the database as catalog writes it: an index of one image and one checkpoint, and facts about them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from berth.adapters.scanners.contract import Finding, Problem, ScanResult, SeverityCount, Summary
from berth.db.engine import Database
from berth.gates import evidence, verdicts
from berth.gates.policies import from_json, policy_hash, to_json, trust_hash
from berth.gates.queries import AsyncConnection, VerdictRow
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def descriptor(body: bytes, media_type: str, **more: Any) -> Descriptor:
    return Descriptor(media_type, digests.of_bytes(body), len(body), **more)


def image_body(label: str, **layer: Any) -> bytes:
    """An image manifest whose only layer has these further fields."""
    config, blob = f"config of {label}".encode(), f"layer of {label}".encode()
    media_type = layer.pop("media_type", types.OCI_LAYER_TAR_GZIP)
    return manifests.image(config=descriptor(config, types.OCI_CONFIG), layers=[descriptor(blob, media_type, **layer)])


def checkpoint_body(label: str) -> bytes:
    config, blob = f"model config of {label}".encode(), f"weights of {label}".encode()
    return manifests.image(
        config=descriptor(config, types.MODELPACK_CONFIG),
        layers=[descriptor(blob, types.MODELPACK_WEIGHT_RAW)],
        artifact_type=types.MODELPACK_ARTIFACT,
    )


@dataclass
class Repository:
    """Writes rows directly; `root` is an index over `image` and `checkpoint`."""

    database: Database
    project_id: int
    id: int
    name: str
    children: list[str] = field(default_factory=list)
    root: str = ""
    image: str = ""
    checkpoint: str = ""

    async def put(self, conn: AsyncConnection, body: bytes, role: str, *, children: list[str] | None = None) -> str:
        """Record a manifest; `children`: every manifest below it."""
        digest = digests.of_bytes(body)
        media_type = json.loads(body)["mediaType"]
        await conn.execute(
            text(
                "insert into manifests (digest, media_type, body, size, role) values (:d, :m, :b, :s, :r)"
                " on conflict do nothing"
            ),
            {"d": digest, "m": media_type, "b": body, "s": len(body), "r": role},
        )
        await conn.execute(
            text("insert into repository_manifests (repository_id, digest, pushed_by) values (:i, :d, 'dana')"),
            {"i": self.id, "d": digest},
        )
        for held in (digest, *(children or [])):
            await conn.execute(
                text("insert into closure (repository_id, digest, root, is_manifest) values (:i, :d, :r, true)"),
                {"i": self.id, "d": held, "r": digest},
            )
        return digest

    async def put_index(self, conn: AsyncConnection, bodies: dict[str, bytes], label: str = "") -> str:
        """Record an index over children that were put already."""
        children = [
            descriptor(body, types.OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"})
            for body in bodies.values()
        ]
        body = manifests.index(children, annotations={"label": label} if label else None)
        return await self.put(conn, body, "index", children=[child.digest for child in children])

    async def version(self, conn: AsyncConnection, digest: str, number: str, *, pushed_by: str = "dana") -> None:
        await conn.execute(
            text(
                "insert into versions (repository_id, version, digest, number, sort_key, prerelease, pushed_by)"
                " values (:i, :v, :d, (select count(*) + 1 from versions where repository_id = :i), :v, false, :p)"
            ),
            {"i": self.id, "v": number, "d": digest, "p": pushed_by},
        )

    async def verdict(self, root: str | None = None, *, now: datetime = NOW) -> VerdictRow:
        async with self.database.transaction() as conn:
            return await verdicts.verdict_of(conn, self.id, root or self.root, now)

    async def codes(self, root: str | None = None, *, now: datetime = NOW) -> list[str]:
        """'admitted' or the codes that deny, without the note about the first admission."""
        row = await self.verdict(root, now=now)
        if row.admitted:
            return ["admitted"]
        return [reason["code"] for reason in row.reasons if reason["code"] != "admitted.first"]

    async def stored(self, root: str | None = None) -> tuple[bool, bool] | None:
        """(admitted, marked stale) as the row says, without deciding again."""
        async with self.database.reading() as conn:
            found = await conn.execute(
                text("select admitted, valid_until = '-infinity' from verdicts where repository_id = :i and root = :r"),
                {"i": self.id, "r": root or self.root},
            )
            row = found.one_or_none()
            return None if row is None else (row[0], row[1])

    async def scan(self, digest: str, kind: Any, **changes: Any) -> None:
        async with self.database.transaction() as conn:
            await evidence.record_scan(conn, digest=digest, result=result(kind, **changes), report=None, now=NOW)

    async def scan_all(self) -> None:
        await self.scan(self.image, "vulnerabilities")
        await self.scan(self.image, "weights")
        await self.scan(self.checkpoint, "weights")

    async def approve(self, decision: str = "approved", digest: str | None = None, principal: str = "rita") -> None:
        async with self.database.transaction() as conn:
            await evidence.decide_approval(
                conn,
                repository_id=self.id,
                digest=digest or self.root,
                decision=decision,
                principal=principal,
                note="",
                now=NOW,
            )


def result(
    kind: Any,
    *,
    status: Any = "ok",
    finished_at: datetime = NOW - DAY,
    high: int = 0,
    malicious: tuple[Finding, ...] = (),
    problems: tuple[Problem, ...] = (),
    report: bytes = b"{}",
    database: dict[str, Any] | None = None,
) -> ScanResult:
    severities = {"HIGH": SeverityCount(high, high)} if high else {}
    return ScanResult(
        kind=kind,
        status=status,
        summary=Summary(severities=severities, malicious=malicious, problems=problems),
        tool="hand",
        tool_version="1",
        database=database or {},
        report=report,
        report_media_type="application/json",
        log="looked\0 at it",
        started_at=finished_at,
        finished_at=finished_at,
    )


async def make_project(database: Database, name: str, policy: dict[str, Any]) -> int:
    read = from_json(policy)
    async with database.transaction() as conn:
        made = await conn.execute(
            text(
                "insert into projects (name, policy, policy_hash, trust_hash)"
                " values (:n, cast(:p as jsonb), :h, :t) returning id"
            ),
            {"n": name, "p": json.dumps(to_json(read)), "h": policy_hash(read), "t": trust_hash(())},
        )
        return int(made.scalar_one())


async def make_repository(database: Database, project_id: int, name: str, *, label: str = "one") -> Repository:
    """A repository with version 1.0.0 = index(image, checkpoint); nothing is known about it yet."""
    async with database.transaction() as conn:
        made = await conn.execute(
            text("insert into repositories (project_id, name) values (:p, :n) returning id"),
            {"p": project_id, "n": name},
        )
        repository = Repository(database, project_id, int(made.scalar_one()), name)
        bodies = {"image": image_body(label), "checkpoint": checkpoint_body(label)}
        repository.image = await repository.put(conn, bodies["image"], "image")
        repository.checkpoint = await repository.put(conn, bodies["checkpoint"], "checkpoint")
        repository.root = await repository.put_index(conn, bodies)
        await repository.version(conn, repository.root, "1.0.0")
    return repository


async def make(database: Database, preset: str = "scanned", **overrides: Any) -> Repository:
    project_id = await make_project(database, "vision", {"preset": preset, **overrides})
    return await make_repository(database, project_id, "vision/resnet")
