"""A registry client of a few lines, and content made by hand: what the gateway's tests push and pull with."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from berth.access import projects, queries, users
from berth.access.decide import Actor
from berth.access.tokens import new_token
from berth.adapters.scanners.contract import Finding, ScanResult, Summary
from berth.gates import evidence, policies, signatures
from berth.server.services import Services
from berth.signing import classic, keys

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ADMIN = Actor(name="admin", principal_id=None, kind="user", global_role="admin")


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_of(files: dict[str, bytes]) -> tuple[bytes, str]:
    """(gzip bytes, diff id) of a layer with these files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=0), sha256(raw.getvalue())


@dataclass
class Image:
    """A pushed image: digests of its parts, and its manifest's bytes."""

    digest: str
    body: bytes
    config: str
    layer: str
    layer_bytes: bytes = field(repr=False)

    def descriptor(self, **extra: Any) -> dict[str, Any]:
        return {"mediaType": MANIFEST, "digest": self.digest, "size": len(self.body), **extra}


class Client:
    """Talks to the gateway as one user, with Basic credentials (or none)."""

    def __init__(self, http: httpx.AsyncClient, user: str | None, token: str | None) -> None:
        self.http = http
        self.user, self.token = user, token
        self.auth = None
        if user is not None and token is not None:
            self.auth = "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()

    async def __call__(self, method: str, path: str, content: Any = None, **headers: str) -> httpx.Response:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        if self.auth is not None:
            sent.setdefault("Authorization", self.auth)
        return await self.http.request(method, path, content=content, headers=sent)

    async def blob(self, repository: str, data: bytes) -> str:
        digest = sha256(data)
        answer = await self("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        assert answer.status_code == 201, answer.text
        return digest

    async def manifest(self, repository: str, reference: str, document: dict[str, Any] | bytes) -> httpx.Response:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        media_type = json.loads(body)["mediaType"]
        return await self("PUT", f"/v2/{repository}/manifests/{reference}", body, Content_Type=media_type)

    async def image(self, repository: str, reference: str | None, salt: str = "one", labels: Any = None) -> Image:
        """Push an image with one layer, under a tag or (None) by digest."""
        data, diff_id = layer_of({"opt/model/code.py": f"print({salt!r})\n".encode()})
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Labels": labels or {}},
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            }
        ).encode()
        layer, settings = await self.blob(repository, data), await self.blob(repository, config)
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": settings, "size": len(config)},
                "layers": [{"mediaType": LAYER, "digest": layer, "size": len(data)}],
            }
        ).encode()
        answer = await self.manifest(repository, reference or sha256(body), body)
        assert answer.status_code == 201, answer.text
        return Image(sha256(body), body, settings, layer, data)

    async def index(self, repository: str, tag: str, children: list[dict[str, Any]], **extra: Any) -> str:
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children, **extra}).encode()
        answer = await self.manifest(repository, tag, body)
        assert answer.status_code == 201, answer.text
        return sha256(body)

    async def sign(self, repository: str, digest: str, key: keys.PrivateKey) -> httpx.Response:
        """Push a classic cosign signature of `digest`."""
        payload = classic.payload(digest, f"localhost/{repository}:1.0.0")
        signature = base64.b64encode(key.sign(payload)).decode()
        config, manifest = classic.build(payload, signature, None)
        await self.blob(repository, payload)
        await self.blob(repository, config)
        return await self.manifest(repository, digest.replace(":", "-") + ".sig", manifest)


class Installation:
    """Projects, users and evidence put in directly, so that the gate is tested before and apart from the scanners."""

    def __init__(self, services: Services, http: httpx.AsyncClient) -> None:
        self.services = services
        self.http = http
        self.anonymous = Client(http, None, None)

    async def project(self, name: str, preset: str = "strict", **overrides: Any) -> None:
        policy = policies.from_json({"preset": preset, **overrides})
        async with self.services.db.transaction() as conn:
            await projects.create_project(
                conn,
                ADMIN,
                name=name,
                policy=policies.to_json(policy),
                policy_hash=policies.policy_hash(policy),
                trust_hash=policies.trust_hash([]),
            )

    async def user(
        self, name: str, project: str | None = None, role: str | None = None, *, kind: str = "user"
    ) -> Client:
        """A client with a token that has exactly `role` in `project` (or no role anywhere)."""
        text, hashed = new_token()
        async with self.services.db.transaction() as conn:
            row = await queries.principal_by_name(conn, name)
            if row is None:
                row = await queries.insert_principal(conn, name=name, kind=kind, global_role=None)
            assert row is not None
            project_row = await queries.project_by_name(conn, project) if project else None
            await queries.insert_token(
                conn,
                principal_id=row.id,
                hashed=hashed,
                name="test",
                project_id=project_row.id if project_row else None,
                role=role,
                expires_at=None,
            )
        return Client(self.http, name, text)

    async def admin(self) -> Client:
        async with self.services.db.transaction() as conn:
            token = await users.ensure_admin(conn)
        assert token is not None
        return Client(self.http, "admin", token)

    async def scanned(
        self, *digests: str, kinds: tuple[str, ...] = ("vulnerabilities", "weights"), **facts: Any
    ) -> None:
        """Record clean scans (or what `facts` says: status, malicious, critical) of leaves."""
        now = self.services.clock()
        malicious = tuple(Finding("layer 1: weights.bin", what) for what in facts.get("malicious", ()))
        for digest in digests:
            for kind in kinds:
                result = ScanResult(
                    kind=kind,  # type: ignore[arg-type]
                    status=facts.get("status", "ok"),
                    summary=Summary(malicious=malicious if kind == "weights" else ()),
                    tool="test",
                    tool_version="1",
                    database={"updated_at": now.isoformat()} if kind == "vulnerabilities" else {},
                    report=b"{}",
                    report_media_type="application/json",
                    log="",
                    started_at=now - timedelta(seconds=1),
                    finished_at=now,
                )
                async with self.services.db.transaction() as conn:
                    await evidence.record_scan(conn, digest=digest, result=result, report=None, now=now)

    async def trust(self, project: str, name: str, public_pem: str) -> None:
        async with self.services.db.transaction() as conn:
            row = await queries.project_by_name(conn, project)
            assert row is not None
            await signatures.trust_key(conn, row.id, name, public_pem, by="admin", now=self.services.clock())

    async def decided(self, repository: str, digest: str, decision: str = "approved", by: str = "rita") -> None:
        from berth.catalog import queries as catalog

        async with self.services.db.transaction() as conn:
            row = await catalog.repository(conn, repository)
            assert row is not None
            await evidence.decide_approval(
                conn,
                repository_id=row.id,
                digest=digest,
                decision=decision,
                principal=by,
                note="",
                now=self.services.clock(),
            )

    async def admit(self, repository: str, root: str, *leaves: str) -> None:
        """Everything `strict` asks for: scans, a trusted signature, an approval."""
        project = repository.partition("/")[0]
        await self.scanned(*(leaves or (root,)))
        private, public = keys.generate("ecdsa-p256", None)
        pem = public.decode() if isinstance(public, bytes) else public
        await self.trust(project, f"key-{root[-8:]}", pem)
        pusher = await self.user("signer", project, "developer")
        answer = await pusher.sign(repository, root, keys.load_private(private, None))
        assert answer.status_code == 201, answer.text
        await self.decided(repository, root)


def utc() -> datetime:
    return datetime.now(UTC)


__all__ = ["BUNDLE", "CONFIG", "INDEX", "LAYER", "MANIFEST", "SIMPLE_SIGNING", "Client", "Image", "Installation"]
