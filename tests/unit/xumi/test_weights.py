"""Weights at start: mounted, fetched and checked, or named as missing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.xumi.serving import lay_out, run_to_end, served

CONTENT = {"a.bin": b"alpha" * 1000, "deep/b.bin": b"beta" * 2000}
CODE = """
from xumi import Model
class M(Model):
    def setup(self):
        self.size = sum(p.stat().st_size for p in self.weights["main"].rglob("*.bin"))
    def predict(self):
        return self.size
"""


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def folder(tmp_path: Path) -> Path:
    manifest = {
        "name": "acme/w",
        "entry": {"python": "serve:M"},
        "interface": {"outputs": [{"name": "size", "type": "integer"}]},
        "checkpoints": [{"name": "main", "mount": str(tmp_path / "mount")}],
    }
    listed = [
        {"checkpoint": "main", "mount": str(tmp_path / "mount"), "path": p, "digest": digest(c), "size": len(c)}
        for p, c in CONTENT.items()
    ]
    return lay_out(tmp_path / "opt", manifest, CODE, listed)


class Store:
    """An HTTP server of blobs; `answers` overrides what it sends for a digest."""

    def __init__(self) -> None:
        self.blobs = {digest(c): c for c in CONTENT.values()}
        self.seen: list[tuple[str, str | None]] = []
        self.failures = 0
        self.redirect = ""
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.seen.append((self.path, self.headers.get("Authorization")))
                if store.failures:
                    store.failures -= 1
                    self.send_error(503)
                    return
                if store.redirect and self.path.startswith("/w/"):
                    self.send_response(307)
                    self.send_header("Location", store.redirect + self.path.replace("/w/", "/storage/"))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                data = store.blobs.get(self.path.rpartition("/")[2])
                if data is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_with_none_it_exits_3_and_names_every_missing_file(tmp_path: Path) -> None:
    status, log = run_to_end(folder(tmp_path))
    assert status == 3
    for path, content in CONTENT.items():
        assert f"{tmp_path / 'mount' / path}  missing" in log
        assert digest(content) in log


def test_mounted_weights_are_used_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path)
    for path, content in CONTENT.items():
        (tmp_path / "mount" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / path).write_bytes(content)
    with served(root) as model:
        assert model.call("/invoke", {}) == (200, {"size": 13_000})
    (tmp_path / "mount" / "a.bin").write_bytes(b"short")
    status, log = run_to_end(root)
    assert status == 3
    assert "has 5 bytes, not 5000" in log
    (tmp_path / "mount" / "a.bin").write_bytes(b"x" * 5000)
    status, log = run_to_end(root, XUMI_WEIGHTS_VERIFY="1")
    assert status == 3
    assert "does not have the digest" in log


def test_missing_weights_are_fetched_with_the_token_after_a_passing_failure(tmp_path: Path, store: Store) -> None:
    store.failures = 1
    with served(folder(tmp_path), XUMI_WEIGHTS_URL=f"{store.url}/w", XUMI_WEIGHTS_TOKEN="t0ken") as model:
        assert model.call("/invoke", {}) == (200, {"size": 13_000})
        assert not any("t0ken" in line for line in model.log)
    assert {auth for _, auth in store.seen} == {"Bearer t0ken"}
    for path, content in CONTENT.items():
        assert (tmp_path / "mount" / path).read_bytes() == content
    assert not list((tmp_path / "mount").rglob("*.partial"))


def test_a_redirect_never_gets_the_token(tmp_path: Path, store: Store) -> None:
    store.redirect = store.url
    with served(folder(tmp_path), XUMI_WEIGHTS_URL=f"{store.url}/w", XUMI_WEIGHTS_TOKEN="t0ken"):
        pass
    assert {auth for path, auth in store.seen if path.startswith("/storage/")} == {None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x" * 5000, "does not have the digest"),
        (b"x" * 4999, "sent 4999 bytes, not 5000"),
        (b"x" * 5001, "more than 5000 bytes"),
        (None, "404"),
    ],
)
def test_fetched_weights_with_other_content_are_refused(
    tmp_path: Path, store: Store, content: bytes | None, words: str
) -> None:
    wanted = digest(CONTENT["a.bin"])
    if content is None:
        del store.blobs[wanted]
    else:
        store.blobs[wanted] = content
    status, log = run_to_end(folder(tmp_path), XUMI_WEIGHTS_URL=f"{store.url}/w")
    assert status == 3
    assert words in log
    assert not (tmp_path / "mount" / "a.bin").exists()
    assert not list((tmp_path / "mount").rglob("*.partial"))
