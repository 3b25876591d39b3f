"""The PyTorch and transformers templates with a real PyTorch: what their containers answer, and what the library says.

The base image has Debian's PyTorch for CPUs, as a team's own base image would; everything else is as the templates pin
it. The library is asked in a container of the bare base, where nothing of ours is.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from berth.authoring import detect, detect_draft, templates
from berth.oci.reference import ModelName
from demo import base as demo_base
from tests.support.processes import note_peer
from tests.unit.authoring.template_containers import Containers, debian_with_torch, installed
from tests.unit.authoring.template_containers import containers as containers

pytestmark = pytest.mark.slow

ROWS = [[0.5, -1.0, 2.0, 0.25], [1.0, 1.5, -0.5, 3.0]]
NETWORK = """
import json, sys
import torch, safetensors.torch
sys.path.insert(0, "/project")
from network import build
torch.manual_seed(int(sys.argv[1]))
network = build().eval()
safetensors.torch.save_file(network.state_dict(), "/out/model.safetensors")
torch.jit.script(network).save("/out/model.pt")
with torch.inference_mode():
    print(json.dumps([torch.__version__, network(torch.tensor(json.loads(sys.argv[2]))).tolist()]))
"""
TEXT = "the ship sails to the harbour"
BERT = """
import json, sys
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
words = ["[PAD]", "[UNK]", "the", "ship", "sails", "to", "harbour"]
plain = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]")
torch.manual_seed(int(sys.argv[1]))
shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
labels = {"id2label": {0: "calm", 1: "rough", 2: "storm"}, "label2id": {"calm": 0, "rough": 1, "storm": 2}}
config = BertConfig(vocab_size=len(words), initializer_range=2.0, **shape, **labels)
model = BertForSequenceClassification(config).eval()
model.save_pretrained("/out")
tokenizer.save_pretrained("/out")
with torch.inference_mode():
    chances = model(**tokenizer(sys.argv[2], return_tensors="pt")).logits.softmax(-1)[0]
best = int(chances.argmax())
print(json.dumps([torch.__version__, {"label": model.config.id2label[best], "score": float(chances[best])}]))
"""


class Library:
    """PyTorch and packages for it, in containers of the bare base image."""

    def __init__(self, containers: Containers, base: Path, packages: Path) -> None:
        self.base, self._podman, self._packages = base, containers.podman, packages
        # podman makes a name of the path, which not every path can be.
        (self._podman.home / "base").symlink_to(base)
        pulled = subprocess.run(
            [*self._podman.command, "pull", "--quiet", f"oci:base:{demo_base.REF_NAME}"],
            cwd=self._podman.home, env={**os.environ, **self._podman.env}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert pulled.returncode == 0, pulled.stderr
        self._image = pulled.stdout.strip()

    def says(self, code: str, project: Path, *arguments: str) -> Any:
        """Runs code that writes weights and prints what the library makes of the arguments with them."""
        weights = project / "weights"
        weights.mkdir(parents=True, exist_ok=True)
        mounts = [f"--volume={project}:/project:ro", f"--volume={weights}:/out", f"--volume={self._packages}:/p:ro"]
        options = ["--rm", "--network=none", "--env=PYTHONPATH=/p", "--env=PYTHONDONTWRITEBYTECODE=1", *mounts]
        done = self._podman.call("run", *options, self._image, "python3", "-c", code, *arguments)
        assert done.returncode == 0, done.stderr
        version, answer = json.loads(done.stdout.strip().splitlines()[-1])
        note_peer("torch", f"torch-{version} of Debian")
        for path in weights.iterdir():
            # The libraries write some files for their owner only; xumi says so when they are mounted.
            path.chmod(0o644)
        return answer


@pytest.fixture
def library(containers: Containers, tmp_path: Path) -> Library:
    base = debian_with_torch(tmp_path)
    pins = tmp_path / "requirements.txt"
    pins.write_text(without_torch(templates.texts(ModelName.parse("acme/x"), "transformers")["requirements.txt"]))
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[demo_base.architecture()]
    target = ["--python-version=3.13", f"--python-platform={machine}-manylinux_2_40"]
    return Library(containers, base, installed(tmp_path / "packages", pins, peer="transformers", options=target))


def without_torch(requirements: str) -> str:
    return "".join(line for line in requirements.splitlines(keepends=True) if not line.startswith("torch=="))


def on_torch_base(root: Path) -> None:
    """What a person with a base image that has PyTorch changes."""
    (root / "requirements.txt").write_text(without_torch((root / "requirements.txt").read_text()))
    text = (root / "xumi.yaml").read_text()
    (root / "xumi.yaml").write_text(text.replace('python: "3.11"', 'python: "3.13"'))


def test_pytorch_answers_what_the_network_answers_and_other_weights_answer_otherwise(
    containers: Containers, library: Library, tmp_path: Path
) -> None:
    root = tmp_path / "net"
    templates.write(ModelName.parse("acme/net"), "pytorch", root)
    on_torch_base(root)
    answers = []
    for seed in ("1", "2"):
        expected = library.says(NETWORK, root, seed, json.dumps(ROWS))
        containers.lock_and_build(root, base=library.base)
        told = containers.invoke("acme/net:0.1.0", features=ROWS)["output"]
        assert told == [[pytest.approx(value, abs=1e-6) for value in row] for row in expected]
        answers.append(told)
    assert answers[0] != answers[1]


def test_torchscript_answers_what_the_network_answers(containers: Containers, library: Library, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    templates.write(ModelName.parse("acme/net"), "pytorch", trained)
    expected = library.says(NETWORK, trained, "3", json.dumps(ROWS))
    root = tmp_path / "found"
    root.mkdir()
    (trained / "weights" / "model.pt").rename(root / "model.pt")
    templates.write_files(detect_draft.draft(ModelName.parse("acme/found"), detect.look(root)).files, root)
    assert not (root / "network.py").exists()
    on_torch_base(root)
    containers.lock_and_build(root, base=library.base)
    told = containers.invoke("acme/found:0.1.0", features=ROWS)["output"]
    assert told == [[pytest.approx(value, abs=1e-6) for value in row] for row in expected]


def test_transformers_answers_what_the_model_answers_and_other_weights_answer_otherwise(
    containers: Containers, library: Library, tmp_path: Path
) -> None:
    answers = []
    root = tmp_path / "mood"
    templates.write(ModelName.parse("acme/mood"), "transformers", root)
    on_torch_base(root)
    for seed in ("1", "2"):
        expected = library.says(BERT, root, seed, TEXT)
        containers.lock_and_build(root, base=library.base)
        (told,) = containers.invoke("acme/mood:0.1.0", text=TEXT)["result"]
        assert told == {"label": expected["label"], "score": pytest.approx(expected["score"], abs=1e-5)}
        answers.append(told)
    assert answers[0] != answers[1]
