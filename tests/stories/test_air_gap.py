"""A version crosses an air gap as one file: read by skopeo, judged anew on the other side, never sent twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stories.images import DEBIAN
from tests.stories.test_stock_clients import Site
from tests.support.advisories import AdvisoryRegistry
from tests.support.advisories import advisory_registry as advisory_registry
from tests.support.processes import factory, needs

WEIGHTS = hashlib.shake_256(b"weights").digest(3_000_000)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, advisory_registry: AdvisoryRegistry) -> Iterator[tuple[Site, Site]]:
    """Two services that never speak to each other; the second trusts the key of the first."""
    env = {"BERTH_TRIVY_DB_REPOSITORY": advisory_registry.reference}
    with factory(tmp_path_factory.mktemp("gap")) as make:
        here = Site(make(env=env).start(), tmp_path_factory.mktemp("here"))
        yield here, Site(make(env=env).start(), tmp_path_factory.mktemp("there"))


def answer(site: Site, *words: str, user: str = "admin", status: int = 0) -> Any:
    return json.loads(site.run("berth", *words, "-o", "json", user=user, status=status).stdout)


def skopeo(*words: str) -> str:
    done = subprocess.run([needs("skopeo"), *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_across_an_air_gap(sites: tuple[Site, Site], tmp_path: Path) -> None:
    here, there = sites
    digest = here.push({**DEBIAN, "opt/weights.bin": WEIGHTS}, "ml/plain:1.0.0")
    file = tmp_path / "plain.tar"

    # In quarantine it leaves with nobody who may not read that, and the refusal says why.
    refused = here.run("berth", "export", "ml/plain:1.0.0", "-f", str(file), user="rae", status=None)
    assert refused.returncode == 1
    assert "not admitted" in refused.stderr
    assert not file.exists()
    here.judged("ml/plain:1.0.0")
    here.admit("ml/plain:1.0.0")
    here.run("berth", "alias", "set", "ml/plain", "production", "1.0.0")

    out = answer(here, "export", "ml/plain:production", "-f", str(file), user="rae")
    assert out["size"] == file.stat().st_size == out["bytes_transferred"]
    again = tmp_path / "again.tar"
    answer(here, "export", "ml/plain:production", "-f", str(again), user="rae")
    assert again.read_bytes() == file.read_bytes()

    # Other programs read it too.
    skopeo("copy", "--quiet", f"oci-archive:{file}:ml/plain:1.0.0", f"dir:{tmp_path / 'read'}")
    assert "sha256:" + hashlib.sha256((tmp_path / "read/manifest.json").read_bytes()).hexdigest() == digest

    # On the other side it is scanned and judged anew; the signature counts once its key is trusted there.
    shutil.copy(here.home / "key.pub", there.home / "key.pub")
    there.run("berth", "key", "trust", "release", "--project", "ml", "--key", str(there.home / "key.pub"), user="max")
    planned = answer(there, "import", str(file), "--dry-run", user="dev")
    assert [(item["name"], item["action"], item["aliases"]) for item in planned["items"]] == [
        ("ml/plain:1.0.0", "import", ["production"])
    ]
    assert there.run("xumi", "explain", "ml/plain:1.0.0", status=None).returncode != 0
    done = answer(there, "import", str(file), user="dev")
    assert done["bytes_transferred"] == planned["bytes_missing"] > len(WEIGHTS)
    assert there.skopeo("rae", "copy", "docker://ml/plain:1.0.0", f"dir:{tmp_path / 'no'}").returncode != 0
    assert [reason["code"] for reason in there.judged("ml/plain:1.0.0")["reasons"]] == ["approval.missing"]
    there.run("xumi", "approve", "ml/plain:1.0.0", user="rita")
    pulled = there.skopeo("rae", "inspect", "docker://ml/plain:1.0.0")
    assert json.loads(pulled.stdout)["Digest"] == digest

    # The same file again moves nothing.
    once_more = answer(there, "import", str(file), user="dev")
    assert ([item["action"] for item in once_more["items"]], once_more["bytes_transferred"]) == (["present"], 0)


@pytest.mark.slow
def test_unchanged_weights_do_not_cross_twice(sites: tuple[Site, Site], tmp_path: Path) -> None:
    here, there = sites
    base = here.home / "large"
    first = _layered(here, base, "1.0.0", b"code of 1.0.0")
    file, delta = tmp_path / "first.tar", tmp_path / "delta.tar"
    answer(here, "export", "ml/large:1.0.0", "-f", str(file))
    assert answer(there, "import", str(file), user="dev")["bytes_transferred"] > len(WEIGHTS)
    second = _layered(here, base, "1.1.0", b"code of 1.1.0")
    assert first != second

    out = answer(here, "export", "ml/large:1.1.0", "-f", str(delta), "--since", str(file))
    assert (out["blobs_left_out"], out["bytes_left_out"]) == (1, len(WEIGHTS))
    assert delta.stat().st_size < 100_000
    # Where the first version is not, its weights are missed before anything is sent.
    there.run("berth", "project", "create", "empty", "--policy", "open")
    missed = there.run("berth", "import", str(delta), "--project", "empty", status=None)
    assert missed.returncode != 0
    assert "leaves out 1 blobs" in missed.stderr
    done = answer(there, "import", str(delta), user="dev")
    assert ([item["action"] for item in done["items"]], done["bytes_transferred"] < 5_000) == (["import"], True)
    with_quarantine = there.skopeo("admin", "inspect", "--raw", "docker://ml/large:1.1.0")
    assert "sha256:" + hashlib.sha256(with_quarantine.stdout.encode()).hexdigest() == second


def _layered(site: Site, folder: Path, version: str, code: bytes) -> str:
    """An image whose large layer never changes, pushed by skopeo byte for byte; its digest."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{name}", "size": len(data)}

    layers = [put(WEIGHTS, "layer.v1.tar"), put(code, "layer.v1.tar")]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [x["digest"] for x in layers]},
        }
    )
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(config.encode(), "config.v1+json"),
            "layers": layers,
        }
    ).encode()
    manifest = put(body, "manifest.v1+json") | {"annotations": {"org.opencontainers.image.ref.name": "image"}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    done = site.skopeo("dev", "copy", "--preserve-digests", f"oci:{folder}:image", f"docker://ml/large:{version}")
    assert done.returncode == 0, done.stderr
    return str(manifest["digest"])


@pytest.mark.slow
def test_an_export_that_was_killed_goes_on(sites: tuple[Site, Site], tmp_path: Path) -> None:
    here, _ = sites
    _layered(here, here.home / "larger", "1.2.0", b"code of 1.2.0")
    whole = tmp_path / "whole.tar"
    plan = answer(here, "export", "ml/large:1.2.0", "-f", str(whole))
    broken = tmp_path / "broken.tar"
    part = tmp_path / f".broken.tar.{plan['etag'][:16]}.part"
    part.write_bytes(whole.read_bytes()[:1_000_000])
    resumed = answer(here, "export", "ml/large:1.2.0", "-f", str(broken))
    assert resumed["bytes_transferred"] == whole.stat().st_size - 1_000_000
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["broken.tar", "whole.tar"]
