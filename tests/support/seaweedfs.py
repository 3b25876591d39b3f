"""SeaweedFS (`weed server -s3`): an object store that is really there, on loopback ports of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.store import S3Store

from tests.support.processes import needs, poll

KEY, SECRET = "AKIATEST", "secret1234567890"
BUCKET = "models"


@dataclass
class Weed:
    """A running store; `kill` ends it at once and `start` brings it back with what it had."""

    folder: Path
    program: str
    ports: list[int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> Weed:
        names = ("s3", "master", "volume", "filer")
        ports = [f"-{name}.port={port}" for name, port in zip(names, self.ports[:4], strict=True)]
        ports += [f"-{name}.port.grpc={port}" for name, port in zip(names, self.ports[4:], strict=True)]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self.program, "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                    "-filer", "-s3", f"-s3.config={self.folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0",
                    "-volume.max=12", "-master.volumeSizeLimitMB=256", *ports,
                ],
                stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        poll(self._ready, what="SeaweedFS answers")
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "weed.log").read_text(errors="replace")[-2000:]
        try:
            # A bucket is a folder of its filer, which needs no signature.
            request = urllib.request.Request(f"http://127.0.0.1:{self.ports[3]}/buckets/{BUCKET}/", method="POST")
            with urllib.request.urlopen(request, timeout=5):
                pass
        except urllib.error.HTTPError as error:
            if error.code != 409:
                return False
        except OSError:
            return False
        try:
            obstore.put(self.store(), "ready", b"1")
        except obstore.exceptions.BaseError:
            return False
        return True

    def store(self) -> S3Store:
        """The bucket as obstore opens it."""
        return S3Store(
            BUCKET,
            endpoint=self.url,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True, "timeout": timedelta(seconds=10)},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
        )

    def kill(self) -> None:
        """At once: its ordered end takes half a minute."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running_weed(folder: Path) -> Iterator[Weed]:
    """A store with an empty bucket, skipped loudly where there is no `weed`."""
    beside = Path(sys.executable).with_name("weed")
    program = needs(str(beside) if beside.exists() else "weed", peer="seaweedfs", version=_version(beside))
    (folder / "data").mkdir(parents=True)
    identity = {
        "name": "berth",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "List", "Write", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    weed = Weed(folder, program, _ports(8))
    try:
        yield weed.start()
    finally:
        weed.kill()
        shutil.rmtree(folder / "data", ignore_errors=True)


def _ports(count: int) -> list[int]:
    """Free ports, all different."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _version(program: Path) -> str:
    if not program.exists():
        return "?"
    said = subprocess.run([str(program), "version"], capture_output=True, text=True, check=False, timeout=30)
    return said.stdout.strip()
