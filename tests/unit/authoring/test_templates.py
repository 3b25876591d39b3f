"""What `xumi init` writes is valid and replaces nothing."""

from __future__ import annotations

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
        (tmp_path / "p" / checkpoint.root / "m.onnx").write_bytes(b"x")
    assert project.collect(tmp_path / "p", found).warnings == ()


def test_nothing_is_replaced_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text("mine")
    with pytest.raises(Conflict, match=r"serve\.py"):
        templates.write(MODEL, "onnx", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["serve.py"]
    templates.write(MODEL, "onnx", tmp_path, force=True)
    assert "OnnxModel" in (tmp_path / "serve.py").read_text()


def test_an_unknown_template_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        templates.write(MODEL, "nope", tmp_path)
    assert "onnx" in str(caught.value.hint)
