"""Real registries for the contract suite: Debian's docker-registry (open, htpasswd, token) and another Berth."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from berth.access import queries, users
from berth.access.tokens import new_token
from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.catalog import record
from berth.db.engine import Database
from berth.server.gateway.app import Gateway
from berth.server.services import Services
from berth.settings import ServiceSettings
from tests.support.certificates import named, pem, signed
from tests.unit.wire import peer
from tests.unit.wire.registry_process import running_registry

USER, PASSWORD = "probe", "correct horse"
# bcrypt, the only form that docker-registry reads.
_HTPASSWD = "probe:$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n"


@contextmanager
def open_registry(folder: Path) -> Iterator[str]:
    with running_registry(folder) as url:
        yield url


@contextmanager
def htpasswd_registry(folder: Path) -> Iterator[str]:
    file = folder / "htpasswd"
    file.write_text(_HTPASSWD)
    with running_registry(folder, f"auth: {{htpasswd: {{realm: test, path: {file}}}}}") as url:
        yield url


@dataclass
class TokenService:
    """Issues the tokens of distribution's spec/auth/token.md; `asked` has every scope list."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate
    asked: list[list[str]]

    def answer(self, asked: peer.Asked) -> peer.Answer:
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if asked.headers.get("authorization") != expected:
            return peer.Answer(401, b'{"details":"incorrect username or password"}')
        scopes = parse_qs(urlsplit(asked.target).query).get("scope", [])
        self.asked.append(scopes)
        access = [
            {"type": kind, "name": name, "actions": actions.split(",")}
            for kind, _, rest in (scope.partition(":") for text in scopes for scope in text.split(" "))
            for name, _, actions in (rest.rpartition(":"),)
        ]
        now = int(time.time())
        claims = {"iss": "test", "sub": USER, "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now}
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, {**claims, "access": access}))
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        body = json.dumps({"token": f"{signed}.{_encoded(signature)}", "expires_in": 300})
        return peer.Answer(200, body.encode(), {"Content-Type": "application/json"})


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@asynccontextmanager
async def token_registry(folder: Path) -> AsyncIterator[tuple[str, TokenService]]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name, ca = named("token service"), x509.BasicConstraints(ca=True, path_length=None)
    certificate = signed(key, name, key, name, [(ca, True)])
    bundle = folder / "root.pem"
    bundle.write_bytes(pem(certificate))
    service = TokenService(key, certificate, [])
    async with peer.running(service.answer) as issuing:
        realm = f"realm: '{issuing.url}/token', service: registry, issuer: test, rootcertbundle: {bundle}"
        more = f"auth: {{token: {{{realm}}}}}"
        with running_registry(folder, more) as url:
            yield url, service


@asynccontextmanager
async def another_berth(database: Database, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """A gateway on a real port, with an admin `root`; yields its URL and that admin's token."""
    store = FileStore(folder / "other-depot", budget=TransferBudget(16 << 20), threads=2)
    text, hashed = new_token()
    async with database.transaction() as conn:
        secret = await users.ensure_bearer_secret(conn)
        await record.pin_empty_config(conn, await store.put_bytes(b"{}"))
        row = await queries.insert_principal(conn, name="root", kind="user", global_role="admin")
        assert row is not None
        await queries.insert_token(
            conn, principal_id=row.id, hashed=hashed, name="", project_id=None, role=None, expires_at=None
        )
    services = Services(database, store, ServiceSettings(data=folder), secret, lambda: datetime.now(UTC))
    server = uvicorn.Server(uvicorn.Config(Gateway(services), port=0, log_level="error", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", text
    finally:
        server.should_exit = True
        await running
        store.close()
