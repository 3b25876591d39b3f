"""Is the demo true? Its parts are checked here on loopback; `make demo` itself runs in CI, and in `make test-full`."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench.peers import docker_registry
from berth.authoring.manifest import load
from demo import base
from demo.show import DemoFailedError, Story
from tests.support.processes import needs

ROOT = Path(__file__).resolve().parents[2]


def tar_of(path: Path, content: bytes) -> Path:
    with tarfile.open(path, "w") as out:
        member = tarfile.TarInfo("etc/os-release")
        member.size = len(content)
        out.addfile(member, io.BytesIO(content))
    return path


def test_the_base_is_an_image_whose_layer_unpacks_to_the_tar_it_was_made_of(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "base.tar", b"ID=debian\n")
    descriptor = base.write_layout(tar, tmp_path / "layout")
    blobs = tmp_path / "layout/blobs/sha256"
    manifest = json.loads((blobs / descriptor.digest.partition(":")[2]).read_bytes())
    layer = (blobs / manifest["layers"][0]["digest"].partition(":")[2]).read_bytes()
    config = json.loads((blobs / manifest["config"]["digest"].partition(":")[2]).read_bytes())
    assert gzip.decompress(layer) == tar.read_bytes()
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(tar.read_bytes()).hexdigest()}"]


def test_the_same_tar_gives_the_same_image(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "base.tar", b"ID=debian\n")
    assert base.write_layout(tar, tmp_path / "one").digest == base.write_layout(tar, tmp_path / "two").digest


def test_skopeo_reads_the_base(tmp_path: Path) -> None:
    skopeo = needs("skopeo")
    base.write_layout(tar_of(tmp_path / "base.tar", b"ID=debian\n"), tmp_path / "layout")
    said = subprocess.run(
        [skopeo, "inspect", "--config", f"oci:{tmp_path / 'layout'}:{base.REF_NAME}"], capture_output=True, check=True
    )
    assert json.loads(said.stdout)["os"] == "linux"


def test_a_plain_registry_takes_the_base_and_gives_it_back(tmp_path: Path) -> None:
    needs("docker-registry")
    skopeo = needs("skopeo")
    written = base.write_layout(tar_of(tmp_path / "base.tar", b"ID=debian\n"), tmp_path / "layout")
    with docker_registry(tmp_path / "registry") as peer:
        assert peer is not None
        there = f"docker://{peer.url.removeprefix('http://')}/base:debian"
        source = f"oci:{tmp_path / 'layout'}:{base.REF_NAME}"
        subprocess.run([skopeo, "copy", "--quiet", "--dest-tls-verify=false", source, there], check=True)
        said = subprocess.run(
            [skopeo, "inspect", "--tls-verify=false", "--format", "{{.Digest}}", there], capture_output=True, check=True
        )
    assert said.stdout.decode().strip() == written.digest


def test_the_models_manifest_is_valid_and_its_requirements_are_hashed() -> None:
    manifest = load(ROOT / "demo/model").manifest
    assert (manifest.name, manifest.version) == ("demo/file-type", "1.0.0")
    requirements = (ROOT / "demo/model/requirements.txt").read_text(encoding="utf-8")
    assert "onnxruntime==" in requirements
    assert requirements.count("--hash=sha256:") > requirements.count("==")
    assert "://" not in requirements


def test_a_command_that_ends_otherwise_than_promised_stops_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    fails = [sys.executable, "-c", "import sys; sys.exit('no')"]
    with pytest.raises(DemoFailedError, match="exit status 0 was expected, not 1"):
        Story().run(fails, env={})
    Story().run(fails, env={}, expect=1)
    with pytest.raises(DemoFailedError, match="a refusal was expected"):
        Story().run([sys.executable, "-c", "pass"], env={}, expect=None)
    assert "\x1b" not in capsys.readouterr().out, "no colours where there is no terminal"


def test_secrets_and_folders_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(shorten={"s3cret": "TOKEN"})
    story.run([sys.executable, "-c", "print('s3cret')"], env={})
    shown = capsys.readouterr().out
    assert "s3cret" not in shown
    assert "TOKEN" in shown


@pytest.mark.slow
def test_the_whole_demo_ends_well() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "demo.run"], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert "What was shown" in ran.stdout
