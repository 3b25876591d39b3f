"""Kill the server while bytes flow: what was acknowledged is there, what was not is nowhere, and uploads go on."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
from base64 import b64encode
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.disks import small_disk
from tests.support.processes import BerthFactory, BerthProcess, poll


class Pusher:
    """Speaks HTTP/1.1 over one socket, so that a body can be left half sent."""

    def __init__(self, berth: BerthProcess) -> None:
        self.berth = berth
        self.auth = "Basic " + b64encode(f"admin:{berth.admin_token}".encode()).decode()

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(self.berth.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        sent = {"Authorization": self.auth, **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection.request(method, path, body=body, headers=sent)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content

    def half(self, path: str, data: bytes, announced: int) -> socket.socket:
        """Send the head of a PATCH that announces `announced` bytes, and `data` of them; returns the open socket."""
        parts = urlsplit(self.berth.url)
        connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30)
        head = (
            f"PATCH {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: {self.auth}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {announced}\r\n\r\n"
        )
        connection.sendall(head.encode() + data)
        return connection


@pytest.fixture
def pusher(berth_factory: BerthFactory) -> Pusher:
    berth = berth_factory().start()
    pusher = Pusher(berth)
    body = json.dumps({"name": "lab", "policy": "open"}).encode()
    status, _, content = pusher.request("POST", "/api/v1/projects", body, Content_Type="application/json")
    assert status == 201, content
    return pusher


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def begin(pusher: Pusher) -> str:
    status, headers, _ = pusher.request("POST", "/v2/lab/demo/blobs/uploads/", b"")
    assert status == 202
    return headers["location"]


def depot_files(berth: BerthProcess, folder: str) -> list[Path]:
    return [path for path in (berth.data / "depot" / folder).rglob("*") if path.is_file()]


def test_an_upload_goes_on_after_the_server_was_killed(pusher: Pusher) -> None:
    data = os.urandom(6_000_000)
    where = begin(pusher)
    assert pusher.request("PATCH", where, data[:4_000_000])[0] == 202
    half = pusher.half(where, data[4_000_000:5_000_000], announced=2_000_000)
    server = pusher.berth.children["server"]
    pusher.berth.kill()
    half.close()
    poll(lambda: not Path(f"/proc/{server}").exists(), what="the server ends with its supervisor")
    pusher.berth.start()
    status, headers, _ = pusher.request("GET", where)
    assert status == 204
    done = int(headers["range"].partition("-")[2]) + 1
    assert done >= 4_000_000
    assert pusher.request("PATCH", where, data[done:], Content_Range=f"{done}-{len(data) - 1}")[0] == 202
    assert pusher.request("PUT", f"{where}?digest={sha256(data)}", b"")[0] == 201
    assert pusher.request("GET", f"/v2/lab/demo/blobs/{sha256(data)}")[2] == data


def test_what_was_acknowledged_before_a_kill_is_there_and_nothing_else_is_visible(pusher: Pusher) -> None:
    """Pushers at work, a kill at some moment: every 201 must be readable, every blob that is readable must be whole."""
    acknowledged: list[str] = []
    tried: list[str] = []
    stop = threading.Event()

    def push() -> None:
        while not stop.is_set():
            data = os.urandom(200_000)
            tried.append(sha256(data))
            try:
                status, _, _ = pusher.request("POST", f"/v2/lab/demo/blobs/uploads/?digest={sha256(data)}", data)
            except (OSError, http.client.HTTPException):
                return
            if status == 201:
                acknowledged.append(sha256(data))

    threads = [threading.Thread(target=push) for _ in range(3)]
    for thread in threads:
        thread.start()
    poll(lambda: len(acknowledged) >= 20, what="twenty blobs are acknowledged")
    pusher.berth.kill()
    stop.set()
    for thread in threads:
        thread.join()
    pusher.berth.start()
    for digest in acknowledged:
        status, _, content = pusher.request("GET", f"/v2/lab/demo/blobs/{digest}")
        assert (status, sha256(content)) == (200, digest)
    for digest in set(tried) - set(acknowledged):
        status, _, content = pusher.request("GET", f"/v2/lab/demo/blobs/{digest}")
        assert status == 404 or sha256(content) == digest


def test_a_dropped_connection_leaves_no_blob_and_its_session_goes_on(pusher: Pusher) -> None:
    data = os.urandom(3_000_000)
    where = begin(pusher)
    pusher.half(where, data[:1_500_000], announced=len(data)).close()

    def acknowledged() -> int:
        _, headers, _ = pusher.request("GET", where)
        return int(headers["range"].partition("-")[2]) + 1

    poll(lambda: acknowledged() > 1, what="what arrived is acknowledged")
    done = acknowledged()
    assert done <= 1_500_000
    assert pusher.request("HEAD", f"/v2/lab/demo/blobs/{sha256(data)}")[0] == 404
    assert pusher.request("PUT", f"{where}?digest={sha256(data)}", data[done:])[0] == 201
    assert depot_files(pusher.berth, "uploads") == []


def test_a_full_disk_refuses_uploads_and_recovers(berth_factory: BerthFactory, tmp_path: Path) -> None:
    """A depot on a file system of four megabytes."""
    data = tmp_path / "small"
    with small_disk(data / "depot", megabytes=4):
        pusher = Pusher(berth_factory(data=data).start())
        body = json.dumps({"name": "lab", "policy": "open"}).encode()
        assert pusher.request("POST", "/api/v1/projects", body, Content_Type="application/json")[0] == 201
        big, small = os.urandom(8_000_000), os.urandom(100_000)
        status, _, content = pusher.request("POST", f"/v2/lab/demo/blobs/uploads/?digest={sha256(big)}", big)
        assert status == 507
        assert "full" in json.loads(content)["errors"][0]["message"]
        assert pusher.request("HEAD", f"/v2/lab/demo/blobs/{sha256(big)}")[0] == 404
        assert pusher.request("POST", f"/v2/lab/demo/blobs/uploads/?digest={sha256(small)}", small)[0] == 201
        assert pusher.request("GET", f"/v2/lab/demo/blobs/{sha256(small)}")[2] == small
        pusher.berth.stop()
