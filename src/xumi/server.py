"""How is a model called? HTTP/1.1 on the standard library's server, one thread per connection.

GET /healthz/live · GET /healthz/ready · GET /xumi · GET /openapi.json · POST /invoke (JSON or multipart/form-data)

A model with `interface.streaming` answers /invoke with JSON lines, one object of outputs each, as they come; when it
fails on the way the last line is {"error": …}. `interface.open_inference` adds /v2 (see xumi.open_inference).
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Generator, Iterable, Iterator, Mapping, Optional
from urllib.parse import parse_qs, urlsplit

from xumi.contract import read_inputs, write_outputs
from xumi.model import Model
from xumi.multipart import read_form
from xumi.open_inference import OpenInference
from xumi.openapi import document
from xumi.problems import HttpProblem, InvalidValue

# Calls that may wait for their turn, for each that runs.
QUEUE_FACTOR = 8
JSON_LINES = "application/x-ndjson"


class Service:
    """The model and its state, shared by all connections."""

    def __init__(self, manifest: Mapping[str, Any], *, concurrency: int, max_body: int) -> None:
        self.manifest = manifest
        interface = manifest.get("interface") or {}
        self.inputs = list(interface.get("inputs") or ())
        self.outputs = list(interface.get("outputs") or ())
        self.streaming = bool(interface.get("streaming"))
        self.open_inference = OpenInference(manifest) if interface.get("open_inference") else None
        self.openapi = document(manifest)
        self.max_body = max_body
        self.model: Optional[Model] = None
        self.stopping = False
        self._active = 0
        self._quiet = threading.Condition()
        self._running = threading.BoundedSemaphore(concurrency)
        self._places = threading.BoundedSemaphore(concurrency * (1 + QUEUE_FACTOR))

    @property
    def ready(self) -> bool:
        return self.model is not None and not self.stopping

    def invoke(self, body: Dict[str, Any], *, as_base64: bool) -> Dict[str, Any]:
        """One call. Raises HttpProblem."""
        with self._turn(body) as (model, inputs):
            return write_outputs(self.outputs, self._predict(model, inputs), as_base64)

    def stream(self, body: Dict[str, Any], *, as_base64: bool) -> Generator[Dict[str, Any], None, None]:
        """One call of a model whose predict() gives its outputs piece by piece; the place is held until the end.

        Raises HttpProblem, at the start or between pieces.
        """
        with self._turn(body) as (model, inputs):
            pieces = self._predict(model, inputs)
            if isinstance(pieces, (str, bytes, Mapping)) or not isinstance(pieces, Iterable):
                kind = type(pieces).__name__
                raise InvalidValue(f"predict() of a streaming model must yield its outputs, not return {kind}")
            for piece in self._pieces(pieces):
                yield write_outputs(self.outputs, piece, as_base64)

    @contextmanager
    def _turn(self, body: Dict[str, Any]) -> Iterator[Any]:
        """Model and checked inputs, as soon as it is this call's turn. Raises HttpProblem."""
        model = self.model
        if model is None or self.stopping:
            raise HttpProblem(503, "not_ready", "The model is not ready.", headers={"Retry-After": "1"})
        try:
            inputs = read_inputs(self.inputs, body)
        except InvalidValue as error:
            raise HttpProblem(422, "invalid_input", str(error), error.path) from None
        if not self._places.acquire(blocking=False):
            raise HttpProblem(503, "busy", "Too many calls are waiting.", headers={"Retry-After": "1"})
        try:
            with self._running:
                if self.stopping:
                    raise HttpProblem(503, "not_ready", "The model is being stopped.", headers={"Retry-After": "1"})
                yield model, inputs
        except InvalidValue as error:
            print(f"xumi: the output breaks the contract: {error}", file=sys.stderr, flush=True)
            raise HttpProblem(500, "invalid_output", f"The model broke its contract: {error}", error.path) from None
        finally:
            self._places.release()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around one request, from its first byte read to its last byte written."""
        with self._quiet:
            self._active += 1
        try:
            yield
        finally:
            with self._quiet:
                self._active -= 1
                self._quiet.notify_all()

    def drain(self, seconds: float) -> None:
        """Waits until no request is being answered any more, so long at most."""
        with self._quiet:
            self._quiet.wait_for(lambda: self._active == 0, timeout=seconds)

    @staticmethod
    def _predict(model: Model, inputs: Dict[str, Any]) -> Any:
        try:
            return model.predict(**inputs)
        except InvalidValue as error:
            raise HttpProblem(422, "invalid_input", str(error), error.path) from None
        except Exception as error:  # noqa: BLE001 - the model is foreign code: whatever it raises is one failed call
            traceback.print_exc()
            raise HttpProblem(500, "model_failed", f"predict() raised {type(error).__name__}: {error}") from None

    @staticmethod
    def _pieces(pieces: Iterable[Any]) -> Iterator[Any]:
        """What a model yields; what it raises on the way is one failed call."""
        source = iter(pieces)
        try:
            while True:
                try:
                    piece = next(source)
                except StopIteration:
                    return
                except InvalidValue as error:
                    raise HttpProblem(422, "invalid_input", str(error), error.path) from None
                except Exception as error:  # noqa: BLE001 - same: foreign code
                    traceback.print_exc()
                    message = f"predict() raised {type(error).__name__}: {error}"
                    raise HttpProblem(500, "model_failed", message) from None
                yield piece
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "xumi"
    sys_version = ""
    timeout = 75
    server: Server

    def do_GET(self) -> None:
        self._answer(self._get)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        with self.server.service.busy():
            self._answer(self._post)

    def _get(self, path: str, query: Dict[str, Any]) -> Any:
        service = self.server.service
        if path == "/healthz/live":
            return {"status": "live"}
        if path == "/healthz/ready":
            if not service.ready:
                raise HttpProblem(503, "not_ready", "The model is not ready.", headers={"Retry-After": "1"})
            return {"status": "ready"}
        if path == "/xumi":
            return dict(service.manifest)
        if path == "/openapi.json":
            return service.openapi
        if service.open_inference is not None and path.startswith("/v2"):
            return service.open_inference.get(path, ready=service.ready)
        if path == "/invoke":
            raise HttpProblem(405, "method", "Use POST.", headers={"Allow": "POST"})
        raise HttpProblem(404, "not_found", f"There is no {path}.")

    def _post(self, path: str, query: Dict[str, Any]) -> Any:
        body = self._read_body()
        service = self.server.service
        if service.open_inference is not None and path.startswith("/v2/"):
            return service.open_inference.post(path, body, service.invoke, headers=dict(self.headers))
        if path != "/invoke":
            raise HttpProblem(404, "not_found", f"There is no POST {path}.")
        content_type = self.headers.get("Content-Type", "application/json")
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            try:
                inputs: Any = read_form(body, content_type, service.inputs)
            except InvalidValue as error:
                raise HttpProblem(422 if error.path else 400, "invalid_form", str(error), error.path) from None
        elif kind in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
            # curl -d sends JSON under the form type; what is no JSON is refused below anyway.
            try:
                inputs = json.loads(body or b"{}", parse_constant=_refuse_constant)
            except (ValueError, RecursionError) as error:
                raise HttpProblem(400, "not_json", f"The body is not JSON: {error}") from None
        else:
            raise HttpProblem(415, "media_type", "Send application/json or multipart/form-data.")
        as_base64 = query.get("tensors") == ["base64"]
        if service.streaming:
            return service.stream(inputs, as_base64=as_base64)
        return service.invoke(inputs, as_base64=as_base64)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            raise HttpProblem(411, "length_required", "Send a Content-Length.")
        text = self.headers.get("Content-Length", "0")
        if not text.isdigit():
            self.close_connection = True
            raise HttpProblem(400, "length", "Content-Length must be a number.")
        length = int(text)
        limit = self.server.service.max_body
        if length > limit:
            self.close_connection = True
            raise HttpProblem(413, "too_large", f"The body has {length} bytes; {limit} are allowed.")
        body = self.rfile.read(length)
        if len(body) != length:
            self.close_connection = True
            raise HttpProblem(400, "length", "The body is shorter than its Content-Length.")
        return body

    def _answer(self, handle: Any) -> None:
        started = time.monotonic()
        parts = urlsplit(self.path)
        headers: Dict[str, str] = {}
        pieces: Optional[Generator[Dict[str, Any], None, None]] = None
        try:
            status, content = 200, handle(parts.path, parse_qs(parts.query))
            if isinstance(content, Generator):
                # The first piece decides the status: what fails before it is an ordinary error.
                pieces, content = content, next(content, None)
        except HttpProblem as problem:
            pieces = None
            status, headers, content = problem.status, problem.headers, problem.to_json()
        try:
            if pieces is None:
                self._send(status, content, headers)
            else:
                self._send_lines(content, pieces)
        except ConnectionError:
            self.close_connection = True
        finally:
            if pieces is not None:
                pieces.close()
        if not parts.path.startswith("/healthz/"):
            seconds = time.monotonic() - started
            line = {"method": self.command, "path": parts.path, "status": status, "seconds": round(seconds, 4)}
            print(json.dumps(line), file=sys.stderr, flush=True)

    def _send(self, status: int, content: Any, headers: Mapping[str, str]) -> None:
        data = _encode(content)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_lines(self, first: Any, rest: Iterator[Any]) -> None:
        """JSON lines, each sent as soon as it is there: chunked, or up to the end of the connection for HTTP/1.0."""
        chunked = self.request_version != "HTTP/1.0"
        self.send_response(200)
        self.send_header("Content-Type", JSON_LINES)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self.end_headers()
        piece = first
        while piece is not None:
            self._send_line(piece, chunked)
            try:
                piece = next(rest, None)
            except HttpProblem as problem:
                self._send_line(problem.to_json(), chunked)
                break
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send_line(self, content: Any, chunked: bool) -> None:
        line = _encode(content) + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line) if chunked else line)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Calls are logged by _answer, as JSON."""


class Server(ThreadingHTTPServer):
    """Listens; `service` answers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, service: Service) -> None:
        self.service = service
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        # The standard server looks up its own name here, which can take seconds without a resolver.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is no error of ours.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class SocketServer(Server):
    """The same on a Unix socket, for containers that have no network; who may reach it is the folder's business."""

    address_family = getattr(socket, "AF_UNIX", socket.AF_INET)

    def __init__(self, path: Path, service: Service) -> None:
        self.path = path
        super().__init__(str(path), 0, service)

    def server_bind(self) -> None:
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.socket.bind(str(self.path))
        # The container's user owns it, and another one on the host connects.
        self.path.chmod(0o666)
        self.server_address = (str(self.path), 0)
        self.server_name, self.server_port = str(self.path), 0


def _encode(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
