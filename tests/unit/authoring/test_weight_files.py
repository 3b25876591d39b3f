"""Weight files of the real libraries: what a header says here is what the library itself says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import safetensors
import safetensors.numpy
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.authoring import detect, detect_tensors
from berth.authoring.detect_limits import Malformed
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from tests.support import weight_files
from tests.unit.authoring.template_images import on_tiny_base

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
PLAIN = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32")
SLOW_FOLDER = [HealthCheck.function_scoped_fixture]


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW_FOLDER)
@given(
    tensors=st.dictionaries(st.text(max_size=20).filter(lambda n: n != "__metadata__"),
                            st.tuples(st.sampled_from([*PLAIN, "float64", "complex64"]), SHAPES), max_size=6),
    # safetensors 0.8 writes no JSON for a file with neither tensors nor notes.
    notes=st.none() | st.dictionaries(st.text(max_size=8), st.text(max_size=8), min_size=1, max_size=3),
)  # fmt: skip
def test_safetensors_are_counted_as_the_library_counts_them(
    tmp_path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], notes: dict[str, str] | None
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(
        safetensors.numpy.save({n: numpy.zeros(shape, kind) for n, (kind, shape) in tensors.items()}, notes)
    )
    found = detect_tensors.read_safetensors(path)
    with safetensors.safe_open(path, "numpy") as opened:
        slices = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118 - it is no dict
        assert found.tensors == len(slices)
        assert found.parameters == sum(math.prod(s.get_shape()) for s in slices)
        assert found.dtypes == tuple(sorted({s.get_dtype() for s in slices}))
        assert found.metadata == (opened.metadata() or {})


def test_the_table_of_ggml_types_is_the_librarys() -> None:
    theirs = {kind.value: (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGML_QUANT_SIZES}
    assert {**theirs, **detect_tensors.GGML_TYPES} == theirs
    # What its 0.19 knows; a newer library may know more.
    assert len(detect_tensors.GGML_TYPES) == 34


GGUF_KINDS = [gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "I8", "I32", "Q8_0", "Q4_0", "BF16", "Q5_1")]


def write_gguf(path: Path, tensors: list[tuple[gguf.GGMLQuantizationType, int, int]]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(77)
    for number, (kind, rows, blocks) in enumerate(tensors):
        columns = blocks * 32
        if kind.name in ("I8", "I32"):
            writer.add_tensor(f"t{number}", numpy.ones((rows, columns), kind.name.lower().replace("i", "int")))
        else:
            data = gguf.quants.quantize(numpy.ones((rows, columns), numpy.float32), kind)
            writer.add_tensor(f"t{number}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_FOLDER)
@given(tensors=st.lists(st.tuples(st.sampled_from(GGUF_KINDS), st.integers(1, 3), st.integers(1, 3)), max_size=4))
def test_gguf_is_counted_as_the_library_counts_it(tmp_path: Path, tensors: list[Any]) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, tensors)
    found = detect_tensors.read_gguf(path)
    theirs = gguf.GGUFReader(path).tensors
    assert (found.version, found.tensors, found.context_length) == (3, len(theirs), 77)
    assert found.parameters == sum(int(t.n_elements) for t in theirs)
    assert found.dtypes == tuple(sorted({t.tensor_type.name for t in theirs}))


@pytest.mark.parametrize("name", ["m.safetensors", "m.gguf"])
def test_half_a_download_is_no_model(tmp_path: Path, name: str) -> None:
    whole = weight_files.WEIGHTS[name]
    read = detect_tensors.read_gguf if name.endswith("gguf") else detect_tensors.read_safetensors
    path = tmp_path / name
    path.write_bytes(whole)
    read(path)
    # The library pads the end of a GGUF file to its alignment.
    padding = 32 if name.endswith("gguf") else 0
    for length in range(len(whole) - padding):
        path.write_bytes(whole[:length])
        with pytest.raises(Malformed):
            read(path)
    path.write_bytes(whole[: len(whole) // 2])
    found = detect.look(tmp_path)
    assert found.weights == ()
    assert found.remarks[0].startswith(f"{name} was not read: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m.safetensors", "# The largest file: 17 numbers of F16, I64; tensors: 2."),
        ("m.gguf", "# GGUF: tiny, llama, 2048 tokens of context, 96 numbers of F32, Q8_0."),
    ],
)
def test_a_real_file_becomes_a_checkpoint_of_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))
    root = tmp_path / "model"
    root.mkdir()
    (root / name).write_bytes(weight_files.WEIGHTS[name])

    def xumi(*arguments: str | Path) -> Any:
        assert run("xumi", COMMANDS, [*map(str, arguments), "-o", "json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    xumi("init", "acme/real", "-d", root)
    assert said in (root / "xumi.yaml").read_text()
    on_tiny_base(root)
    assert xumi("validate", root)["weight_bytes"] == len(weight_files.WEIGHTS[name])
    xumi("build", root)
    ((file,),) = [c["files"] for c in xumi("show", "acme/real:0.1.0")["checkpoints"]]
    assert (file["path"], file["size"]) == (name, len(weight_files.WEIGHTS[name]))


def test_files_that_no_container_could_read_are_told_before_they_are_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.safetensors").write_bytes(weight_files.WEIGHTS["m.safetensors"])
    assert run("xumi", COMMANDS, ["init", "acme/real", "-d", str(tmp_path)]) == 0
    told = []
    for mode in (0o600, 0o644):
        (tmp_path / "m.safetensors").chmod(mode)
        capsys.readouterr()
        assert run("xumi", COMMANDS, ["validate", str(tmp_path)]) == 0
        told.append("m.safetensors: for the owner only" in capsys.readouterr().err)
    assert told == [True, False]
