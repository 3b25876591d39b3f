"""Real container daemons with sockets and storages of their own, and the smallest image that runs in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.oci.descriptor import Descriptor
from berth.oci.layout import Layout
from demo.service import free_port
from tests.support.certificates import Authority, authority
from tests.support.processes import DEADLINE_SECONDS, needs

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
# Machines without CAP_SYS_RESOURCE can't raise limits, and crun refuses hybrid cgroups; runc copes.
_CONTAINERS = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
events_logger = "file"
cgroup_manager = "cgroupfs"
"""


def _client(url: str, *, version: str = "/v1.41") -> httpx.Client:
    """Speaks to the daemon at unix:///socket or tcp://host:port."""
    scheme, _, place = url.partition("://")
    transport = httpx.HTTPTransport(uds=place if scheme == "unix" else None)
    host = "daemon" if scheme == "unix" else place
    return httpx.Client(transport=transport, base_url=f"http://{host}{version}", timeout=60)


def _answers(url: str, process: subprocess.Popen[bytes], log: Path, *, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    with _client(url, version="") as http:
        while True:
            if process.poll() is not None:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                pytest.skip(f"{what} does not work here: {''.join(last)[:300]}")
            try:
                if http.get("/_ping").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{what} does not answer"
            time.sleep(0.05)


@contextmanager
def _running(command: list[str], url: str, folder: Path, *, what: str, env: Mapping[str, str]) -> Iterator[str]:
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, env={**os.environ, **env})
    try:
        _answers(url, process, log, what=what)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _short_folder(name: str) -> Iterator[Path]:
    """Paths of Unix sockets, and Podman's runroot, have to be short."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Dockerd:
    """A running one.

    Attributes:
        socket: unix://…, for whoever may use it.
        https: https://…, for clients with a certificate of `authority`.
    """

    socket: str
    https: str
    authority: Authority


@contextmanager
def running_dockerd() -> Iterator[Dockerd]:
    """A Docker daemon that touches neither bridges nor firewalls."""
    if shutil.which("dockerd") is not None and os.geteuid() != 0:
        pytest.skip("dockerd needs root")
    program = needs("dockerd")
    with _short_folder("dockerd") as folder:
        address, port = f"unix://{folder / 'd.sock'}", free_port()
        vouching = authority(folder)
        command = [
            program, "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"),
            "--pidfile", str(folder / "pid"), "--bridge", "none", "--iptables=false",
            "--default-ulimit", "nofile=20000:20000", "-H", address,
            "-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", str(vouching.certificate),
            "--tlscert", str(vouching.server.certificate), "--tlskey", str(vouching.server.key),
        ]  # fmt: skip
        try:
            with _running(command, address, folder, what="dockerd", env={}) as url:
                yield Dockerd(url, f"https://127.0.0.1:{port}", vouching)
        finally:
            # It leaves its data folder mounted on itself.
            subprocess.run(["umount", "--lazy", str(folder / "data")], capture_output=True, check=False)


@contextmanager
def running_podman(*, tcp: bool = False) -> Iterator[str]:
    """Podman's service, on a socket or on a port of loopback."""
    program = needs("podman")
    with _short_folder("podman") as folder:
        address = f"tcp://127.0.0.1:{free_port()}" if tcp else f"unix://{folder / 'p.sock'}"
        (folder / "containers.conf").write_text(_CONTAINERS)
        (folder / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        stores = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
        command = [program, *stores, "system", "service", "--time=0", address]
        env = {"CONTAINERS_CONF": str(folder / "containers.conf"), "TMPDIR": str(folder)}
        with _running(command, address, folder, what="podman system service", env=env) as url:
            yield url
            # Its overlay mounts must be gone before the folder can be.
            for words in (("rm", "--all", "--force"), ("rmi", "--all", "--force")):
                subprocess.run([program, *stores, *words], env={**os.environ, **env}, capture_output=True, check=False)


@contextmanager
def container_of(url: str, image: str) -> Iterator[tuple[httpx.Client, str]]:
    """A container of an image, made by the daemon and not started; gone afterwards."""
    with _client(url) as http:
        made = http.post("/containers/create", json={"Image": image, "HostConfig": {"NetworkMode": "none"}})
        assert made.status_code == 201, made.text
        container = str(made.json()["Id"])
        try:
            yield http, container
        finally:
            http.delete(f"/containers/{container}", params={"force": "1"})


def runs(url: str, image: str) -> str:
    """What a container of this image prints, run by the daemon itself."""
    with container_of(url, image) as (http, container):
        started = http.post(f"/containers/{container}/start")
        assert started.status_code == 204, started.text
        http.post(f"/containers/{container}/wait")
        logs = http.get(f"/containers/{container}/logs", params={"stdout": "1", "stderr": "1"})
        return logs.content[8:].decode("utf-8", "replace")  # a frame's header comes first


def images(url: str) -> list[dict[str, Any]]:
    """What the daemon lists."""
    with _client(url) as http:
        return list(http.get("/images/json").json())


# ---- an image that runs


def program(text: str) -> bytes:
    """A static x86-64 ELF that writes `text` and ends: write(1, text, n); exit(0)."""
    said = text.encode()
    code = (
        b"\xb8\x01\x00\x00\x00\xbf\x01\x00\x00\x00"  # mov eax, 1; mov edi, 1
         b"\x48\x8d\x35" + struct.pack("<i", 16)  # lea rsi, [rip + 16]
        + b"\xba" + struct.pack("<I", len(said))  # mov edx, n
        + b"\x0f\x05\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05"  # syscall; mov eax, 60; xor edi, edi; syscall
    )  # fmt: skip
    base, start = 0x400000, 64 + 56
    size = start + len(code) + len(said)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code + said


def packed(files: Mapping[str, bytes]) -> bytes:
    """A plain tar of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def runnable(folder: Path, tag: str, *, says: str, filler: bytes = b"", architecture: str = "amd64") -> dict[str, str]:
    """A version as xumi makes one, in an OCI layout: index of image and checkpoint. Digests by what they are."""
    layout = Layout(folder).create()
    layers = [packed({"says": program(says)}), packed({"filler": filler, "etc/os-release": b"ID=none\n"})]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/says"], "Labels": {"org.opencontainers.image.title": "says"}},
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        }
    ).encode()
    zipped = [gzip.compress(layer, mtime=0) for layer in layers]
    for data in (*zipped, config):
        layout.write_blob(data)
    image = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": sha256(data), "size": len(data)} for data in zipped],
        }
    ).encode()
    weights = os.urandom(100_000)
    empty = b"{}"
    checkpoint = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "config": {"mediaType": "application/vnd.cncf.model.config.v1+json", "digest": sha256(empty), "size": 2},
            "layers": [
                {
                    "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                    "digest": sha256(weights),
                    "size": len(weights),
                }
            ],
        }
    ).encode()
    for data in (weights, empty, image, checkpoint):
        layout.write_blob(data)
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "digest": sha256(image),
                    "size": len(image),
                    "platform": {"os": "linux", "architecture": architecture},
                },
                {
                    "mediaType": MANIFEST,
                    "digest": sha256(checkpoint),
                    "size": len(checkpoint),
                    "platform": {"os": "unknown", "architecture": "unknown"},
                },
            ],
        }
    ).encode()
    layout.write_blob(index)
    layout.add(Descriptor(INDEX, sha256(index), len(index)), tag)
    sent = str(sum(map(len, zipped)))
    return {"index": sha256(index), "image": sha256(image), "config": sha256(config), "layer_bytes": sent}
