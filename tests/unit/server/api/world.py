"""A small service to ask: the real routers on a fresh database, with principals, roles, and versions made by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from fastapi import FastAPI

from berth.access import queries as access
from berth.access.tokens import new_token
from berth.adapters.registries.build import Registries
from berth.adapters.stores.files import FileStore
from berth.catalog import queries as catalog
from berth.catalog import record
from berth.catalog.declared import XUMI_MANIFEST
from berth.db.engine import Database
from berth.gates import policies
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.server import api, health, hooks, metrics, problems
from berth.server.services import Services
from berth.settings import ServiceSettings
from tests.unit.wire.conftest import IMPATIENT

START = datetime(2026, 5, 4, 8, 0, 0, tzinfo=UTC)


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class World:
    database: Database
    store: FileStore
    clock: Clock = field(default_factory=Clock)
    secret: bytes = b"s" * 32

    def __post_init__(self) -> None:
        settings = ServiceSettings(data=self.store.root.parent)
        self.services = Services(
            self.database, self.store, settings, self.secret, self.clock, registries=Registries(retry=IMPATIENT)
        )
        self.app = FastAPI()
        self.app.state.services = self.services
        api.include_all(self.app)
        self.app.include_router(health.router)
        self.app.include_router(metrics.router)
        self.app.include_router(hooks.router)
        problems.install(self.app)
        self._transport = httpx.ASGITransport(app=self.app)

    async def ask(self, method: str, path: str, *, token: str | None = None, **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        address = path if path.startswith(("/healthz", "/readyz", "/metrics", "/hooks/")) else f"/api/v1{path}"
        async with httpx.AsyncClient(transport=self._transport, base_url="http://berth.test") as client:
            return await client.request(method, address, headers=headers, **more)

    async def principal(self, name: str, *, kind: str = "user", global_role: str | None = None) -> str:
        """A principal and a token with all its rights."""
        async with self.database.transaction() as conn:
            await access.insert_principal(conn, name=name, kind=kind, global_role=global_role)
        return await self.token(name)

    async def token(
        self, user: str, *, project: str | None = None, role: str | None = None, expires_at: datetime | None = None
    ) -> str:
        text, hashed = new_token()
        async with self.database.transaction() as conn:
            owner = await access.principal_by_name(conn, user)
            row = None if project is None else await access.project_by_name(conn, project)
            assert owner is not None
            await access.insert_token(
                conn,
                principal_id=owner.id,
                hashed=hashed,
                name="",
                project_id=None if row is None else row.id,
                role=role,
                expires_at=expires_at,
            )
        return text

    async def project(self, name: str, policy: str = "open") -> int:
        chosen = policies.from_json({"preset": policy})
        async with self.database.transaction() as conn:
            row = await access.insert_project(
                conn,
                name=name,
                description="",
                policy=policies.to_json(chosen),
                policy_hash=policies.policy_hash(chosen),
                trust_hash=policies.trust_hash(()),
            )
        assert row is not None
        return row.id

    async def member(self, project: str, user: str, role: str) -> None:
        async with self.database.transaction() as conn:
            row = await access.project_by_name(conn, project)
            owner = await access.principal_by_name(conn, user)
            assert row is not None
            assert owner is not None
            await access.put_member(conn, project_id=row.id, principal_id=owner.id, role=role)

    async def blob(self, repository: str, data: bytes) -> Descriptor:
        stored = await self.store.put_bytes(data)
        async with self.database.transaction() as conn:
            row = await catalog.ensure_repository(conn, repository)
            assert row is not None
            await catalog.insert_blob(
                conn,
                digest=stored.digest,
                size=stored.size,
                location=stored.location,
                lease_until=self.clock.now + timedelta(days=1),
            )
            await catalog.link_blob(conn, row.id, stored.digest)
        return Descriptor(types.OCI_CONFIG, stored.digest, stored.size)

    async def version(
        self, repository: str, version: str, *, content: str = "", by: str = "pusher", xumi: str | None = None
    ) -> str:
        """Push an image under a version number, as the gateway would record it; its digest.

        `xumi` is the text of the xumi.yaml that travels with it.
        """
        settings = json.dumps({"config": {"Labels": {"for": content or version}}, "rootfs": {}}).encode()
        config = await self.blob(repository, settings)
        layer = await self.blob(repository, f"layer of {content or version}".encode())
        body = manifests.image(
            config=config,
            layers=[Descriptor(types.OCI_LAYER_TAR, layer.digest, layer.size)],
            annotations={} if xumi is None else {XUMI_MANIFEST: xumi},
        )
        digest = digests.of_bytes(body)
        async with self.database.transaction() as conn:
            row = await catalog.repository(conn, repository)
            assert row is not None
            await record.put_manifest(
                conn,
                repository=row,
                tag=version.replace("+", "_"),
                manifest=manifests.parse(body, types.OCI_MANIFEST),
                digest=digest,
                documents={config.digest: settings},
                pushed_by=by,
            )
        return digest

    async def audited(self, **wanted: Any) -> list[access.AuditRow]:
        """Audit rows that match, newest first."""
        async with self.database.reading() as conn:
            rows = await access.list_audit(conn, project=None, after=None, limit=500)
        return [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]
