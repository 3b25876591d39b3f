"""Stories of copying: between two real registries and Berth, home and back when a verdict turns."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from berth.oci.descriptor import Descriptor
from berth.oci.layout import Layout
from tests.support.processes import ROOT, BerthFactory, BerthProcess, needs, poll
from tests.unit.wire.registry_process import running_registry

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """`host:port` of Debian's docker-registry."""
    needs("docker-registry")
    folder.mkdir()
    with running_registry(folder) as url:
        yield url.removeprefix("http://")


def run(berth: BerthProcess, program: str, *words: str, expect: int | None = 0) -> Any:
    """What a command of ours answers as JSON; fails with its words. With `expect=None` a failure is None."""
    env = {key: value for key, value in os.environ.items() if not key.upper().startswith("BERTH_")}
    env |= {"PYTHONPATH": str(ROOT / "src"), "BERTH_URL": berth.url, "BERTH_TOKEN": berth.admin_token}
    code = f"from berth.cli.main import {program}; {program}()"
    said = subprocess.run(
        [sys.executable, "-c", code, *words, "-o", "json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if expect is None and said.returncode != 0:
        return None
    assert said.returncode == 0, f"{program} {' '.join(words)}: {said.stderr}"
    return json.loads(said.stdout)


def skopeo(*words: str) -> str:
    said = subprocess.run([needs("skopeo"), *words], capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout


def inspect(host: str, repository: str, tag: str) -> str | None:
    """Digest of a tag as skopeo finds it; None when there is none."""
    said = subprocess.run(
        [needs("skopeo"), "inspect", "--raw", "--tls-verify=false", f"docker://{host}/{repository}:{tag}"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    if said.returncode != 0:
        return None
    return "sha256:" + hashlib.sha256(said.stdout).hexdigest()


def make_version(folder: Path, tag: str, *, layers: int = 1, size: int = 300_000) -> tuple[str, int]:
    """An image in an OCI layout; its digest and the bytes of its blobs."""
    layout = Layout(folder)
    layout.create()
    # Compressed, or skopeo would do it on the way and change the digest.
    packed = [gzip.compress(os.urandom(size)) for _ in range(layers)]
    named = [{"mediaType": LAYER, "digest": layout.write_blob(data).digest, "size": len(data)} for data in packed]
    config_bytes = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [item["digest"] for item in named]},
        }
    ).encode()
    config = layout.write_blob(config_bytes).digest
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": len(config_bytes)},
            "layers": named,
        }
    ).encode()
    digest = layout.write_blob(body).digest
    layout.add(Descriptor(MANIFEST, digest, len(body)), tag)
    return digest, sum(map(len, packed)) + len(config_bytes)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[str, str]]:
    with registry(tmp_path / "a") as first, registry(tmp_path / "b") as second:
        yield first, second


def test_from_a_registry_through_berth_to_another_and_back(
    berth: BerthProcess, two: tuple[str, str], tmp_path: Path
) -> None:
    hub, harbour = two
    digest, size = make_version(tmp_path / "layout", "1.0.0")
    skopeo(
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        f"oci:{tmp_path / 'layout'}:1.0.0",
        f"docker://{hub}/lab/net:1.0.0",
    )
    run(berth, "berth", "project", "create", "lab", "--policy", "open")
    run(berth, "berth", "registry", "add", "hub", "--kind", "distribution", "--url", f"http://{hub}")
    marked = ("--kind", "distribution", "--takes-open")
    run(berth, "berth", "registry", "add", "harbour", *marked, "--url", f"http://{harbour}")

    # In: one line is enough, a second run moves nothing.
    added = ("--source", "hub", "--target", "depot", "--project", "lab", "--only-higher")
    run(berth, "berth", "sync", "rule", "add", "in", *added)
    planned = run(berth, "berth", "sync", "plan", "in", "--wait")
    assert ([item["action"] for item in planned["items"]], planned["bytes_transferred"]) == (["copy"], 0)
    apart = run(berth, "berth", "sync", "drift")
    assert [(row["target"], row["model"], row["missing"]) for row in apart["models"]] == [("depot", "lab/net", 1)]
    first = run(berth, "berth", "sync", "run", "in", "--wait")
    assert (first["state"], first["bytes_transferred"]) == ("succeeded", size)
    assert [(item["tag"], item["digest"]) for item in first["items"]] == [("1.0.0", digest)]
    again = run(berth, "berth", "sync", "run", "in", "--wait")
    assert (again["state"], again["bytes_transferred"]) == ("succeeded", 0)
    in_step = run(berth, "berth", "sync", "drift", "in", "--refresh", "--exit-code")
    assert ([rule["state"] for rule in in_step["rules"]], in_step["versions"]) == (["in_step"], [])

    # Between two registries that are not ours.
    run(berth, "berth", "sync", "rule", "add", "over", "--source", "hub", "--target", "harbour", "--project", "lab",
        "--target-project", "copies")  # fmt: skip
    over = run(berth, "berth", "sync", "run", "over", "--wait")
    assert (over["bytes_transferred"], inspect(harbour, "copies/net", "1.0.0")) == (size, digest)

    # Home: what is admitted goes there by itself, and comes back when it is denied.
    run(berth, "berth", "project", "set", "lab", "--home", "harbour")
    second, _ = make_version(tmp_path / "newer", "1.1.0")
    skopeo(
        "copy", "--quiet", "--dest-tls-verify=false", f"oci:{tmp_path / 'newer'}:1.1.0", f"docker://{hub}/lab/net:1.1.0"
    )
    run(berth, "berth", "sync", "run", "in", "--wait")

    def places() -> list[tuple[str, str]]:
        return [(p["registry"], p["state"]) for p in run(berth, "xumi", "where", "lab/net:1.1.0")["placements"]]

    poll(lambda: places() == [("harbour", "published")], what="1.1.0 is published")
    assert inspect(harbour, "lab/net", "1.1.0") == second
    run(berth, "xumi", "revoke", "lab/net:1.1.0")
    poll(lambda: places() == [("harbour", "withdrawn")], what="1.1.0 is withdrawn")
    assert inspect(harbour, "lab/net", "1.1.0") is None


def test_a_killed_worker_costs_no_more_than_what_was_in_flight(
    berth_factory: BerthFactory, two: tuple[str, str], tmp_path: Path
) -> None:
    hub, harbour = two
    berth = berth_factory().start()
    digest, size = make_version(tmp_path / "layout", "1.0.0", layers=30, size=100_000)
    skopeo(
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        f"oci:{tmp_path / 'layout'}:1.0.0",
        f"docker://{hub}/lab/net:1.0.0",
    )
    run(berth, "berth", "registry", "add", "hub", "--kind", "distribution", "--url", f"http://{hub}")
    run(berth, "berth", "registry", "add", "harbour", "--kind", "distribution", "--url", f"http://{harbour}")
    rule = ("--source", "hub", "--target", "harbour", "--project", "lab", "--bandwidth", "400000", "--parallel", "3")
    run(berth, "berth", "sync", "rule", "add", "over", *rule)
    number = run(berth, "berth", "sync", "run", "over")["id"]

    def status() -> Any:
        return run(berth, "berth", "sync", "status", "--run", str(number))

    poll(lambda: status()["bytes_transferred"] > 500_000, what="some blobs have arrived")
    os.kill(berth.children["worker"], signal.SIGKILL)
    assert inspect(harbour, "lab/net", "1.0.0") is None
    ended = poll(lambda: (now := status())["state"] != "running" and now, what="the run goes on", seconds=150)
    assert (ended["state"], inspect(harbour, "lab/net", "1.0.0")) == ("succeeded", digest)
    # What was whole when the worker died was written down or found at the target: never sent twice.
    assert size - 3 * 101_000 <= ended["bytes_transferred"] <= size
