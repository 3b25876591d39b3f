"""The code of the templates whose packages take gigabytes, fast: tried against doubles of the same interfaces.

What the doubles answer is worked out here from their inputs, so that a field lost on the way shows. The real packages
in real containers are slow: test_templates_torch and test_templates_tensorflow.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.authoring import detect, detect_draft, templates
from berth.oci.reference import ModelName
from tests.unit.authoring.template_images import on_tiny_base, started
from tests.unit.authoring.test_detect import small_safetensors

MODEL = ModelName.parse("acme/talk")


def project(tmp_path: Path, template: str) -> Path:
    root = tmp_path / "project"
    templates.write(MODEL, template, root)
    on_tiny_base(root)
    return root


TORCH = """
import numpy
from contextlib import nullcontext as inference_mode
class Tensor:
    def __init__(self, array): self.array = array
    def to(self, device): assert device == "cpu"; return self
    def float(self): return self
    cpu = float
    def numpy(self): return self.array.astype(numpy.float32)
def from_numpy(array): return Tensor(array)
class cuda:
    def is_available(): return False
class Network:
    state = {}
    def load_state_dict(self, state): self.state = state
    def to(self, device): return self
    def eval(self): return self
    def __call__(self, x): return Tensor(x.array * self.state["factor"])
class jit:
    def load(path, map_location):
        found = Network(); found.state = {"factor": len(open(path, "rb").read())}; return found
def load(path, map_location, weights_only):
    assert weights_only; return {"factor": 3}
"""


@pytest.fixture
def doubles(tmp_path: Path) -> Path:
    pytest.importorskip("numpy")
    folder = tmp_path / "doubles"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(TORCH)
    (folder / "torch" / "nn.py").write_text("from torch import Network as Sequential\nModule = Sequential\n")
    (folder / "safetensors").mkdir()
    (folder / "safetensors" / "__init__.py").write_text("")
    (folder / "safetensors" / "torch.py").write_text("def load_file(path): return {'factor': 2}\n")
    (folder / "transformers.py").write_text(
        "def pipeline(task, model, trust_remote_code):\n"
        "    import os\n"
        "    assert not trust_remote_code and os.path.isfile(model + '/config.json')\n"
        "    return lambda given, **options: [{'task': task, 'given': given, **options}]\n"
    )
    (folder / "tensorflow.py").write_text(
        "import numpy\n"
        "constant = numpy.asarray\n"
        "class Answer(numpy.ndarray):\n"
        "    def numpy(self): return numpy.asarray(self)\n"
        "class saved_model:\n"
        "    def load(path):\n"
        "        class Loaded:\n"
        "            signatures = {'serving_default': lambda features: {'output': (features + 1).view(Answer)}}\n"
        "        assert open(path + '/saved_model.pb')\n"
        "        return Loaded\n"
    )
    return folder


@pytest.mark.parametrize(("name", "factor"), [("m.safetensors", 2), ("m.pt", 3)])
def test_pytorch_runs_the_network_with_its_weights(tmp_path: Path, doubles: Path, name: str, factor: int) -> None:
    root = project(tmp_path, "pytorch")
    (root / "network.py").write_text("from torch.nn import Sequential\ndef build():\n    return Sequential()\n")
    text = (root / "xumi.yaml").read_text().replace("*.safetensors", f"*{Path(name).suffix}")
    (root / "xumi.yaml").write_text(text)
    (root / "weights" / name).write_bytes(b"weights")
    with started(root, tmp_path, doubles) as model:
        assert model.call("/invoke", {"features": [[1.0, 2.0]]}) == (200, {"output": [[1.0 * factor, 2.0 * factor]]})


def test_a_torchscript_file_runs_by_itself(tmp_path: Path, doubles: Path) -> None:
    root = project(tmp_path, "pytorch")
    (root / "serve.py").write_text((root / "serve.py").read_text().replace("SCRIPTED = False", "SCRIPTED = True"))
    (root / "xumi.yaml").write_text((root / "xumi.yaml").read_text().replace("*.safetensors", "*.pt"))
    (root / "weights" / "m.pt").write_bytes(b"12345")
    with started(root, tmp_path, doubles) as model:
        assert model.call("/invoke", {"features": [[2.0]]}) == (200, {"output": [[10.0]]})


def test_transformers_runs_the_pipeline_of_the_task(tmp_path: Path, doubles: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "model.safetensors").write_bytes(small_safetensors())
    (root / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    templates.write_files(detect_draft.draft(MODEL, detect.look(root)).files, root)
    on_tiny_base(root)
    with started(root, tmp_path, doubles) as model:
        status, answer = model.call("/invoke", {"text": "Once", "max_new_tokens": 5})
        assert (status, answer) == (
            200,
            {"result": [{"task": "text-generation", "given": "Once", "max_new_tokens": 5}]},
        )


def test_a_saved_model_runs_its_serving_signature(tmp_path: Path, doubles: Path) -> None:
    root = project(tmp_path, "savedmodel")
    (root / "weights" / "saved_model.pb").write_bytes(b"x")
    with started(root, tmp_path, doubles) as model:
        assert model.call("/invoke", {"features": [[1.0]]}) == (200, {"output": [[2.0]]})
