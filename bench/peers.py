"""Which servers are compared? Berth as `berth up` makes it, and Debian's docker-registry, on the same disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.transfer import Registry, TransferError
from demo.service import BIN, Service, answers, free_port

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench"
PROJECT = "bench"


@dataclass(frozen=True)
class Peer:
    """One running registry."""

    name: str
    url: str
    repository: str
    user: str | None = None
    password: str | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def env(self) -> dict[str, str]:
        return {"BENCH_USER": self.user or "", "BENCH_PASSWORD": self.password or ""}

    def open(self) -> Registry:
        registry = Registry(self.url, self.user, self.password)
        registry.authorize(self.repository)
        return registry


@contextmanager
def berth(*, policy: str = "open") -> Iterator[Peer]:
    """A fresh Berth with a project of that policy."""
    HOME.mkdir(exist_ok=True)
    service = Service(HOME / "berth", log=HOME / "berth.log", env={"BERTH_LOG_LEVEL": "warning"})
    shutil.rmtree(service.data, ignore_errors=True)
    service.start()
    try:
        env = {**os.environ, "BERTH_URL": service.url, "BERTH_TOKEN": service.token}
        subprocess.run(
            [BIN / "berth", "project", "create", PROJECT, "--policy", policy, "-o", "json"],
            env=env,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        yield Peer("berth", service.url, f"{PROJECT}/blobs", "admin", service.token)
    finally:
        service.stop()
        shutil.rmtree(service.data, ignore_errors=True)


@contextmanager
def docker_registry(
    data: Path = HOME / "docker-registry", *, program: str = "docker-registry"
) -> Iterator[Peer | None]:
    """Debian's docker-registry 2.8, or the one of that path, without authentication, storing below `data`; None where
    it is not installed."""
    found = shutil.which(program)
    if found is None:
        yield None
        return
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    port = free_port()
    config = data / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {data}/blobs}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([found, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        peer = Peer("docker-registry", f"http://127.0.0.1:{port}", f"{PROJECT}/blobs")
        for _ in range(200):
            if answers(f"{peer.url}/v2/"):
                break
            time.sleep(0.05)
        else:
            raise TransferError("docker-registry did not start")
        yield peer
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(data, ignore_errors=True)


def listener(port: int) -> int:
    """The process that listens on a port of loopback, by /proc."""
    wanted = f":{port:04X}"
    inodes = set()
    for line in Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted) and fields[3] == "0A":
            inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(os.readlink(handle) in inodes for handle in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue  # it ended, or is not ours to look into
    raise TransferError(f"nobody listens on port {port}")


def resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
