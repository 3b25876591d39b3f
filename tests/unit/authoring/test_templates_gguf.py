"""The GGUF template with a real llama.cpp: its image answers what the library answers, and follows the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from berth.authoring import detect, detect_draft, templates
from berth.oci.reference import ModelName
from tests.unit.authoring import tiny_gguf
from tests.unit.authoring.detect_support import python
from tests.unit.authoring.template_containers import Containers, installed
from tests.unit.authoring.template_containers import containers as containers
from tests.unit.authoring.template_images import image_of, on_tiny_base, started
from tests.unit.xumi.serving import run_to_end

MODEL = ModelName.parse("acme/talk")
ASKED = {"prompt": "the ship sails to", "max_tokens": 16, "temperature": 0}
# Straight to the library: no template, no manifest, no container.
ASK = """
import json, sys
import xllamacpp
options = xllamacpp.CommonParams()
options.model.path = sys.argv[1]
options.cpuparams.n_threads = 1
server = xllamacpp.Server(options)
prompt, rest = sys.argv[2], {"max_tokens": 16, "temperature": 0}
if sys.argv[3] == "chat":
    answer = server.handle_chat_completions({"messages": [{"role": "user", "content": prompt}], **rest})
    print(json.dumps(answer["choices"][0]["message"]["content"]))
else:
    print(json.dumps(server.handle_completions({"prompt": prompt, **rest})["choices"][0]["text"]))
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pins = tmp_path_factory.mktemp("pins") / "requirements.txt"
    pins.write_text(templates.texts(MODEL, "gguf")["requirements.txt"])
    return installed(tmp_path_factory.mktemp("llama"), pins, peer="xllamacpp")


def said(llama: Path, model: Path, way: str = "plain") -> str:
    text: str = json.loads(python(llama, ASK, model, str(ASKED["prompt"]), way))
    return text


def project(root: Path) -> Path:
    templates.write(MODEL, "gguf", root)
    return root


def test_the_image_answers_what_llama_cpp_answers_and_other_weights_answer_otherwise(
    containers: Containers, llama: Path, tmp_path: Path
) -> None:
    root = project(tmp_path / "talk")
    answers = []
    for seed in (1, 2):
        model = tiny_gguf.write(root / "weights" / "m.gguf", seed=seed)
        expected = said(llama, model)
        assert len(expected.split()) > 5
        containers.lock_and_build(root, *(["--bundle"] if seed == 2 else []))
        assert containers.invoke("acme/talk:0.1.0", **ASKED) == {"text": expected}
        answers.append(expected)
    assert answers[0] != answers[1]
    # The weights are inside the bundled image: it answers without a network and without the folder.
    shutil.rmtree(root)
    assert containers.invoke("acme/talk:0.1.0", "--bundle", **ASKED) == {"text": answers[1]}


def test_a_chat_template_in_the_file_is_used(llama: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    model = tiny_gguf.write(root / "m.gguf", seed=3, chat=True)
    templates.write_files(detect_draft.draft(MODEL, detect.look(root)).files, root)
    on_tiny_base(root)
    with started(root, tmp_path, llama) as served:
        status, answer = served.call("/invoke", ASKED)
    assert (status, answer) == (200, {"text": said(llama, model, "chat")})
    assert answer["text"] != said(llama, model)


def test_a_prompt_longer_than_the_context_is_the_callers_mistake(llama: Path, tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    tiny_gguf.write(root / "weights" / "m.gguf", seed=1)
    on_tiny_base(root)
    with started(root, tmp_path, llama) as served:
        status, problem = served.call("/invoke", {"prompt": "tide " * tiny_gguf.CONTEXT})
        assert status == 422
        assert "exceeds the available context size (256 tokens)" in json.dumps(problem)
        assert served.call("/invoke", {"prompt": "tide", "max_tokens": 0})[0] == 422
        assert served.call("/invoke", ASKED)[0] == 200


def test_a_file_that_is_no_model_ends_the_start(llama: Path, tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    whole = tiny_gguf.write(tmp_path / "whole.gguf", seed=1).read_bytes()
    (root / "weights" / "m.gguf").write_bytes(whole[: len(whole) // 2])
    on_tiny_base(root)
    folder, own = image_of(root, tmp_path, llama)
    code, log = run_to_end(folder, **own)
    assert code == 4
    assert "m.gguf" in log
    assert "Failed to init server" in log
