"""Does a container engine take it? podman pulls the admitted image from Berth, runs it, and it answers over HTTP.

All of podman's state stays below the demo's folder. Where the kernel or the sandbox forbids containers, the demo says
so and goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from demo.service import free_port

# Machines without CAP_SYS_RESOURCE can't raise limits, and crun refuses hybrid cgroups; runc copes.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
events_logger = "file"
cgroup_manager = "cgroupfs"
"""
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}


@dataclass(frozen=True)
class Podman:
    """podman with a storage of its own below `home`."""

    home: Path

    def ready(self) -> str | None:
        """Write its configuration; a sentence when podman can't work here, else None."""
        if shutil.which("podman") is None:
            return "podman is not installed"
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "containers.conf").write_text(CONTAINERS_CONF, encoding="utf-8")
        (self.home / "policy.json").write_text(json.dumps(POLICY), encoding="utf-8")
        said = self.call("info", "--format", "{{.Store.GraphDriverName}}")
        return None if said.returncode == 0 else f"podman does not work here: {last_line(said.stderr)}"

    @property
    def command(self) -> list[str]:
        return ["podman", "--root", str(self.home / "root"), "--runroot", str(self.home / "runroot")]

    @property
    def env(self) -> dict[str, str]:
        return {"CONTAINERS_CONF": str(self.home / "containers.conf")}

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def clean(self) -> None:
        """Containers and images; overlay mounts must be gone before the folder can be removed."""
        self.call("rm", "--all", "--force", "--time", "1")
        self.call("rmi", "--all", "--force")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def run_model(engine: Podman, image: str, *, weights: Path, mount: str) -> tuple[str, int]:
    """Start the model with its weights mounted; the container's id and the port it serves on."""
    port = free_port()
    started = engine.call(
        "run", "--detach", "--network", "host", "--env", f"XUMI_PORT={port}", "--env", "XUMI_HOST=127.0.0.1",
        "--volume", f"{weights}:{mount}:ro", image,
    )  # fmt: skip
    if started.returncode != 0:
        raise OSError(last_line(started.stderr))
    return started.stdout.strip(), port


def post_json(url: str, document: object) -> object:
    request = urllib.request.Request(
        url, json.dumps(document).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return json.load(response)
