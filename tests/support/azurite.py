"""Azurite, Microsoft's own emulator of Azure Blob Storage, on a loopback port (`make test` fetches it with npm)."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
from obstore.store import AzureStore

from demo.service import free_port
from tests.support.processes import ROOT, needs, poll

ACCOUNT = "berthtests"
CONTAINER = "models"


@dataclass(frozen=True)
class Azurite:
    """A running one, with an empty container.

    Attributes:
        key: of the account, base64.
    """

    url: str
    key: str

    def store(self) -> AzureStore:
        """The container as obstore opens it."""
        return AzureStore(
            CONTAINER,
            account_name=ACCOUNT,
            account_key=self.key,
            endpoint=self.url,
            client_options={"allow_http": True, "timeout": timedelta(seconds=10)},
        )


@contextmanager
def running_azurite(folder: Path) -> Iterator[Azurite]:
    """Skipped loudly where it is not installed."""
    beside = ROOT / ".tools" / "node_modules" / ".bin" / "azurite-blob"
    program = needs(str(beside) if beside.exists() else "azurite-blob", peer="azurite")
    port, key = free_port(), base64.b64encode(secrets.token_bytes(64)).decode()
    command = [
        program, "--blobHost", "127.0.0.1", "--blobPort", str(port),
        "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent",
    ]  # fmt: skip
    log = folder / "azurite.log"
    with log.open("wb") as out:
        environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"}
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, env=environment)
    running = Azurite(f"http://127.0.0.1:{port}/{ACCOUNT}", key)

    def answers() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            return _made(running).status_code == 201
        except httpx.TransportError:
            return False

    try:
        poll(answers, what="Azurite answers")
        yield running
    finally:
        process.kill()
        process.wait()


def _made(running: Azurite) -> httpx.Response:
    """Make the container, which obstore has no call for ("Authorize with Shared Key" of Azure Storage's REST API)."""
    headers = {"x-ms-date": format_datetime(datetime.now(UTC), usegmt=True), "x-ms-version": "2021-12-02"}
    said = [f"{name}:{value}" for name, value in sorted(headers.items())]
    resource = f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    text = "\n".join(["PUT", *[""] * 11, *said, resource])
    mac = hmac.digest(base64.b64decode(running.key), text.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}"
    return httpx.put(f"{running.url}/{CONTAINER}?restype=container", headers=headers)
