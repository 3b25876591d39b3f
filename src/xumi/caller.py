"""How is a served model called from Python? Over HTTP/1.1, to an address or to a Unix socket; no proxy in between."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from xumi.relay import connect_unix
from xumi.values import File

# Larger files travel as multipart/form-data, where they are not a third longer than they are.
FORM_BYTES = 1024 * 1024


class CallFailed(Exception):
    """The model, or what answers at its address, refused or failed. `status` is 0 when there was no answer at all."""

    def __init__(self, status: int, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field


class Caller:
    """One served model.

    Args:
        address: "http://host:port", "https://…", or "unix:/path/of/socket".
        timeout: seconds that the model may be silent.
    """

    def __init__(self, address: str, timeout: float = 300.0) -> None:
        self.address = address
        self.timeout = timeout
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https", "unix") or not (
            parts.path if parts.scheme == "unix" else parts.hostname
        ):
            raise CallFailed(0, "address", f"{address!r} is no address of a model; write http://HOST:PORT")
        self._parts = parts
        self._prefix = "" if parts.scheme == "unix" else parts.path.rstrip("/")

    def ready(self) -> bool:
        """Whether the model takes calls now."""
        try:
            return self._ask("GET", "/healthz/ready", timeout=min(self.timeout, 5.0))[0] == 200
        except CallFailed:
            return False

    def manifest(self) -> Dict[str, Any]:
        """What the model says about itself. Raises CallFailed."""
        status, found = self._ask("GET", "/xumi")
        if status != 200 or not isinstance(found, dict):
            raise _failure(status, found)
        return found

    def invoke(self, inputs: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
        """The outputs of one call: one object, or one for each piece of a streaming model.

        Args:
            inputs: JSON values, and File for files.
        Raises:
            CallFailed: also in the middle of a stream.
        """
        body, kind = _encode(inputs)
        connection = self._connect(self.timeout)
        try:
            answer = self._send(connection, "POST", "/invoke", body, kind)
            if answer.status != 200:
                raise _failure(answer.status, _decode(answer.read()))
            if answer.getheader("Content-Type", "").partition(";")[0].strip() != "application/x-ndjson":
                yield _outputs(_decode(answer.read()))
                return
            for line in iter(answer.readline, b""):
                found = _outputs(_decode(line))
                if set(found) == {"error"}:
                    raise _failure(200, found)
                yield found
        except (OSError, http.client.HTTPException) as error:
            raise _silent(self.address, error) from None
        finally:
            connection.close()

    def _ask(self, method: str, path: str, *, timeout: Optional[float] = None) -> Tuple[int, Any]:
        connection = self._connect(timeout or self.timeout)
        try:
            answer = self._send(connection, method, path, None, None)
            return answer.status, _decode(answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise _silent(self.address, error) from None
        finally:
            connection.close()

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Optional[bytes], kind: Optional[str]
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json, application/x-ndjson"}
        if kind:
            headers["Content-Type"] = kind
        connection.request(method, self._prefix + path, body=body, headers=headers)
        return connection.getresponse()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        if self._parts.scheme == "unix":
            return _UnixConnection(Path(self._parts.path), timeout)
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        try:
            return kind(self._parts.hostname or "", self._parts.port, timeout=timeout)
        except ValueError as error:
            raise CallFailed(0, "address", f"{self.address!r} is no address of a model: {error}") from None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock: socket.socket = connect_unix(self._path)
        self.sock.settimeout(self.timeout)


def _encode(inputs: Mapping[str, Any]) -> Tuple[bytes, str]:
    """Body and content type of a call."""
    if any(isinstance(v, File) and len(v.data) > FORM_BYTES for v in inputs.values()):
        return _form(inputs)
    plain = {name: v.to_json() if isinstance(v, File) else v for name, v in inputs.items()}
    return json.dumps(plain).encode(), "application/json"


def _form(inputs: Mapping[str, Any]) -> Tuple[bytes, str]:
    boundary = secrets.token_hex(24)
    pieces = []
    for name, value in inputs.items():
        head = f'Content-Disposition: form-data; name="{name}"'
        if isinstance(value, File):
            file_name = (
                (value.name or "file").replace("\\", "_").replace('"', "_").replace("\r", "_").replace("\n", "_")
            )
            head += f'; filename="{file_name}"\r\nContent-Type: {value.media_type}'
            data = value.data
        else:
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        pieces.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    return b"".join(pieces) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _outputs(found: Any) -> Dict[str, Any]:
    if not isinstance(found, dict):
        raise CallFailed(200, "not_json", "the answer is no JSON object")
    return found


def _failure(status: int, found: Any) -> CallFailed:
    """The runtime's error, or what can be said of any other answer."""
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        code, field = str(error.get("code", "")), str(error.get("field", ""))
        return CallFailed(status, code, str(error.get("message", "no message")), field)
    return CallFailed(status, "http", f"the answer was HTTP {status} without a message")


def _silent(address: str, error: Exception) -> CallFailed:
    if isinstance(error, TimeoutError):
        return CallFailed(0, "timeout", f"{address} did not answer in time")
    return CallFailed(
        0, "unreachable", f"{address} does not answer: {getattr(error, 'strerror', None) or error or repr(error)}"
    )
