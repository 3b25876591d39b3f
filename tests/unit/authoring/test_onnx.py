"""A real ONNX model (the file-type detector of the PyPI wheel `magika`), from template to a running server."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from berth.authoring import templates
from berth.authoring.build import build
from berth.authoring.packing import open_layer
from berth.authoring.repository import LocalRepository
from berth.authoring.unpack import unpack
from berth.oci import manifest as manifests
from berth.oci.reference import ModelName
from tests.unit.authoring.conftest import make_base
from tests.unit.xumi.serving import served


@pytest.fixture(scope="session")
def magika(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file out of the wheel; fetched by the ordinary client."""
    folder = tmp_path_factory.mktemp("magika")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "magika"]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip("no package index at hand that has the wheel magika")
    with zipfile.ZipFile(next(folder.glob("magika-*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith("model.onnx"))
        (folder / "model.onnx").write_bytes(wheel.read(name))
    return folder / "model.onnx"


def test_a_real_model_is_built_and_answers_like_onnxruntime_itself(magika: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    numpy = pytest.importorskip("numpy")
    root = tmp_path / "project"
    templates.write(ModelName.parse("acme/file-type"), "onnx", root)
    make_base(tmp_path / "base")
    text = (root / "xumi.yaml").read_text()
    for old, new in (
        ("base: docker.io/library/python:3.11-slim", "base: oci-layout:../base"),
        ("  requirements: requirements.txt\n", ""),
        (
            "dtype: float32\n      shape: [batch, null]\n      description",
            "dtype: int32\n      shape: [batch, 2048]\n      description",
        ),
    ):
        assert old in text
        text = text.replace(old, new)
    (root / "xumi.yaml").write_text(text)
    (root / "weights" / "model.onnx").write_bytes(magika.read_bytes())

    repository = LocalRepository(tmp_path / "home")
    built = build(root, repository)
    unpack(built.digest, tmp_path / "pulled", repository)
    assert (tmp_path / "pulled" / "weights" / "main" / "model.onnx").read_bytes() == magika.read_bytes()

    # What the container would have under /opt comes from the layers, so that the build itself is tested.
    image = manifests.parse(repository.manifest(manifests.parse(repository.manifest(built.digest)).manifests[0].digest))
    for layer in image.layers:
        if layer.annotations.get("io.xumi.layer") in ("manifest", "code", "runtime"):
            with (
                repository.open_blob(layer.digest) as blob,
                tarfile.open(fileobj=open_layer(blob), mode="r|") as archive,
            ):
                archive.extractall(tmp_path / "rootfs", filter="data")
    opt = tmp_path / "rootfs" / "opt"
    rows = [[random.Random(n).randrange(256) for _ in range(2048)] for n in range(2)]
    with served(
        opt / "xumi",
        XUMI_CODE=str(opt / "model"),
        PYTHONPATH=str(opt / "xumi" / "runtime"),
        XUMI_WEIGHTS_DIR=str(tmp_path / "pulled" / "weights"),
    ) as model:
        status, answer = model.call("/invoke", {"features": rows})
        assert status == 200, answer
        assert model.call("/xumi")[1]["name"] == "acme/file-type"
    session = onnxruntime.InferenceSession(str(magika), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: numpy.array(rows, dtype=numpy.int32)})[0]
    assert numpy.allclose(numpy.array(answer["output"], dtype=numpy.float32), expected)
    assert json.dumps(answer)
