"""What `xumi init --template` writes is valid, tidy, and replaces nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from berth.authoring import manifest, project, templates
from berth.errors import Conflict, InvalidInput
from berth.oci.reference import ModelName

MODEL = ModelName.parse("acme/file-type")


@pytest.mark.parametrize("name", templates.names())
def test_a_template_is_a_valid_project(tmp_path: Path, name: str) -> None:
    templates.write(MODEL, name, tmp_path / "p", author='Ada "A." Łovelace')
    found = manifest.load(tmp_path / "p").manifest
    assert found.name == "acme/file-type"
    assert found.authors == ['Ada "A." Łovelace']
    assert project.check_entry(tmp_path / "p", found) == []
    for checkpoint in found.checkpoints:
        for pattern in checkpoint.files:
            (tmp_path / "p" / checkpoint.root / pattern.replace("**/*", "m").replace("*", "m")).write_bytes(b"x")
    assert project.collect(tmp_path / "p", found).warnings == ()


@pytest.mark.parametrize("name", templates.names())
def test_the_code_of_a_template_is_tidy_python_3_9(tmp_path: Path, name: str) -> None:
    templates.write(MODEL, name, tmp_path)
    assert list(tmp_path.glob("*.py"))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "E,F,I,W,B,S,RUF"]
    rules = ["--ignore", "S104,RUF001,RUF002,RUF003,B905", "--line-length", "120", "--target-version", "py39"]
    done = subprocess.run([*command, *rules, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    # `xumi` itself is found beside the code in an image.
    assert "{{" not in "".join(p.read_text() for p in tmp_path.iterdir() if p.is_file())


@pytest.mark.parametrize("name", templates.names())
def test_every_requirement_is_pinned(name: str) -> None:
    text = templates.texts(MODEL, name).get("requirements.txt", "")
    assert all("==" in line for line in text.splitlines() if line and not line.startswith("#"))


@pytest.mark.parametrize("name", templates.names())
def test_every_template_says_where_its_weights_go(name: str) -> None:
    text = templates.texts(MODEL, name)["README.md"]
    assert text.startswith("# acme/file-type\n")
    assert "## Weights" in text


def test_nothing_is_replaced_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text("mine")
    with pytest.raises(Conflict, match=r"serve\.py"):
        templates.write(MODEL, "onnx", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["serve.py"]
    templates.write(MODEL, "onnx", tmp_path, force=True)
    assert "OnnxModel" in (tmp_path / "serve.py").read_text()


def test_a_fresh_clone_keeps_its_readme(tmp_path: Path) -> None:
    for name in ("README.md", ".xumiignore"):
        (tmp_path / name).write_text("mine")
    written = templates.write(MODEL, "onnx", tmp_path)
    assert sorted(p.name for p in written) == ["requirements.txt", "serve.py", "xumi.yaml"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_an_unknown_template_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        templates.write(MODEL, "nope", tmp_path)
    assert "onnx" in str(caught.value.hint)
