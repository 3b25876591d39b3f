"""What the weight scanner sees in one file: each attack beside an innocent twin of the same form (design §6)."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import zstandard

from berth.adapters.scanners.weights_child import walk
from berth.adapters.scanners.weights_child.content import Content
from berth.adapters.scanners.weights_child.findings import Findings, LimitExceededError, Limits
from berth.adapters.scanners.weights_child.walk import Walker
from tests.unit.scanners.made import HARMLESS_0, HARMLESS_4, ORDERED, SYSTEM, SYSTEM_4, call, tar, text, zipped


def judged(data: bytes, name: str = "weights", *, streamed: bool = False, **limits: int) -> Findings:
    findings = Findings(Limits(**limits))
    content = Content(name, None, stream=io.BytesIO(data)) if streamed else Content(name, len(data), data=data)
    try:
        Walker(findings, weights=True).file(content)
    except LimitExceededError:
        pass
    return findings


def torch_zip(pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The layout of torch.save since 1.6: one folder, data.pkl, raw storages."""
    return zipped({"m/data.pkl": pickled, "m/version": b"3\n", "m/data/0": bytes(4096)}, compression)


def torch_legacy(pickled: bytes) -> bytes:
    """The layout of torch.save before 1.6: magic number, protocol, system, object, keys, then raw storages."""
    head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00."
    return head + pickled + b"\x80\x02]q\x00." + bytes(range(256)) * 16


def npy(dtype: Any, pickled: bytes) -> bytes:
    """A .npy file of that dtype whose data is `pickled`."""
    body = io.BytesIO()
    np.lib.format.write_array_header_2_0(body, {"descr": dtype, "fortran_order": False, "shape": (1,)})
    return body.getvalue() + pickled


def npy_python2(pickled: bytes) -> bytes:
    """A header with a long integer of Python 2, which numpy accepts."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1L,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled


def npy_padded(pickled: bytes) -> bytes:
    """A header longer than what is usually looked at."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(200_000) + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + pickled


def encrypted(data: bytes) -> bytes:
    """Set the encryption flag that PyTorch's reader ignores, in local and central headers."""
    out = bytearray(data)
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = out.find(magic)
        while start >= 0:
            out[start + at] |= 1
            start = out.find(magic, start + 4)
    return bytes(out)


def joblib_like(
    after: bytes, *, letters: str = "f8", flags: int = 0, array: bytes = b"\x03\xff\xff\xff" + b"\x93.\x00\xff" * 8
) -> bytes:
    """What joblib.dump writes for a list: an array wrapper, the array in the middle (padded), then the rest."""
    state = [
        *(text("subclass"), b"\x8c\x05numpy\x8c\x07ndarray\x93", text("shape"), b"K\x04\x85", text("order"), text("C")),
        *(text("dtype"), b"\x8c\x05numpy\x8c\x05dtype\x93", text(letters), b"\x89\x88\x87R"),
        b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([flags]) + b"tb",
        *(text("allow_mmap"), b"\x88", text("numpy_array_alignment_bytes"), b"K\x10"),
    ]
    wrapper = b"\x80\x04](" + text("joblib.numpy_pickle") + text("NumpyArrayWrapper") + b"\x93)\x81}("
    return wrapper + b"".join(state) + b"ub" + array + after + b"e."


def memoized(module: str, name: str) -> bytes:
    """The start of a pickle with both names in memo 0 and 1, and nothing on the stack."""
    return b"\x80\x04" + text(module) + b"\x94" + text(name) + b"\x9400"


# Imports memo 0 . memo 1 and calls it with one text.
CALL = b"h\x00h\x01\x93" + text("true") + b"\x85R."
# Imports what the two texts on the stack name, and calls it with one text.
CALLED = b"\x93" + text("true") + b"\x85R."


# name → (attack, innocent twin)
CASES: dict[str, tuple[bytes, bytes]] = {
    "protocol 0": (SYSTEM, HARMLESS_0),
    "protocol 4": (SYSTEM_4, HARMLESS_4),
    "protocol 4 without its header": (SYSTEM_4[2:], HARMLESS_4[2:]),
    "torch zip": (torch_zip(SYSTEM_4), torch_zip(ORDERED)),
    "torch zip, deflated": (torch_zip(SYSTEM, zipfile.ZIP_DEFLATED), torch_zip(ORDERED, zipfile.ZIP_DEFLATED)),
    "torch zip flagged as encrypted": (encrypted(torch_zip(SYSTEM)), encrypted(torch_zip(ORDERED))),
    "zip in a zip": (zipped({"a/b.zip": torch_zip(SYSTEM)}), zipped({"a/b.zip": torch_zip(ORDERED)})),
    "zip behind other bytes": (b"#!/bin/sh\n" + torch_zip(SYSTEM), b"#!/bin/sh\n" + torch_zip(ORDERED)),
    "raw storage that is a pickle": (
        zipped({"m/data.pkl": ORDERED, "m/data/0": SYSTEM_4}),
        zipped({"m/data.pkl": ORDERED, "m/data/0": HARMLESS_4}),
    ),
    "torch legacy": (torch_legacy(SYSTEM_4), torch_legacy(ORDERED)),
    "torch legacy, magic number made by eval": (
        b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R." + torch_legacy(ORDERED),
        torch_legacy(ORDERED),
    ),
    "second pickle of a file": (HARMLESS_4 + SYSTEM_4, HARMLESS_4 + HARMLESS_4),
    "nemo: tar with a checkpoint": (tar({"w.ckpt": torch_zip(SYSTEM)}), tar({"w.ckpt": torch_zip(ORDERED)})),
    "tar.gz in a file": (gzip.compress(tar({"w": SYSTEM})), gzip.compress(tar({"w": HARMLESS_0}))),
    "gzip": (gzip.compress(SYSTEM_4), gzip.compress(HARMLESS_4)),
    "zlib (joblib compress=3)": (zlib.compress(SYSTEM_4), zlib.compress(HARMLESS_4)),
    "bzip2": (bz2.compress(SYSTEM_4), bz2.compress(HARMLESS_4)),
    "xz": (lzma.compress(SYSTEM_4), lzma.compress(HARMLESS_4)),
    "lzma": (
        lzma.compress(SYSTEM_4, format=lzma.FORMAT_ALONE),
        lzma.compress(HARMLESS_4, format=lzma.FORMAT_ALONE),
    ),
    "zstd": (zstandard.compress(SYSTEM_4), zstandard.compress(HARMLESS_4)),
    "numpy objects": (npy("|O", SYSTEM_4), npy("|O", HARMLESS_4)),
    "numpy numbers that look like a pickle": (npy("|O", SYSTEM), npy("<f8", SYSTEM)),
    "numpy records with objects": (npy([("Open", "<f8"), ("b", "|O")], SYSTEM), npy([("Open", "<f8")], SYSTEM)),
    "numpy header of Python 2": (npy_python2(SYSTEM_4), npy_python2(HARMLESS_4)),
    "numpy header of 200 kB": (npy_padded(SYSTEM_4), npy_padded(HARMLESS_4)),
    "npz": (zipped({"a.npy": npy("|O", SYSTEM_4)}), zipped({"a.npy": npy("<f8", bytes(8))})),
    "joblib, in an array of objects": (
        joblib_like(b"K\x01", letters="O8", array=SYSTEM_4),
        joblib_like(b"K\x01", letters="O8", array=HARMLESS_4),
    ),
    "joblib, objects that only a flag tells of": (
        joblib_like(b"K\x01", flags=63, array=SYSTEM),
        joblib_like(b"K\x01", flags=63, array=HARMLESS_0),
    ),
    "joblib, a pickle where numbers should be": (joblib_like(b"K\x01", array=SYSTEM), joblib_like(b"K\x01")),
    "joblib, behind an array": (joblib_like(SYSTEM_4[2:-1]), joblib_like(b"K\x01")),
    # Ways around scanners that read opcodes without following them.
    "names taken from the memo of the second pickle": (
        # Counted on through both pickles, memo 0 and 1 would be collections and OrderedDict.
        memoized("collections", "OrderedDict") + b"h\x00h\x01\x93." + memoized("posix", "system") + CALL,
        memoized("posix", "system") + b"N." + memoized("collections", "OrderedDict") + CALL,
    ),
    "names memoized after other values were dropped": (
        b"\x80\x04" + text("posix") + b"N0\x940" + text("system") + text("x") + b"0\x940" + CALL,
        b"\x80\x04" + text("collections") + b"N0\x940" + text("deque") + text("x") + b"0\x940" + CALL,
    ),
    "number that the disassembler refuses": (b"I0x10\n0" + SYSTEM, b"I0x10\n0" + HARMLESS_0),
    "broken off after the call": (SYSTEM_4[:-1] + b"\xff\xff", HARMLESS_4[:-1] + b"\xff\xff"),
    "dotted name through a harmless module": (call("torch", "os.system"), call("torch", "Size")),
    "importlib": (call("importlib", "import_module"), call("collections", "deque")),
    "module of Python 2 that is renamed": (b"\x80\x02ccommands\ngetoutput\nX\x01\x00\x00\x00w\x85R.", ORDERED),
    "INST": (b"(S'true'\nios\nsystem\n.", b"(icollections\nOrderedDict\n."),
    "OBJ": (b"(cos\nsystem\nS'true'\no.", b"(ccollections\nOrderedDict\no."),
    "numpy.load": (call("numpy", "load"), call("numpy", "dtype")),
    "joblib.load": (call("joblib", "load"), call("joblib.numpy_pickle", "NumpyArrayWrapper")),
    "name computed while loading": (
        b"\x80\x04" + text("builtins") + text("str") + b"\x93" + text("posix") + b"\x85R" + text("system") + CALLED,
        b"\x80\x04" + text("builtins") + text("str") + b"\x93" + text("posix") + b"\x85R.",
    ),
}  # fmt: skip


# Only random access finds an archive's end; small files and uncompressed layers have it.
LARGE_STREAMS = sorted(set(CASES) - {"zip behind other bytes"})


@pytest.mark.parametrize("streamed", [False, True], ids=["in place", "streamed"])
@pytest.mark.parametrize("case", CASES)
def test_an_attack_is_malicious_and_its_innocent_twin_is_not(case: str, streamed: bool) -> None:
    attack, twin = (judged(data, streamed=streamed) for data in CASES[case])
    assert attack.malicious
    assert (list(twin.malicious), twin.blind, twin.wrong) == ([], False, False)


@pytest.mark.parametrize("case", LARGE_STREAMS)
def test_the_same_holds_for_files_too_large_to_be_held(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_SMALL", 8)
    attack, twin = (judged(data, streamed=True) for data in CASES[case])
    assert attack.malicious
    assert (list(twin.malicious), twin.blind, twin.wrong) == ([], False, False)


@pytest.mark.parametrize("name", ["model.onnx", "readme.txt", "w.safetensors", "w.gguf", "a.png", "noname", "x.py"])
def test_names_do_not_matter(name: str) -> None:
    assert judged(SYSTEM_4, name).malicious
    assert not judged(HARMLESS_4, name).malicious


def test_what_real_picklers_write_is_innocent() -> None:
    objects: list[Any] = [
        {"weights": np.arange(5.0), "names": ["a", "b"], "when": OrderedDict(a=1), "set": {1, 2}, "n": None},
        np.random.default_rng(1),
        np.array([{"a": 1}, None], dtype=object),
        [np.float32(1.5), np.int64(3), 2**100, -7, b"bytes", bytearray(b"x"), 1j, frozenset({1})],
    ]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for value in objects:
            findings = judged(pickle.dumps(value, protocol))
            assert (list(findings.malicious), list(findings.problems)) == ([], []), (protocol, value)


def test_a_pickle_that_runs_code_is_malicious_in_every_protocol() -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return eval, ("1",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert judged(pickle.dumps([Payload(), Payload()], protocol)).malicious, protocol


def test_unknown_imports_are_suspicious_not_malicious() -> None:
    findings = judged(call("sklearn.linear_model._base", "LinearRegression"))

    assert not findings.malicious
    assert [what for _, what in findings.suspicious] == [
        "loading this pickle imports sklearn.linear_model._base.LinearRegression"
    ]


TEXTS = {
    "source": b"import os\n\nclass A:\n    def f(self):\n        os.system('true')\n",
    "a word list": b"cos\nsystem\nsyntax\ntable\n",
    "json": b'{"model": "x"}',
    "csv": b"(1,2,3)\n",
    "an exploit quoted in a text": b"Do not load this:\n\n    cos\n    system\n    (S'true'\n    tR.\n",
    "zeros": bytes(100_000),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(500),
    "random bytes": bytes((i * 7919 + i * i * 31) % 256 for i in range(50_000)),
    "random bytes behind a pickle's first two": b"\x80\x04" + bytes((i * 7919) % 256 for i in range(50_000)),
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_no_pickle_is_left_alone(case: str) -> None:
    findings = judged(TEXTS[case])
    assert (list(findings.malicious), list(findings.suspicious), list(findings.problems)) == ([], [], [])


LAMBDA = b'{"config": {"layers": [{"class_name": "Lambda", "config": {"function": ["4wEAAAA", null, null]}}]}}'


@pytest.mark.parametrize(
    "make",
    [
        lambda config: zipped({"metadata.json": b"{}", "config.json": config, "model.weights.h5": b""}),
        lambda config: b"\x89HDF\r\n\x1a\n" + bytes(3000) + config + bytes(2_000_000),
    ],
    ids=["keras 3", "hdf5"],
)
def test_a_lambda_layer_is_suspicious(make: Any) -> None:
    assert judged(make(LAMBDA)).suspicious
    assert not judged(make(LAMBDA.replace(b"Lambda", b"Dense"))).suspicious


def safetensors(header: bytes, data: bytes = bytes(8)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


GOOD = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
HEADERS: dict[str, tuple[bytes, bytes]] = {
    "safetensors beyond the file": (safetensors(GOOD), safetensors(GOOD.replace(b"[0,8]", b"[8,16]"))),
    "safetensors of another size": (safetensors(GOOD), safetensors(GOOD.replace(b"[2]", b"[3]"))),
    "safetensors without a header": (safetensors(GOOD), safetensors(b'{"w":')),
    "gguf with impossible counts": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0),
    ),
    "gguf of an unknown version": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 77777, 0, 0),
    ),
    # ModelProto: ir_version 8, producer "x", graph with a name of 20 bytes.
    "onnx that ends inside a field": (
        b"\x08\x08\x12\x01x\x3a\x16\x12\x14" + b"g" * 20,
        b"\x08\x08\x12\x01x\x3a\x7f\x12\x14" + b"g" * 20,
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_malformed_tensor_file_is_a_problem_not_malice(case: str) -> None:
    good, bad = (judged(data) for data in HEADERS[case])
    assert not good.problems
    assert [code for code, _ in bad.problems] == ["file.malformed"]
    assert not bad.malicious
    assert bad.status() == "ok"


def test_archives_that_cannot_be_looked_into_are_inconclusive() -> None:
    assert judged(b"7z\xbc\xaf\x27\x1c" + bytes(100)).status() == "inconclusive"
    assert judged(torch_zip(ORDERED)[:-10] + b"PK", "w").status() == "inconclusive"
    assert judged(gzip.compress(HARMLESS_4 * 50)[:-20], "w").status() == "inconclusive"


def test_a_bomb_ends_early_and_is_inconclusive() -> None:
    bomb = gzip.compress(bytes(4 << 20))
    findings = judged(gzip.compress(tar({"a": bytes(4 << 20)})), ratio=20, ratio_from_bytes=1 << 20)
    assert findings.status() == "inconclusive"
    assert findings.unpacked < 3 << 20
    assert judged(bomb).status() == "ok"


def test_nesting_and_counts_are_bounded() -> None:
    data = HARMLESS_4
    for _ in range(12):
        data = zipped({"x": data})
    assert [code for code, _ in judged(data).problems] == ["archive.too_deep"]
    assert judged(tar({str(n): b"x" for n in range(50)}), files=20).status() == "inconclusive"
    assert judged(tar({str(n): b"x" for n in range(50)}), files=200).status() == "ok"


def test_a_pickle_too_long_to_follow_is_inconclusive() -> None:
    long = b"\x80\x04" + b"N0" * 5000 + SYSTEM_4[2:]
    assert judged(long, pickle_operations=1000).status() == "inconclusive"
    assert judged(long).malicious


def test_base64_is_not_a_pickle() -> None:
    assert not judged(base64.b64encode(SYSTEM_4)).malicious


RAW = ["protocol 0", "protocol 4", "protocol 4 without its header", "second pickle of a file", "INST", "OBJ"]
RAW += ["names taken from the memo of the second pickle", "names memoized after other values were dropped"]
RAW += ["broken off after the call", "importlib", "numpy.load", "name computed while loading"]
RAW += ["dotted name through a harmless module", "module of Python 2 that is renamed"]


@pytest.mark.parametrize("case", RAW)
def test_pythons_unpickler_agrees_about_these_cases(case: str) -> None:
    """The hand-written attacks are real: Python's own unpickler asks for a dangerous name, the twins' never does."""

    def calls(data: bytes) -> set[str]:
        called: set[str] = set()

        class Recorder(pickle._Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if (module, name) == ("builtins", "str"):
                    return str
                return type("Stub", (), {"__new__": lambda cls, *args: called.add(f"{module}.{name}")})

        file = io.BytesIO(data)
        try:
            while file.tell() < len(data):
                Recorder(file).load()
        except (pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, TypeError):
            pass
        return called

    dangerous = {"os.system", "posix.system", "importlib.import_module", "numpy.load", "torch.os.system"}
    attack, twin = CASES[case]
    assert calls(attack) & (dangerous | {"commands.getoutput", "subprocess.getoutput"})
    assert not calls(twin) & (dangerous | {"commands.getoutput", "subprocess.getoutput"})
