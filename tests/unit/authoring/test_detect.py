"""What `xumi init` sees in files that the real libraries wrote, and that nothing in a file can hurt it."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.authoring import detect, detect_archives, detect_cards, detect_onnx, detect_tensors
from berth.authoring.detect_limits import Malformed
from tests.support.weight_files import onnx_file
from tests.unit.authoring.detect_support import install, python

WRITE = """
import json, pickle, sys
from pathlib import Path
import gguf, joblib, numpy, onnx, safetensors.numpy
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

out = Path(sys.argv[1])
X, y = load_iris(return_X_y=True)
joblib.dump(RandomForestClassifier(n_estimators=5).fit(X, y), out / "forest.joblib")
joblib.dump(LogisticRegression(max_iter=500).fit(X, y), out / "small.joblib", compress=3)
with open(out / "pipe.pkl", "wb") as stream:
    pickle.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y), stream, protocol=2)
safetensors.numpy.save_file(
    {"w": numpy.zeros((3, 4), numpy.float16), "b": numpy.zeros(5, numpy.int64)}, out / "m.safetensors", {"format": "pt"}
)
writer = gguf.GGUFWriter(str(out / "m.gguf"), "llama")
writer.add_name("tiny")
writer.add_context_length(2048)
writer.add_license("mit")
writer.add_chat_template("{{ messages }}")
writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
writer.add_tensor("t", numpy.zeros((4, 8), numpy.float32))
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
weight = numpy_helper.from_array(numpy.zeros((4, 2), numpy.float32), "W")
graph = helper.make_graph(
    [helper.make_node("MatMul", ["X.in", "W"], ["Y"])], "g",
    [helper.make_tensor_value_info("X.in", TensorProto.FLOAT, ["batch", 4]),
     helper.make_tensor_value_info("W", TensorProto.FLOAT, [4, 2])],
    [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 2])], [weight],
)
model = helper.make_model(graph, producer_name="by hand", opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, out / "m.onnx")
big = onnx.load(out / "m.onnx")
onnx.save(big, out / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
"""


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    libraries = install(tmp_path_factory.mktemp("libraries"))
    folder = tmp_path_factory.mktemp("written")
    python(libraries, WRITE, folder)
    return folder


def take(written: Path, folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes((written / name).read_bytes())
    return folder


def test_safetensors_of_the_real_library(written: Path) -> None:
    found = detect_tensors.read_safetensors(written / "m.safetensors")
    assert (found.tensors, found.parameters, found.dtypes) == (2, 17, ("F16", "I64"))
    assert found.metadata == {"format": "pt"}


def test_gguf_of_the_real_library(written: Path) -> None:
    found = detect_tensors.read_gguf(written / "m.gguf")
    assert (found.version, found.tensors, found.context_length, found.chat) == (3, 1, 2048, True)
    assert [found.text(f"general.{k}") for k in ("architecture", "name", "license")] == ["llama", "tiny", "mit"]


def test_onnx_of_the_real_library(written: Path) -> None:
    found = detect_onnx.read(written / "m.onnx")
    assert found.inputs == (detect_onnx.Port("X.in", "float32", ("batch", 4)),)
    assert found.outputs == (detect_onnx.Port("Y", "float32", (None, 2)),)
    assert (found.opset, found.ir_version, found.producer) == (17, 8, "by hand")


def test_weights_beside_an_onnx_file_belong_to_it(written: Path, tmp_path: Path) -> None:
    (group,) = detect.look(take(written, tmp_path / "p", "big.onnx", "big.data")).weights
    assert group.files == ("big.data", "big.onnx")
    alone = detect.look(take(written, tmp_path / "q", "big.onnx"))
    assert alone.weights[0].files == ("big.onnx",)
    assert "'big.data', which is not there" in alone.remarks[0]


def test_a_pickle_says_what_it_is_without_being_loaded(written: Path) -> None:
    forest = detect_archives.read_pickle(written / "forest.joblib")
    assert (forest.library, forest.class_name) == ("sklearn", "RandomForestClassifier")
    assert forest.sklearn_version is not None
    pipe = detect_archives.read_pickle(written / "pipe.pkl")
    assert (pipe.library, pipe.class_name, pipe.sklearn_version) == ("sklearn", "Pipeline", forest.sklearn_version)


def test_a_folder_of_everything_is_sorted_by_how_safe_it_is_to_load(written: Path) -> None:
    found = detect.look(written)
    assert [w.format for w in found.weights] == ["safetensors", "gguf", "onnx", "pickle"]
    assert found.weights[3].files == ("forest.joblib", "pipe.pkl", "small.joblib")
    assert found.remarks == ()


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.pt", "pytorch_model.bin"])
def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "went-off"))
    root = tmp_path / "p"
    root.mkdir()
    (root / name).write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(root / "z.pt", "w") as archive:
        archive.writestr("z/data.pkl", pickle.dumps(Bomb()))
    detect.look(root)
    assert not (tmp_path / "went-off").exists()
    with pytest.raises(FileExistsError):
        # The twin: loading it would have.
        (tmp_path / "went-off").mkdir()
        pickle.loads((root / name).read_bytes())


def zipped(names: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("m.pt", zipped({"m/data.pkl": b"", "m/code/__torch__.py": b""}), "torchscript"),
        ("m.pt", zipped({"archive/data.pkl": b"", "archive/data/0": b""}), "pytorch"),
        ("pytorch_model.bin", zipped({"archive/data.pkl": b""}), "pytorch"),
        ("m.pth", pickle.dumps({}), "pytorch"),
        ("m.keras", zipped({"config.json": b"", "model.weights.h5": b""}), "keras"),
        ("m.pkl", pickle.dumps({}), "pickle"),
        ("saved_model.pb", b"", "savedmodel"),
    ],
)
def test_a_format_is_told_from_the_content(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(data)
    (found,) = detect.look(tmp_path).weights
    assert (found.format, found.files, found.size) == (kind, (name,), len(data))


@pytest.mark.parametrize(
    "name", ["x.safetensors", "x.gguf", "x.onnx", "x.pt", "x.pkl", "x.joblib", "MLmodel", "Kitfile"]
)
def test_a_file_that_is_not_what_its_name_says_is_a_remark(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00not at all\xff")
    found = detect.look(tmp_path)
    assert found.weights == ()
    assert found.cards == ()
    assert found.remarks[0].startswith(f"{name} was not read: ")


def test_pipes_and_links_to_nowhere_are_passed_by(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.onnx")
    (tmp_path / "y.gguf").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert detect.look(tmp_path).weights == ()


def test_links_to_files_count_as_in_the_hugging_face_cache(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    blob.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    root = tmp_path / "snapshot"
    root.mkdir()
    (root / "model.safetensors").symlink_to(blob)
    (root / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}')
    (root / "tokenizer.json").write_text("{}")
    (found,) = detect.look(root).weights
    assert found.library == "transformers"
    assert found.files == ("config.json", "model.safetensors", "tokenizer.json")


# --- what other tools' files say -----------------------------------------------------------------------------------

HUGGING_FACE = """---
license: apache-2.0
tags:
  - Sentiment
  - bert
library_name: transformers
pipeline_tag: text-classification
---

# A *fine* model

[![badge](x)](y)

Says how people feel.
It is often wrong.

## Training
"""


def test_a_hugging_face_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(HUGGING_FACE)
    card = detect_cards.read_readme(tmp_path / "README.md")
    assert card is not None
    assert (card.license, card.task, card.library) == ("apache-2.0", "text-classification", "transformers")
    assert card.tags == ("Sentiment", "bert")
    assert card.title == "A *fine* model"
    assert card.description == "Says how people feel. It is often wrong."


def test_a_kitfile_a_cog_yaml_and_an_mlmodel(tmp_path: Path) -> None:
    (tmp_path / "Kitfile").write_text(
        "manifestVersion: 1.0.0\npackage:\n  name: titanic\n  authors: [Ada]\n  license: MIT\n"
        "model:\n  path: ./m.onnx\n"
    )
    (tmp_path / "cog.yaml").write_text(
        'build:\n  gpu: true\n  python_version: "3.12"\n  python_packages: ["torch==2.0"]\n'
        'predict: "predict.py:Predictor"\n'
    )
    columns = json.dumps([{"type": "double", "name": "a"}, {"type": "double", "name": "b"}])
    (tmp_path / "MLmodel").write_text(
        f"flavors:\n  python_function:\n    python_version: 3.11.4\n  sklearn:\n    pickled_model: model.pkl\n"
        f"signature:\n  inputs: '{columns}'\n"
    )
    kit, cog, mlmodel = detect.look(tmp_path).cards
    assert (kit.title, kit.authors, kit.license) == ("titanic", ("Ada",), "MIT")
    assert (cog.gpu, cog.python, cog.requirements, cog.entry) == (True, "3.12", ("torch==2.0",), "predict:Predictor")
    assert (mlmodel.library, mlmodel.python) == ("sklearn", "3.11")
    assert mlmodel.inputs[0]["shape"] == ["batch", 2]
    assert mlmodel.inputs[0]["description"] == "Columns: a, b."


def test_yaml_tags_of_a_strange_file_have_no_effect(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: !!python/object/apply:os.mkdir [here]\n")
    found = detect.look(tmp_path)
    assert found.cards == ()
    assert "tag" in found.remarks[0]


# --- damage ----------------------------------------------------------------------------------------------------------


def small_gguf() -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    pairs = text(b"general.name") + struct.pack("<I", 8) + text(b"tiny")
    pairs += text(b"list") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b")
    pairs += (
        text(b"nested") + struct.pack("<IIQ", 9, 9, 2) + struct.pack("<IQ", 0, 3) + b"abc" + struct.pack("<IQ", 4, 0)
    )
    pairs += text(b"n") + struct.pack("<If", 6, 1.5)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 4) + pairs


def small_safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


READERS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "onnx": (detect_onnx.read, onnx_file()),
    "gguf": (detect_tensors.read_gguf, small_gguf()),
    "safetensors": (detect_tensors.read_safetensors, small_safetensors()),
    "pt": (detect_archives.read_archive, zipped({"m/data.pkl": b"", "m/code/x.py": b""})),
}


@pytest.mark.parametrize("kind", READERS)
def test_the_small_files_of_this_test_are_good(tmp_path: Path, kind: str) -> None:
    read, data = READERS[kind]
    (tmp_path / "x").write_bytes(data)
    assert read(tmp_path / "x")


@pytest.mark.parametrize("kind", READERS)
def test_every_file_that_is_cut_short_is_malformed(tmp_path: Path, kind: str) -> None:
    read, data = READERS[kind]
    for length in range(len(data)):
        (tmp_path / "x").write_bytes(data[:length])
        try:
            read(tmp_path / "x")
        except Malformed:
            continue
        # Only protobuf has no end mark: a model without its last field is a model.
        assert kind == "onnx"


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_malformed_and_never_a_crash(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    read, good = READERS[kind]
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=12))
    (tmp_path / "x").write_bytes(bytes(body))
    try:
        read(tmp_path / "x")
    except Malformed:
        pass


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(
        [
            "m.safetensors",
            "m.gguf",
            "m.onnx",
            "m.pt",
            "m.pkl",
            "README.md",
            "Kitfile",
            "cog.yaml",
            "MLmodel",
            "config.json",
        ]
        + ["pyproject.toml", "serve.py", ".xumiignore"]
    ),
    body=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass"))),
)
def test_no_bytes_in_any_file_crash_a_look(tmp_path: Path, name: str, body: bytes) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    (tmp_path / name).write_bytes(body)
    detect.look(tmp_path)


def test_a_header_that_claims_gigabytes_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(Malformed, match="longer than the file"):
        detect_tensors.read_safetensors(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60))
    with pytest.raises(Malformed, match="cut short"):
        detect_tensors.read_gguf(path)
    path.write_bytes(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 2**31, 0, 0))
    with pytest.raises(Malformed, match="longer than"):
        detect_archives.read_archive(path)


def test_json_nested_a_hundred_thousand_times_is_malformed(tmp_path: Path) -> None:
    body = b"[" * 100_000
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(body)) + body)
    with pytest.raises(Malformed):
        detect_tensors.read_safetensors(tmp_path / "x")
