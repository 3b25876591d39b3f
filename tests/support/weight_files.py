"""Weight files and cards as the real libraries write them, traps among them, and how they get damaged."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gguf
import numpy
import safetensors.numpy
from hypothesis import strategies as st

# Where a trap that went off leaves a folder.
TRAP = "BERTH_TEST_TRAP"


class Trap:
    """Unpickled, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').makedirs(__import__('os').environ[{TRAP!r}], exist_ok=True)",)


YAML_TRAP = f"!!python/object/apply:eval [\"__import__('os').makedirs(__import__('os').environ['{TRAP}'])\"]"


def safetensors_file() -> bytes:
    tensors = {"layer.weight": numpy.arange(12, dtype=numpy.float16).reshape(3, 4), "b": numpy.zeros(5, numpy.int64)}
    return bytes(safetensors.numpy.save(tensors, {"format": "pt"}))


def gguf_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name("tiny")
        writer.add_context_length(2048)
        writer.add_chat_template("{{ messages }}")
        writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
        writer.add_array("tokenizer.ggml.scores", [0.0, 1.0, 2.0])
        writer.add_tensor("t", numpy.ones((4, 8), numpy.float32))
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor("q", gguf.quants.quantize(numpy.ones((2, 32), numpy.float32), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return body.getvalue()


def trapped(protocol: int) -> bytes:
    return pickle.dumps(OrderedDict(weight=[1.0, 2.0], hidden=Trap()), protocol)


def npz_file() -> bytes:
    body = io.BytesIO()
    numpy.savez_compressed(body, w=numpy.ones((3, 4)), trap=numpy.array([Trap()], dtype=object))
    return body.getvalue()


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def onnx_file() -> bytes:
    """onnx.ModelProto by hand: one input, one output, one initializer outside of the file."""
    tensor = field(1, 1) + field(2, field(1, field(2, b"batch")) + field(1, field(1, 4)))
    port = field(1, b"X") + field(2, field(1, tensor))
    initializer = field(1, 4) + field(8, b"W") + field(9, bytes(16)) + field(13, field(1, b"location") + field(2, b"w"))
    graph = field(2, b"g") + field(5, initializer) + field(11, port) + field(12, port)
    return field(1, 8) + field(2, b"me") + field(7, graph) + field(8, field(2, 17))


# Name in the folder → content, each good, or a trap for whoever loads it instead of reading it.
WEIGHTS: dict[str, bytes] = {
    "m.safetensors": safetensors_file(),
    "m.gguf": gguf_file(),
    "m.onnx": onnx_file(),
    "m.pt": zip_of({"m/data.pkl": trapped(2), "m/version": b"3\n", "m/data/0": bytes(64)}),
    "script.pt": zip_of({"s/data.pkl": trapped(2), "s/code/__torch__.py": b"def f(): ...", "s/constants.pkl": b"."}),
    "m.npz": npz_file(),
    "m.keras": zip_of({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}, 8),
    "pytorch_model.bin": trapped(2),
    "m.pkl": trapped(4),
    "m.joblib": trapped(3),
    "old.pickle": trapped(0),
    "saved_model.pb": field(1, 1) + field(2, field(1, b"x")),
}
CARDS: dict[str, bytes] = {
    "README.md": f"---\nlicense: {YAML_TRAP}\ntags: [a]\n---\n# T\n\nText.\n".encode(),
    "Kitfile": f"manifestVersion: 1.0.0\npackage: {YAML_TRAP}\n".encode(),
    "cog.yaml": f"build: {{gpu: true}}\npredict: {YAML_TRAP}\n".encode(),
    "MLmodel": f"flavors: {{python_function: {{python_version: 3.11.4}}}}\nsignature: {YAML_TRAP}\n".encode(),
    "config.json": b'{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}',
    "pyproject.toml": b'[project]\nname = "x"\nrequires-python = ">=3.11"\ndependencies = ["torch==2.0"]\n',
}


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """The same bytes with a few places overwritten, put in or taken out, then perhaps cut short."""
    body = bytearray(good)
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(body)))
        # Small numbers and 0xff are what lengths and counts break on.
        piece = draw(st.one_of(st.binary(max_size=9), st.sampled_from([b"\xff" * 8, bytes(8), b"\x01\x00", b"[" * 40])))
        body[at : at + draw(st.integers(0, 9))] = piece
    if draw(st.booleans()):
        del body[draw(st.integers(0, len(body))) :]
    return bytes(body)


def went_off() -> bool:
    """Whether a trap was loaded."""
    return os.path.exists(os.environ[TRAP])
