"""The Open Inference Protocol v2, as its specification has requests and answers (KServe, open-inference-protocol)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.xumi.serving import Served, lay_out, served

MANIFEST: dict[str, Any] = {
    "xumi": 1,
    "name": "acme/linear",
    "version": "1.2.0",
    "entry": {"python": "serve:Linear"},
    "runtime": {"port": 8080, "concurrency": 1, "startup_timeout": 30},
    "interface": {
        "open_inference": True,
        "inputs": [
            {"name": "x", "type": "tensor", "dtype": "float32", "shape": ["n", 2], "required": True},
            {"name": "shift", "type": "tensor", "dtype": "int64", "shape": [1], "required": False},
        ],
        "outputs": [
            {"name": "sum", "type": "tensor", "dtype": "float32", "shape": [None]},
            {"name": "big", "type": "tensor", "dtype": "bool", "shape": [None]},
        ],
    },
}
CODE = """
import struct
from xumi import Model, Tensor

class Linear(Model):
    def predict(self, x, shift=None):
        rows = x.tolist()
        add = shift.tolist()[0] if shift is not None else 0
        sums = [a + b + add for a, b in rows]
        if add == 99:
            sums = [float("nan") for _ in rows]
        if add == 98:
            raise RuntimeError("no")
        return {
            "sum": Tensor("float32", [len(rows)], struct.pack("<%df" % len(rows), *sums)),
            "big": Tensor("bool", [len(rows)], struct.pack("<%d?" % len(rows), *[s > 5 for s in sums])),
        }
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(lay_out(tmp_path_factory.mktemp("oip"), MANIFEST, CODE)) as running:
        yield running


def x(data: Any, shape: Any = (2, 2), datatype: str = "FP32") -> dict[str, Any]:
    return {"name": "x", "shape": list(shape), "datatype": datatype, "data": data}


def test_health_and_metadata(model: Served) -> None:
    assert model.call("/v2/health/live") == (200, {"live": True})
    assert model.call("/v2/health/ready") == (200, {"ready": True})
    assert model.call("/v2/models/linear/ready") == (200, {"name": "linear", "ready": True})
    assert model.call("/v2")[1]["extensions"] == []
    expected = {
        "name": "linear",
        "versions": ["1.2.0"],
        "platform": "xumi",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "shift", "datatype": "INT64", "shape": [1]},
        ],
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [-1]},
            {"name": "big", "datatype": "BOOL", "shape": [-1]},
        ],
    }
    for path in ("linear", "acme%2Flinear", "linear/versions/1.2.0"):
        assert model.call(f"/v2/models/{path}") == (200, expected)


@pytest.mark.parametrize("data", [[1, 2, 3, 4.5], [[1, 2], [3, 4.5]]])
def test_tensors_are_read_flat_and_nested_and_written_flat(model: Served, data: Any) -> None:
    status, out = model.call("/v2/models/linear/infer", {"id": "7", "inputs": [x(data)]})
    assert status == 200
    assert out == {
        "model_name": "linear",
        "model_version": "1.2.0",
        "id": "7",
        "outputs": [
            {"name": "sum", "shape": [2], "datatype": "FP32", "data": [3.0, 7.5]},
            {"name": "big", "shape": [2], "datatype": "BOOL", "data": [False, True]},
        ],
    }


def test_only_the_outputs_asked_for_are_sent(model: Served) -> None:
    shift = {"name": "shift", "shape": [1], "datatype": "INT64", "data": [10]}
    request = {"inputs": [x([1, 2], (1, 2)), shift], "outputs": [{"name": "sum"}]}
    status, out = model.call("/v2/models/linear/versions/1.2.0/infer", request)
    assert (status, out["outputs"]) == (200, [{"name": "sum", "shape": [1], "datatype": "FP32", "data": [13.0]}])


@pytest.mark.parametrize(
    ("request_body", "words"),
    [
        ({}, "a list of inputs"),
        ({"inputs": []}, "x: is required"),
        ({"inputs": [x([1, 2, 3], (2, 2))]}, "x: 12 bytes of data; shape [2, 2] of float32 needs 16"),
        ({"inputs": [x([1, 2, 3], (1, 3))]}, "x: shape [1, 3]"),
        ({"inputs": [x([[1, 2, 3, 4]], (2, 2))]}, "x.data: the lists have shape [1, 4], not [2, 2]"),
        ({"inputs": [x([1, 2], (1, 2), "FP64")]}, "x: dtype float64; float32 is expected"),
        ({"inputs": [x([1, 2], (1, 2), "BYTES")]}, "x.datatype: 'BYTES' is not a datatype"),
        ({"inputs": [x(["a", 2], (1, 2))]}, "x: float32 expected, not string"),
        ({"inputs": [x("AAAA", (1, 2))]}, "x.data: a list of numbers"),
        ({"inputs": [x([1, 2], (1, 2)), x([1, 2], (1, 2))]}, "x: is given twice"),
        ({"inputs": [x([1, 2], (1, 2)), {"name": "y", "shape": [1], "datatype": "BOOL", "data": [True]}]}, "y: is not"),
        ({"inputs": [x([1, 2], (1, 2))], "outputs": [{"name": "z"}]}, "outputs: z is not an output"),
        (b"{", "not JSON"),
    ],
)
def test_a_wrong_request_is_400_with_an_error_text(model: Served, request_body: Any, words: str) -> None:
    status, out = model.call("/v2/models/linear/infer", request_body)
    assert (status, list(out)) == (400, ["error"])
    assert words in out["error"]


def test_what_is_not_there_is_404_and_binary_data_is_refused(model: Served) -> None:
    for path in ("/v2/models/other", "/v2/models/linear/versions/2", "/v2/models/linear/what", "/v2/nothing"):
        assert model.call(path)[0] == 404
    assert model.call("/v2/models/linear/infer")[0] == 405
    assert model.call("/v2/models/linear/what", {})[0] == 404
    headers = {"Inference-Header-Content-Length": "2"}
    assert model.call("/v2/models/linear/infer", {"inputs": []}, headers=headers)[0] == 400


@pytest.mark.parametrize(("shift", "words"), [(99, "NaN or infinity"), (98, "RuntimeError")])
def test_a_failing_model_is_500(model: Served, shift: int, words: str) -> None:
    body = {"inputs": [x([1, 2], (1, 2)), {"name": "shift", "shape": [1], "datatype": "INT64", "data": [shift]}]}
    status, out = model.call("/v2/models/linear/infer", body)
    assert status == 500
    assert words in out["error"]


def test_without_opting_in_there_is_no_v2(tmp_path: Path) -> None:
    manifest = {**MANIFEST, "interface": {**MANIFEST["interface"], "open_inference": False}}
    with served(lay_out(tmp_path, manifest, CODE)) as running:
        assert running.call("/v2/health/live")[0] == 404
        assert running.call("/invoke", {"x": [[1, 2]]})[1] == {"sum": [3.0], "big": [False]}
