"""How long does one blob take to a registry or from it? A plain client, so that the server is what is measured.

Usage: python -m bench.transfer put|get URL REPOSITORY DIGEST [FILE]      prints {"seconds", "bytes"} as JSON
The credentials are BENCH_USER and BENCH_PASSWORD; a Bearer challenge is answered as the specification says.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import sys
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20


class TransferError(Exception):
    """The registry answered something else than success."""


@dataclass
class Registry:
    """One registry on loopback, spoken to over a kept connection."""

    url: str
    user: str | None = None
    password: str | None = None

    def __post_init__(self) -> None:
        self.host = urllib.parse.urlsplit(self.url).netloc
        self.connection = http.client.HTTPConnection(self.host, timeout=600)
        self.authorization: str | None = None

    def authorize(self, repository: str) -> None:
        """Answer the challenge of /v2/ once; a registry without one needs nothing."""
        response = self.call("GET", "/v2/")
        challenge = response.getheader("WWW-Authenticate") or ""
        if response.status != 401:
            return
        basic = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if challenge.lower().startswith("basic"):
            self.authorization = basic
            return
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        query = urllib.parse.urlencode(
            {"service": fields.get("service", ""), "scope": f"repository:{repository}:pull,push"}
        )
        realm = urllib.parse.urlsplit(fields["realm"])
        self.authorization = basic
        answer = self.call("GET", f"{realm.path}?{query}")
        document = json.loads(self.body)
        if answer.status != 200:
            raise TransferError(f"no token: {answer.status} {document}")
        self.authorization = "Bearer " + (document.get("token") or document["access_token"])

    def call(
        self, method: str, path: str, body: bytes | None = None, content_type: str = ""
    ) -> http.client.HTTPResponse:
        """One small request; its body is in `self.body`."""
        headers = {"Authorization": self.authorization} if self.authorization else {}
        if content_type:
            headers["Content-Type"] = content_type
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        self.body = response.read()
        return response

    def expect(
        self, status: int, method: str, path: str, body: bytes | None = None, content_type: str = ""
    ) -> http.client.HTTPResponse:
        response = self.call(method, path, body, content_type)
        if response.status != status:
            raise TransferError(f"{method} {path}: {response.status} {self.body[:300]!r}")
        return response

    def start_upload(self, repository: str) -> str:
        """The path to PUT to."""
        response = self.expect(202, "POST", f"/v2/{repository}/blobs/uploads/", b"")
        location = urllib.parse.urlsplit(response.getheader("Location") or "")
        return location.path + (f"?{location.query}" if location.query else "")

    def put(self, repository: str, digest: str, file: Path) -> float:
        """Upload a file in one request; seconds from the first byte to the answer."""
        path = self.start_upload(repository)
        path += ("&" if "?" in path else "?") + urllib.parse.urlencode({"digest": digest})
        size = file.stat().st_size
        begun = time.perf_counter()
        self.connection.putrequest("PUT", path)
        if self.authorization:
            self.connection.putheader("Authorization", self.authorization)
        self.connection.putheader("Content-Type", "application/octet-stream")
        self.connection.putheader("Content-Length", str(size))
        self.connection.endheaders()
        with file.open("rb") as source:
            self.connection.sock.sendfile(source)
        response = self.connection.getresponse()
        self.body = response.read()
        if response.status != 201:
            raise TransferError(f"PUT: {response.status} {self.body[:300]!r}")
        return time.perf_counter() - begun

    def get(self, repository: str, digest: str) -> tuple[float, int]:
        """Read a blob and throw it away; seconds and bytes."""
        request = f"GET /v2/{repository}/blobs/{digest} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n"
        if self.authorization:
            request += f"Authorization: {self.authorization}\r\n"
        name, _, port = self.host.rpartition(":")
        buffer = memoryview(bytearray(PIECE))
        begun = time.perf_counter()
        with socket.create_connection((name, int(port)), timeout=600) as sock:
            sock.sendall(f"{request}\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                piece = sock.recv(65536)
                if not piece:
                    raise TransferError(f"the connection ended in the head of the answer: {head[:200]!r}")
                head += piece
            head, _, rest = head.partition(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise TransferError(f"GET: {head[:300]!r} {rest[:300]!r}")
            got = len(rest)
            while count := sock.recv_into(buffer):
                got += count
        return time.perf_counter() - begun, got


def main(arguments: list[str]) -> None:
    verb, url, repository, digest, *rest = arguments
    registry = Registry(url, os.environ.get("BENCH_USER"), os.environ.get("BENCH_PASSWORD"))
    registry.authorize(repository)
    if verb == "put":
        file = Path(rest[0])
        seconds, size = registry.put(repository, digest, file), file.stat().st_size
    else:
        seconds, size = registry.get(repository, digest)
    print(json.dumps({"seconds": seconds, "bytes": size}))


if __name__ == "__main__":
    main(sys.argv[1:])
