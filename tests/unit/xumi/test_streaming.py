"""Models that answer piece by piece, calls over a Unix socket, the limit of calls, and Python's way of calling."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.unit.xumi.serving import Served, lay_out, served, start
from xumi import File
from xumi.caller import Caller, CallFailed

STREAMING: dict[str, Any] = {
    "xumi": 1,
    "name": "acme/stream",
    "version": "1.0.0",
    "entry": {"python": "serve:Stream"},
    "runtime": {"port": 8080, "concurrency": 1, "startup_timeout": 30},
    "interface": {
        "streaming": True,
        "inputs": [{"name": "text", "type": "text"}],
        "outputs": [{"name": "word", "type": "text", "max_length": 8}],
    },
}
STREAM = """
import sys, threading
from xumi import InvalidInput, Model

go = threading.Event()

class Stream(Model):
    def predict(self, text):
        if text == "list":
            return ["a", "b"]
        if text == "plain":
            return {"word": "a"}
        return self.words(text)

    def words(self, text):
        try:
            for word in text.split():
                if word == "refuse":
                    raise InvalidInput("makes no sense", "text")
                if word == "crash":
                    raise RuntimeError("no")
                if word == "wait":
                    go.wait(20)
                if word == "go":
                    go.set()
                if word == "endless":
                    while True:
                        yield {"word": "x" * 8}
                yield {"word": word}
        finally:
            print("xumi: closed", text, file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(lay_out(tmp_path_factory.mktemp("stream"), STREAMING, STREAM)) as running:
        yield running


def invoke(model: Served, text: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(model.url.removeprefix("http://"), timeout=20)
    connection.request("POST", "/invoke", json.dumps({"text": text}), {"Content-Type": "application/json"})
    return connection.getresponse()


def test_a_streaming_model_answers_json_lines_in_chunks(model: Served) -> None:
    answer = invoke(model, "one two three")
    assert (answer.status, answer.getheader("Transfer-Encoding")) == (200, "chunked")
    assert answer.getheader("Content-Type") == "application/x-ndjson"
    lines = answer.read().decode().splitlines()
    assert [json.loads(line) for line in lines] == [{"word": "one"}, {"word": "two"}, {"word": "three"}]


def test_every_piece_arrives_as_soon_as_it_is_there(tmp_path: Path) -> None:
    manifest = {**STREAMING, "runtime": {"concurrency": 2}}
    with served(lay_out(tmp_path, manifest, STREAM)) as running:
        answer = invoke(running, "first wait last")
        assert answer.readline() == b'{"word": "first"}\n'
        assert invoke(running, "go").read() == b'{"word": "go"}\n'
        assert answer.read() == b'{"word": "wait"}\n{"word": "last"}\n'


def test_any_iterable_may_be_returned_but_nothing_else(model: Served) -> None:
    assert invoke(model, "list").read() == b'{"word": "a"}\n{"word": "b"}\n'
    answer = invoke(model, "plain")
    assert (answer.status, json.loads(answer.read())["error"]["code"]) == (500, "invalid_output")


def test_what_fails_before_the_first_piece_has_its_own_status(model: Served) -> None:
    assert invoke(model, "refuse").status == 422
    assert invoke(model, "crash").status == 500
    assert invoke(model, "much-too-long").status == 500


@pytest.mark.parametrize(
    ("text", "code"),
    [("a crash", "model_failed"), ("a much-too-long", "invalid_output"), ("a refuse", "invalid_input")],
)
def test_what_fails_on_the_way_is_the_last_line(model: Served, text: str, code: str) -> None:
    lines = [json.loads(line) for line in invoke(model, text).read().splitlines()]
    assert lines[0] == {"word": "a"}
    assert (len(lines), lines[1]["error"]["code"]) == (2, code)
    with pytest.raises(CallFailed) as caught:
        list(Caller(model.url).invoke({"text": text}))
    assert caught.value.code == code


def test_a_caller_that_leaves_frees_the_place(model: Served) -> None:
    pieces = Caller(model.url).invoke({"text": "endless"})
    assert next(pieces) == {"word": "xxxxxxxx"}
    pieces.close()
    model.line("xumi: closed endless")
    # The model takes one call at a time, so this answer proves that the other one has ended.
    assert list(Caller(model.url).invoke({"text": "next"})) == [{"word": "next"}]


def test_an_old_client_gets_the_lines_up_to_the_end_of_the_connection(model: Served) -> None:
    host, port = model.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b'POST /invoke HTTP/1.0\r\nContent-Length: 15\r\n\r\n{"text": "a b"}')
        received = b"".join(iter(lambda: raw.recv(4096), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b'{"word": "a"}\n{"word": "b"}\n'


def test_openapi_says_that_it_streams(model: Served) -> None:
    answer = model.call("/openapi.json")[1]["paths"]["/invoke"]["post"]["responses"]["200"]
    assert list(answer["content"]) == ["application/x-ndjson"]


def test_calls_over_the_limit_are_503_with_retry_after(tmp_path: Path) -> None:
    code = """
import sys, threading
from xumi import Model

class Stream(Model):
    def predict(self, text):
        print("xumi: called", file=sys.stderr, flush=True)
        threading.Event().wait(60)
"""
    process = start(lay_out(tmp_path, STREAMING, code))
    try:
        model = Served(process)
        model.line("xumi: ready")
        host, port = model.url.removeprefix("http://").split(":")
        body = b'POST /invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{"text":"a"}'
        waiting = [socket.create_connection((host, int(port)), timeout=20) for _ in range(9)]
        for connection in waiting:
            connection.sendall(body)
        model.line("xumi: called")
        # One runs and eight wait, all there are places for; only the one that finds none is answered now.
        seen: list[tuple[int, str | None]] = []

        def ask() -> None:
            with suppress(OSError):  # those that wait are cut off at the end
                answer = invoke(model, "b")
                seen.append((answer.status, answer.getheader("Retry-After")))

        asking = [threading.Thread(target=ask, daemon=True) for _ in range(9)]
        for thread in asking:
            thread.start()
        while not seen:
            asking[-1].join(0.05)
        assert set(seen) == {(503, "1")}
        for connection in waiting:
            connection.close()
    finally:
        process.kill()
        process.wait()


def test_a_model_can_listen_on_a_socket_instead_of_a_port(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    process = start(lay_out(tmp_path / "files", STREAMING, STREAM), XUMI_SOCKET=str(path))
    try:
        lines = (line for line in process.stderr or ())
        assert f"listening on unix:{path}" in next(lines)
        assert "ready" in next(lines)
        assert path.stat().st_mode & 0o777 == 0o666, "the container's user makes it, the host's connects"
        caller = Caller(f"unix:{path}")
        assert caller.ready()
        assert caller.manifest()["name"] == "acme/stream"
        assert list(caller.invoke({"text": "a b"})) == [{"word": "a"}, {"word": "b"}]
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert not caller.ready()


def test_a_program_of_its_own_is_reached_through_the_socket_too(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("up", file=sys.stderr, flush=True)
server.serve_forever()
"""
    folder = lay_out(tmp_path / "files", {}, code)
    manifest = {
        **STREAMING,
        "runtime": {"port": port},
        "entry": {"command": ["python3", "-u", "model/serve.py", str(port)]},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    path = tmp_path / "m.sock"
    process = start(folder, XUMI_SOCKET=str(path))
    try:
        assert "up" in next(line for line in process.stderr or () if "up" in line)
        assert Caller(f"unix:{path}").manifest() == {}
    finally:
        process.kill()
        process.wait()


def test_a_caller_says_what_went_wrong(model: Served) -> None:
    with pytest.raises(CallFailed) as caught:
        list(Caller(model.url).invoke({"txt": "a"}))
    assert (caught.value.status, caught.value.code, caught.value.field) == (422, "invalid_input", "txt")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(CallFailed, match="does not answer") as caught:
            list(Caller(f"http://127.0.0.1:{closed.getsockname()[1]}").invoke({}))
    assert caught.value.status == 0
    for address in ("127.0.0.1:80", "ftp://x", "http://", "unix:", "http://x:notaport"):
        with pytest.raises(CallFailed, match="is no address"):
            Caller(address).manifest()


def test_large_files_travel_as_a_form_and_small_ones_as_json(tmp_path: Path) -> None:
    manifest = {
        **STREAMING,
        "interface": {
            "inputs": [
                {"name": "blob", "type": "file"},
                {"name": "note", "type": "text"},
                {"name": "n", "type": "integer"},
            ],
            "outputs": [{"name": "facts", "type": "object"}],
        },
    }
    code = """
import hashlib
from xumi import Model

class Stream(Model):
    def predict(self, blob, note, n):
        return {"facts": [hashlib.sha256(blob.data).hexdigest(), blob.media_type, blob.name, note, n]}
"""
    import hashlib

    with served(lay_out(tmp_path, manifest, code)) as running:
        for size in (10, 3_000_000):
            data = bytes(range(256)) * (size // 256 + 1)
            file = File(data, "image/png", 'a "b".png')
            (found,) = Caller(running.url).invoke({"blob": file, "note": "5", "n": 5})
            facts = found["facts"]
            assert facts[0] == hashlib.sha256(data).hexdigest()
            assert (facts[1], facts[3], facts[4]) == ("image/png", "5", 5)
