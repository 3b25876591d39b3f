"""A build without a lock asks an index again after ten minutes, or when anything else that it chose by changed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from berth.authoring import recent
from berth.authoring.build import Built, build
from berth.authoring.options import Options
from berth.authoring.pinning import lock
from berth.authoring.repository import LocalRepository
from tests.unit.authoring.conftest import MANIFEST
from tests.unit.authoring.test_requirements import make_wheel

Make = Callable[..., Path]
PASSWORD = "pa55word"
ONE = MANIFEST.replace("runtime:\n", "runtime:\n  requirements: [madealpha]\n")
TWO = MANIFEST.replace("runtime:\n", "runtime:\n  requirements: [madealpha, madebeta]\n")
FILE = MANIFEST.replace("runtime:\n", "runtime:\n  requirements: requirements.txt\n")


class Index:
    """A simple index (PEP 503) over a folder; `asked` are the paths that were read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                body = index.body(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write((body or b"") if self.command == "GET" else b"")

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://ada:{PASSWORD}@127.0.0.1:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def body(self, path: str) -> bytes | None:
        name = path.strip("/").rpartition("/")[2]
        if path.startswith("/files/"):
            return (self.folder / name).read_bytes()
        wheels = sorted(self.folder.glob(f"{name}-*.whl"))
        lines = [
            f'<a href="/files/{w.name}#sha256={hashlib.sha256(w.read_bytes()).hexdigest()}">{w.name}</a>'
            for w in wheels
        ]
        return "\n".join(lines).encode() if wheels else None


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in ("madealpha", "madebeta"):
        make_wheel(tmp_path / "served", name)
    made = Index(tmp_path / "served")
    for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX", "UV_FIND_LINKS", "UV_OFFLINE", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", made.url)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    yield made
    made.server.shutdown()
    made.server.server_close()


def asks(index: Index, root: Path, repository: LocalRepository, options: Options | None = None) -> tuple[bool, Built]:
    """Builds; whether the index was asked, and what was built."""
    index.asked.clear()
    built = build(root, repository, options=options)
    return bool(index.asked), built


def test_an_edit_of_code_asks_no_index(make_project: Make, repository: LocalRepository, index: Index) -> None:
    root = make_project(manifest=ONE)
    assert asks(index, root, repository)[0]
    (root / "serve.py").write_text((root / "serve.py").read_text() + "# changed\n")
    asked, built = asks(index, root, repository)
    assert not asked
    assert [layer.reused for layer in built.layers if layer.kind == "deps"] == [True]


def test_the_index_is_asked_again_when_ten_minutes_are_over(
    make_project: Make, repository: LocalRepository, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project(manifest=ONE)
    _, first = asks(index, root, repository)
    make_wheel(index.folder, "madealpha", "2.0")
    assert asks(index, root, repository)[1].digest == first.digest
    now = recent.time.time()
    monkeypatch.setattr(recent.time, "time", lambda: now + recent.SECONDS + 1)
    asked, second = asks(index, root, repository)
    assert asked
    assert second.digest != first.digest
    # A clock that was set back makes nothing young again.
    monkeypatch.setattr(recent.time, "time", lambda: now - 3600)
    assert asks(index, root, repository)[0]


def test_whatever_else_the_choice_depends_on_asks_again(
    make_project: Make, repository: LocalRepository, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_project(manifest=ONE)
    asks(index, root, repository)
    (root / "xumi.yaml").write_text(TWO)
    assert asks(index, root, repository)[0], "other requirements"
    assert not asks(index, root, repository)[0]
    monkeypatch.setenv("UV_PRERELEASE", "allow")
    assert asks(index, root, repository)[0], "a setting of uv"
    (root / "uv.toml").write_text('resolution = "lowest"\n')
    assert asks(index, root, repository)[0], "a file of uv's settings"
    monkeypatch.setenv("PIP_TRUSTED_HOST", "somewhere.example")
    assert asks(index, root, repository)[0], "a setting of pip"
    assert asks(index, root, LocalRepository(tmp_path / "elsewhere"))[0], "layers that are not here"
    assert asks(index, root, repository, Options(compression="none"))[0], "another compression"
    index.asked.clear()
    lock(root, repository)
    assert index.asked, "xumi lock always asks"


def test_a_new_wheel_in_a_folder_of_wheels_is_seen_at_once(
    make_project: Make, repository: LocalRepository, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "wheels", "madealpha")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    root = make_project(manifest=ONE)
    first = build(root, repository)
    make_wheel(tmp_path / "wheels", "madealpha", "3.0")
    second = build(root, repository)
    assert second.digest != first.digest
    (root / "xumi.yaml").write_text(FILE)
    (root / "requirements.txt").write_text(f"-f {tmp_path / 'wheels'}\nmadealpha\n")
    monkeypatch.delenv("PIP_FIND_LINKS")
    third = build(root, repository)
    make_wheel(tmp_path / "wheels", "madealpha", "4.0")
    assert build(root, repository).digest != third.digest


def test_what_is_remembered_holds_neither_addresses_nor_passwords(
    make_project: Make, repository: LocalRepository, index: Index
) -> None:
    asks(index, make_project(manifest=ONE), repository)
    text = "".join(path.read_text() for path in repository.home.glob("*.json"))
    assert "questions" in str([*repository.home.glob("*.json")])
    assert PASSWORD not in text
    assert "://" not in text
