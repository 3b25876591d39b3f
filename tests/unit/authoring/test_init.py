"""`xumi init` without a template: a manifest that says what was found and what is guessed, and replaces nothing."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.authoring import detect, detect_draft, manifest, project, templates
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from berth.oci.reference import ModelName
from tests.support.weight_files import onnx_file
from tests.unit.authoring.template_images import on_tiny_base, started
from tests.unit.authoring.test_detect import HUGGING_FACE, small_gguf, small_safetensors, zipped
from tests.unit.authoring.test_onnx import magika as magika

MODEL = ModelName.parse("acme/thing")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def xumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run("xumi", COMMANDS, [str(a) for a in arguments])
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


def init(root: Path, **files: bytes | str) -> manifest.Manifest:
    """Writes the draft for a folder and checks that it could be built."""
    draft = detect_draft.draft(MODEL, detect.look(root))
    templates.write_files(draft.files, root)
    found = manifest.load(root).manifest
    assert project.check_entry(root, found) == []
    assert project.collect(root, found).warnings == ()
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def test_an_onnx_file_gives_the_interface(root: Path) -> None:
    (root / "m.onnx").write_bytes(onnx_file())
    found = init(root)
    (value,) = found.interface.inputs
    assert (value.name, value.type, value.dtype, value.shape) == ("x", "tensor", "float32", ["batch", 4])
    assert value.description == "X in the graph."
    assert [c.model_dump(include={"root", "files", "format"}) for c in found.checkpoints] == [
        {"root": ".", "files": ["m.onnx"], "format": "onnx"}
    ]
    assert found.entry.python == "serve:OnnxModel"


def test_weights_in_one_folder_keep_it_as_root(root: Path) -> None:
    (root / "exported").mkdir()
    (root / "exported" / "m[1].gguf").write_bytes(small_gguf())
    found = init(root)
    assert found.checkpoints[0].root == "exported"
    assert [w.path for w in project.find_weights(root, found.checkpoints[0])] == ["m[1].gguf"]
    assert [v.name for v in found.interface.inputs] == ["prompt", "max_tokens", "temperature"]
    assert found.runtime.base == "docker.io/library/python:3.11-slim"
    assert found.hardware.minimum.cpu_features == ["avx2", "bmi2", "f16c", "fma"]


def test_of_several_formats_the_safest_is_served_and_the_others_stay_out(root: Path) -> None:
    (root / "m.gguf").write_bytes(small_gguf())
    (root / "m.safetensors").write_bytes(small_safetensors())
    found = init(root)
    assert [(c.format, c.files) for c in found.checkpoints] == [("safetensors", ["m.safetensors"])]
    assert "/m.gguf" in (root / ".xumiignore").read_text().splitlines()
    assert "m.gguf" not in [e.name for e in project.collect(root, found).code]


def test_a_torchscript_file_needs_no_network(root: Path) -> None:
    (root / "m.pt").write_bytes(zipped({"m/data.pkl": b"", "m/code/x.py": b""}))
    assert init(root).entry.python == "serve:TorchModel"
    assert "SCRIPTED = True" in (root / "serve.py").read_text()
    assert not (root / "network.py").exists()


def test_a_hugging_face_folder(root: Path) -> None:
    (root / "README.md").write_text(HUGGING_FACE)
    (root / "model.safetensors").write_bytes(small_safetensors())
    (root / "config.json").write_text('{"model_type": "bert"}')
    found = init(root)
    assert (found.license, found.tags, found.title) == ("Apache-2.0", ["sentiment", "bert"], "A *fine* model")
    assert found.entry.python == "serve:TransformersModel"
    assert found.checkpoints[0].files == ["config.json", "model.safetensors"]
    assert 'TASK = "text-classification"' in (root / "serve.py").read_text()


def test_a_licence_of_no_list_becomes_one_of_its_own(root: Path) -> None:
    (root / "README.md").write_text("---\nlicense: other\nlicense_name: Llama 3 Community\n---\n")
    (root / "m.onnx").write_bytes(onnx_file())
    assert init(root).license == "LicenseRef-Llama-3-Community"


SERVED = """
from typing import Literal
from xumi import Model
raise SystemExit("this file was imported")

class Sentiment(Model):
    def predict(self, text: str, n: int = 3, mode: Literal["fast", "good"] = "fast") -> str:
        return text
"""


def test_hints_of_a_class_in_the_folder_give_the_interface_and_nothing_is_imported(root: Path) -> None:
    (root / "app.py").write_text(SERVED)
    (root / "requirements.txt").write_text("numpy==2.4.6\n")
    found = init(root)
    assert found.entry.python == "app:Sentiment"
    assert found.runtime.requirements == "requirements.txt"
    assert [(v.name, v.type, v.default) for v in found.interface.inputs] == [
        ("text", "text", None),
        ("n", "integer", 3),
        ("mode", "enum", "fast"),
    ]
    assert [(v.name, v.type) for v in found.interface.outputs] == [("output", "text")]
    assert not (root / "serve.py").exists()


COG = """
from cog import BasePredictor, Input
import torch

class Predictor(BasePredictor):
    @torch.inference_mode()
    def predict(
        self,
        prompt: str = Input(description="What to draw", default="a cat"),
        steps: int = Input(ge=1, le=50, default=20),
        size: str = Input(choices=["small", "large"]),
    ) -> str:
        ...
"""


def test_a_cog_project(root: Path) -> None:
    (root / "cog.yaml").write_text(
        'build:\n  gpu: true\n  python_version: "3.12"\n  python_packages: ["cog==0.9"]\n'
        "predict: predict.py:Predictor\n"
    )
    (root / "predict.py").write_text(COG)
    found = init(root)
    assert (found.entry.python, found.runtime.python) == ("predict:Predictor", "3.12")
    assert found.runtime.requirements == ["cog==0.9"]
    prompt, steps, size = found.interface.inputs
    assert (prompt.type, prompt.default, prompt.description) == ("text", "a cat", "What to draw")
    assert (steps.minimum, steps.maximum, steps.default) == (1, 50, 20)
    assert (size.type, size.values, size.required) == ("enum", ["small", "large"], True)
    assert found.hardware.recommended is not None


def test_memory_follows_the_weights(root: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}).encode()
    with (root / "m.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + 2**33)
    found = init(root)
    assert found.hardware.minimum.memory is not None
    assert 2**33 * 1.2 <= found.hardware.minimum.memory <= 2**33 * 1.2 + 3 * 2**30
    assert found.hardware.recommended is not None
    assert found.hardware.recommended.gpu is not None


def test_what_exists_is_left_as_it_is(root: Path) -> None:
    (root / "m.onnx").write_bytes(onnx_file())
    (root / "serve.py").write_text("class OnnxModel: ...\n")
    init(root)
    assert (root / "serve.py").read_text() == "class OnnxModel: ...\n"
    assert "serve.py is there already" in " ".join(detect_draft.draft(MODEL, detect.look(root)).guessed)


def test_the_command_says_what_it_found_and_guessed(xumi: Call, root: Path) -> None:
    (root / "m.onnx").write_bytes(onnx_file())
    (root / "broken.gguf").write_bytes(b"no")
    code, out, err = xumi("init", "acme/thing", "-d", root, "-o", "json")
    assert code == 0, err
    told = json.loads(out)
    assert told["template"] == "onnx"
    assert told["found"][0].startswith("onnx weights: 1 file in ., ")
    assert any(g.startswith("license: ") for g in told["guessed"])
    assert told["remarks"][0] == "broken.gguf was not read: it is cut short."
    text = (root / "xumi.yaml").read_text()
    assert "license: LicenseRef-Proprietary  # guessed" in text
    assert xumi("validate", root)[0] == 0
    code, _, err = xumi("init", "acme/thing", "-d", root)
    assert code == 1
    assert "xumi.yaml" in err
    assert (root / "xumi.yaml").read_text() == text


def test_an_empty_folder_starts_from_a_template(xumi: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = xumi("init", "acme/thing")
    assert code == 0
    assert "starting from the template onnx" in err
    assert (tmp_path / "thing" / "xumi.yaml").is_file()
    assert "Put the weights into" in err


def test_a_real_onnx_model_is_served_by_what_init_writes(magika: Path, root: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    numpy = pytest.importorskip("numpy")
    (root / "model.onnx").write_bytes(magika.read_bytes())
    found = init(root)
    session = onnxruntime.InferenceSession(str(magika), providers=["CPUExecutionProvider"])
    ((given, said),) = zip(session.get_inputs(), found.interface.inputs, strict=True)
    assert said.type == "tensor"
    assert (f"tensor({said.dtype})", len(said.shape), said.shape[1]) == (given.type, len(given.shape), given.shape[1])
    on_tiny_base(root)
    rows = [[n % 256 for n in range(2048)]]
    with started(root, tmp_path) as model:
        status, answer = model.call("/invoke", {said.name: rows})
    assert status == 200, answer
    expected = session.run(None, {given.name: numpy.array(rows, dtype=numpy.int32)})[0]
    (values,) = answer.values()
    assert numpy.allclose(numpy.array(values, dtype=numpy.float32), expected)


WORDS = st.text(max_size=60)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(title=WORDS, licence=WORDS, tags=st.lists(WORDS, max_size=4), description=WORDS, author=WORDS)
def test_whatever_a_card_says_the_draft_is_valid(
    root: Path, title: str, licence: str, tags: list[str], description: str, author: str
) -> None:
    card = {"package": {"name": title, "description": description, "license": licence, "authors": [author]}}
    (root / "Kitfile").write_text(json.dumps(card), encoding="utf-8", errors="surrogatepass")
    (root / "README.md").write_text(
        f"---\ntags: {json.dumps(tags)}\n---\n# {title}\n\n{description}\n", encoding="utf-8", errors="surrogatepass"
    )
    (root / "m.onnx").write_bytes(onnx_file())
    manifest.parse(detect_draft.draft(MODEL, detect.look(root)).files["xumi.yaml"])


@settings(max_examples=80, deadline=None)
@given(
    names=st.lists(st.text(max_size=80), max_size=6),
    shape=st.lists(st.one_of(st.none(), st.integers(), WORDS), max_size=20),
)
def test_whatever_a_graph_names_its_ports_the_draft_is_valid(names: list[str], shape: list[object]) -> None:
    ports = tuple(detect.detect_onnx.Port(n, "float32", tuple(shape)) for n in names)  # type: ignore[arg-type]
    facts = detect.detect_onnx.Onnx(ports, ports, 8, 17, "x\ny", ())
    weights = detect.Weights("onnx", ".", ("m.onnx",), 10, facts)
    seen = detect.Found(Path("nowhere"), (weights,), (), None, None, ())
    made = manifest.parse(detect_draft.draft(MODEL, seen).files["xumi.yaml"]).manifest
    if names:
        assert len(made.interface.inputs) == len(names)
