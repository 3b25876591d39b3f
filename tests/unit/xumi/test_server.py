"""The runtime over real HTTP, in a process of its own."""

from __future__ import annotations

import base64
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.xumi.serving import Served, lay_out, run_to_end, served, start

CODE = """
import sys, threading
from xumi import File, InvalidInput, Model, Tensor

turn = threading.Event()

class Everything(Model):
    def setup(self):
        assert self.manifest["name"] == "acme/all"

    def predict(self, text="", count=1, blob=None, grid=None, mode="plain", options=None):
        if text == "crash":
            raise RuntimeError("no")
        if text == "refuse":
            raise InvalidInput("makes no sense", "text")
        if text == "break":
            return {"text": 5}
        if text == "wait":
            turn.wait(20)
        if text == "go":
            turn.set()
        out = {"text": text * count, "mode": mode}
        if blob is not None:
            out["blob"] = File(blob.data[::-1], "text/plain", blob.name)
        if grid is not None:
            out["grid"] = Tensor("float32", grid.shape, grid.data)
        return out
"""

MANIFEST: dict[str, Any] = {
    "xumi": 1,
    "name": "acme/all",
    "version": "1.0.0",
    "entry": {"python": "serve:Everything"},
    "runtime": {"port": 8080, "concurrency": 2, "startup_timeout": 30},
    "interface": {
        "inputs": [
            {"name": "text", "type": "text", "required": True, "max_length": 10},
            {"name": "count", "type": "integer", "required": False, "default": 1, "minimum": 1, "maximum": 3},
            {"name": "blob", "type": "file", "required": False, "media_types": ["text/plain"], "max_size": 100},
            {"name": "grid", "type": "tensor", "required": False, "dtype": "float32", "shape": ["n", 2]},
            {"name": "mode", "type": "enum", "required": False, "default": "plain", "values": ["plain", "fancy"]},
            {
                "name": "options",
                "type": "object",
                "required": False,
                "schema": {"properties": {"a": {"type": "integer"}}},
            },
        ],
        "outputs": [
            {"name": "text", "type": "text"},
            {"name": "mode", "type": "enum", "values": ["plain", "fancy"]},
            {"name": "blob", "type": "file", "required": False},
            {"name": "grid", "type": "tensor", "required": False, "dtype": "float32", "shape": [None, 2]},
        ],
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = lay_out(tmp_path_factory.mktemp("all"), MANIFEST, CODE)
    with served(folder, XUMI_MAX_BODY="100000") as running:
        yield running


def test_health_manifest_and_openapi_are_served(model: Served) -> None:
    assert model.call("/healthz/live") == (200, {"status": "live"})
    assert model.call("/healthz/ready") == (200, {"status": "ready"})
    assert model.call("/xumi") == (200, MANIFEST)
    status, document = model.call("/openapi.json")
    assert status == 200
    schema = document["paths"]["/invoke"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["text"]
    assert schema["properties"]["count"] == {"type": "integer", "minimum": 1, "maximum": 3, "default": 1}
    assert model.call("/nothing")[0] == 404
    assert model.call("/invoke")[0] == 405


def test_a_call_takes_defaults_and_converts_values(model: Served) -> None:
    assert model.call("/invoke", {"text": "ab", "count": 2}) == (200, {"text": "abab", "mode": "plain"})
    blob = base64.b64encode(b"hello").decode()
    status, out = model.call(
        "/invoke",
        {
            "text": "",
            "mode": "fancy",
            "blob": {"data": blob, "media_type": "text/plain", "name": "a.txt"},
            "grid": [[1, 2.5], [3, 4]],
        },
    )
    assert status == 200
    assert out["grid"] == [[1.0, 2.5], [3.0, 4.0]]
    assert out["blob"] == {"data": base64.b64encode(b"olleh").decode(), "media_type": "text/plain", "name": "a.txt"}
    status, out = model.call("/invoke?tensors=base64", {"text": "", "grid": {"data": [[1, 2]]}})
    # 1.0 and 2.0 as little-endian IEEE 754 single precision
    assert out["grid"] == {"dtype": "float32", "shape": [1, 2], "data": "AACAPwAAAEA="}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": 1}, "text"),
        ({"text": "x" * 11}, "text"),
        ({"text": "", "count": 4}, "count"),
        ({"text": "", "count": True}, "count"),
        ({"text": "", "count": 1.5}, "count"),
        ({"text": "", "mode": "odd"}, "mode"),
        ({"text": "", "blob": "not base64!"}, "blob"),
        ({"text": "", "blob": {"data": "", "media_type": "image/png"}}, "blob"),
        ({"text": "", "blob": base64.b64encode(b"x" * 101).decode()}, "blob"),
        ({"text": "", "grid": [[1, 2], [3]]}, "grid"),
        ({"text": "", "grid": [[1, 2, 3]]}, "grid"),
        ({"text": "", "grid": [["a", 1]]}, "grid"),
        ({"text": "", "options": {"a": "x"}}, "options.a"),
        ({"text": "", "colour": 1}, "colour"),
        ({"text": "refuse"}, "text"),
    ],
)
def test_bad_input_is_422_and_names_the_field(model: Served, body: Any, field: str) -> None:
    status, out = model.call("/invoke", body)
    assert (status, out["error"]["field"]) == (422, field)


def test_a_misspelt_input_gets_a_suggestion(model: Served) -> None:
    assert "did you mean text?" in model.call("/invoke", {"txt": ""})[1]["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"[" * 5000, b'{"text": NaN}', b"\xff"])
def test_what_is_no_json_is_400(model: Served, body: bytes) -> None:
    assert model.call("/invoke", body)[0] == 400


def test_a_form_carries_files_as_they_are(model: Served) -> None:
    parts = [
        b'--B\r\nContent-Disposition: form-data; name="text"\r\n\r\nhi',
        b'--B\r\nContent-Disposition: form-data; name="count"\r\n\r\n2',
        (
            b'--B\r\nContent-Disposition: form-data; name="blob"; filename="x.txt"\r\n'
            b"Content-Type: text/plain\r\n\r\na\r\nb"
        ),
    ]
    body = b"\r\n".join(parts) + b"\r\n--B--\r\n"
    status, out = model.call("/invoke", body, content_type="multipart/form-data; boundary=B")
    assert (status, out["text"], out["blob"]["name"]) == (200, "hihi", "x.txt")
    assert base64.b64decode(out["blob"]["data"]) == b"b\n\ra"
    assert model.call("/invoke", body[:-10], content_type="multipart/form-data; boundary=B")[0] == 400
    wrong = body.replace(b"\r\n\r\n2", b"\r\n\r\ntwo")
    status, out = model.call("/invoke", wrong, content_type="multipart/form-data; boundary=B")
    assert (status, out["error"]["field"]) == (422, "count")


def test_a_failing_model_is_500_and_goes_on(model: Served) -> None:
    status, out = model.call("/invoke", {"text": "crash"})
    assert (status, out["error"]["code"]) == (500, "model_failed")
    status, out = model.call("/invoke", {"text": "break"})
    assert (status, out["error"]["code"], out["error"]["field"]) == (500, "invalid_output", "text")
    assert model.call("/invoke", {"text": "ok"})[0] == 200


def test_calls_run_beside_each_other_up_to_the_limit(model: Served) -> None:
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(model.call("/invoke", {"text": "wait"})[0]))
    waiting.start()
    # With two places the second call runs while the first waits for it.
    assert model.call("/invoke", {"text": "go"})[0] == 200
    waiting.join(timeout=20)
    assert answers == [200]


def test_a_body_over_the_limit_is_413_and_a_request_without_length_411(model: Served) -> None:
    assert model.call("/invoke", b"x" * 100_001)[0] == 413
    host, port = model.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"POST /invoke HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 411 " in raw.recv(4096)


def test_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    process = start(lay_out(tmp_path, MANIFEST, CODE))
    Served(process).line("xumi: ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("class Everything:\n    def predict(self): ...\n    def setup(self): raise RuntimeError('boom')", "boom"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("class Other: pass", "no Everything"),
        ("Everything = 5", "not a class"),
    ],
)
def test_a_model_that_cannot_start_exits_4(tmp_path: Path, code: str, words: str) -> None:
    status, log = run_to_end(lay_out(tmp_path, MANIFEST, code))
    assert status == 4
    assert words in log


def test_setup_that_takes_too_long_exits_4(tmp_path: Path) -> None:
    manifest = {**MANIFEST, "runtime": {"startup_timeout": 0.2}}
    code = "class Everything:\n    def predict(self): ...\n    def setup(self): __import__('threading').Event().wait(9)"
    status, log = run_to_end(lay_out(tmp_path, manifest, code))
    assert status == 4
    assert "longer than 0.2 seconds" in log


def test_a_command_takes_the_place_of_the_server(tmp_path: Path) -> None:
    import sys

    manifest = {**MANIFEST, "entry": {"command": [sys.executable, "-c", "import sys; sys.exit(7)"]}}
    assert run_to_end(lay_out(tmp_path, manifest, ""))[0] == 7


def test_without_a_manifest_it_exits_2(tmp_path: Path) -> None:
    status, log = run_to_end(tmp_path, XUMI_MANIFEST=str(tmp_path / "none.json"))
    assert status == 2
    assert "none.json" in log


def test_a_running_call_is_answered_before_the_end(tmp_path: Path) -> None:
    code = """
import threading
from xumi import Model
class Everything(Model):
    def predict(self, **_):
        print("xumi: called", file=__import__("sys").stderr, flush=True)
        threading.Event().wait(1)
        return {"text": "late", "mode": "plain"}
"""
    process = start(lay_out(tmp_path, MANIFEST, code))
    model = Served(process)
    model.line("xumi: ready")
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(model.call("/invoke", {"text": ""})))
    caller.start()
    model.line("xumi: called")
    process.send_signal(signal.SIGTERM)
    caller.join(timeout=20)
    assert process.wait(timeout=20) == 0
    assert answers == [(200, {"text": "late", "mode": "plain"})]
