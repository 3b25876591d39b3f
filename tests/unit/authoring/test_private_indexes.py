"""Indexes that ask for a password: key ring, netrc and per-package indexes, by uv and by pip, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from berth.authoring.base import Platform
from berth.authoring.installers import Installer, Target
from berth.authoring.requirements import resolved
from berth.errors import InvalidInput
from tests.unit.authoring.test_requirements import make_wheel

USER, PASSWORD = "ada", "correct-horse"
PROGRAMS = Path(sys.executable).parent
TARGET = Target(f"{sys.version_info.major}.{sys.version_info.minor}", Platform("linux", "amd64"))
BOTH = pytest.mark.parametrize("installer", ["uv", "pip"])


@dataclass
class Index:
    """A simple index (PEP 503) of the wheels in a folder; with `wanted`, that Authorization header or 401."""

    folder: Path
    wanted: str | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/simple"

    def answer(self, path: str) -> tuple[int, bytes]:
        where, _, name = path.strip("/").partition("/")
        if where == "files":
            return 200, (self.folder / name).read_bytes()
        found = sorted(self.folder.glob(f"{name}-*.whl"))
        hashes = [hashlib.sha256(f.read_bytes()).hexdigest() for f in found]
        links = [f'<a href="/files/{f.name}#sha256={h}">{f.name}</a>' for f, h in zip(found, hashes, strict=True)]
        return (200 if found else 404), "".join(links).encode()


def serve(index: Index) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = self.headers.get("authorization")
            index.asked.append((self.path, said))
            if index.wanted is not None and said != index.wanted:
                status, body = 401, b""
            else:
                status, body = index.answer(self.path)
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Type", "application/octet-stream" if "/files/" in self.path else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person without any configuration, whose key ring is a file of their own."""
    for name in os.environ:
        if name.startswith(("UV_", "PIP_", "NETRC")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "person"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    (tmp_path / "person").mkdir()


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Index]:
    make_wheel(tmp_path / "private", "madealpha", "2.0")
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    index = Index(tmp_path / "private", f"Basic {token}")
    server = serve(index)
    yield index
    server.shutdown()
    server.server_close()


def found(root: Path, installer: Installer, *requirements: str) -> dict[str, str]:
    with resolved(list(requirements), root, TARGET, installer=installer) as done:
        done.install()
        return {p.name: p.version for p in done.packages}


def into_keyring(service: str) -> None:
    subprocess.run([PROGRAMS / "keyring", "set", service, USER], input=PASSWORD, text=True, check=True)


def named(url: str) -> str:
    """The address with the user's name, which tells a key ring what to look for."""
    return url.replace("://", f"://{USER}@")


@BOTH
def test_the_password_comes_from_the_key_ring_when_pip_is_told_so(
    private: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: Installer
) -> None:
    into_keyring(f"127.0.0.1:{private.port}")
    monkeypatch.setenv("PIP_INDEX_URL", named(private.url))
    with pytest.raises(InvalidInput):
        found(tmp_path, installer, "madealpha")
    monkeypatch.setenv("PIP_KEYRING_PROVIDER", "import")
    assert found(tmp_path, installer, "madealpha") == {"madealpha": "2.0"}
    assert private.wanted in {said for _, said in private.asked}


def test_the_password_comes_from_the_key_ring_when_uv_is_told_so(
    private: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into_keyring(f"127.0.0.1:{private.port}")
    monkeypatch.setenv("UV_DEFAULT_INDEX", named(private.url))
    with pytest.raises(InvalidInput):
        found(tmp_path, "uv", "madealpha")
    monkeypatch.setenv("UV_KEYRING_PROVIDER", "subprocess")
    assert found(tmp_path, "uv", "madealpha") == {"madealpha": "2.0"}


@BOTH
def test_the_password_comes_from_netrc(
    private: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: Installer
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", private.url)
    netrc = tmp_path / "person" / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    assert found(tmp_path, installer, "madealpha") == {"madealpha": "2.0"}


@BOTH
def test_a_wrong_password_is_an_error_that_does_not_repeat_it(
    private: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: Installer
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", private.url.replace("://", f"://{USER}:not-the-password@"))
    with pytest.raises(InvalidInput) as caught:
        found(tmp_path, installer, "madealpha")
    assert "not-the-password" not in repr(vars(caught.value))
    assert "madealpha" in caught.value.message


def test_a_package_comes_from_the_index_that_pyproject_names_for_it(
    private: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`explicit`: nothing else is asked of that index, nor is that package asked for elsewhere."""
    for name in ("madealpha", "madebeta"):
        make_wheel(tmp_path / "public", name, "9.0")
    public = Index(tmp_path / "public")
    server = serve(public)
    monkeypatch.setenv("UV_INDEX_INNER_USERNAME", USER)
    monkeypatch.setenv("UV_INDEX_INNER_PASSWORD", PASSWORD)
    (tmp_path / "pyproject.toml").write_text(
        f"""\
[[tool.uv.index]]
name = "public"
url = "{public.url}"
default = true
[[tool.uv.index]]
name = "inner"
url = "{private.url}"
explicit = true
[tool.uv.sources]
MadeAlpha = {{index = "inner"}}
unused = {{index = "inner"}}
"""
    )
    try:
        assert found(tmp_path, "uv", "madealpha>=1", "madebeta") == {"madealpha": "2.0", "madebeta": "9.0"}
    finally:
        server.shutdown()
        server.server_close()
    assert {path.strip("/").split("/")[1].partition("-")[0] for path, _ in private.asked} == {"madealpha"}
    assert {path.strip("/").split("/")[1].partition("-")[0] for path, _ in public.asked} == {"madebeta"}
