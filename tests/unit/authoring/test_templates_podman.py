"""The templates' own images, pinned packages and all, started by podman: the answer is the library's own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.authoring import detect, detect_draft, templates
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from berth.oci.reference import ModelName
from demo import base as demo_base
from demo.podman import Podman
from tests.support.processes import ROOT, needs
from tests.unit.authoring.test_onnx import magika as magika
from tests.unit.authoring.test_templates_sklearn import libraries as libraries
from tests.unit.authoring.test_templates_sklearn import trained

pytestmark = pytest.mark.slow


@pytest.fixture
def answer_of(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[[Path, str, str], object]]:
    """Builds a folder on a real Debian with Python, calls it in a container, and gives its outputs."""
    needs("podman")
    needs("runc")
    # podman wants a short path.
    podman = Podman(tmp_path_factory.mktemp("p"))
    if problem := podman.ready():
        pytest.skip(problem)
    cached = ROOT / ".demo" / "cache" / "base"
    try:
        made = demo_base.prepare(cached if (cached / "made-by.txt").is_file() else tmp_path / "base")[0]
    except demo_base.BaseUnavailableError as error:
        pytest.skip(f"no base image can be made here: {error}")
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CONTAINERS_CONF", podman.env["CONTAINERS_CONF"])

    def answer(root: Path, reference: str, given: str) -> object:
        assert run("xumi", COMMANDS, ["build", str(root), "--base", f"oci-layout:{made}"]) == 0, capsys.readouterr().err
        capsys.readouterr()
        called = ["invoke", reference, "--engine", shlex.join(podman.command), "-i", given, "--output", "json"]
        code = run("xumi", COMMANDS, called)
        done = capsys.readouterr()
        assert code == 0, done.err
        return json.loads(done.out)

    yield answer
    podman.clean()


def holds(told: object, wanted: object) -> bool:
    """Whether the outputs stand somewhere in what the command printed."""
    if told == wanted:
        return True
    inner = told.values() if isinstance(told, dict) else ()
    return any(holds(value, wanted) for value in inner)


def test_scikit_learn_in_its_container(
    answer_of: Callable[[Path, str, str], object], libraries: Path, tmp_path: Path
) -> None:
    for kind in ("forest", "dummy"):
        root = tmp_path / kind
        templates.write(ModelName.parse(f"acme/{kind}"), "sklearn", root)
        expected = trained(libraries, kind, root / "weights" / "model.joblib")
        told = answer_of(root, f"acme/{kind}:0.1.0", f"features={json.dumps(expected['rows'])}")
        assert holds(told, expected["predictions"]), told


def test_onnx_in_its_container(answer_of: Callable[[Path, str, str], object], magika: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    numpy = pytest.importorskip("numpy")
    root = tmp_path / "found"
    root.mkdir()
    (root / "model.onnx").write_bytes(magika.read_bytes())
    templates.write_files(detect_draft.draft(ModelName.parse("acme/found"), detect.look(root)).files, root)
    rows = [[n % 256 for n in range(2048)]]
    told = answer_of(root, "acme/found:0.1.0", f"bytes={json.dumps(rows)}")
    session = onnxruntime.InferenceSession(str(magika), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: numpy.array(rows, dtype=numpy.int32)})[0]
    while isinstance(told, dict):
        told = told.get("outputs") or told.get("target_label")
    assert numpy.allclose(numpy.array(told, dtype=numpy.float32), expected, atol=1e-6)
