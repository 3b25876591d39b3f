"""Package indexes as pip and uv are told about them: credentials and netrc hold, and no error names them."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from berth.authoring.base import Platform
from berth.authoring.installers import Installer, Target
from berth.authoring.requirements import resolved
from berth.errors import InvalidInput
from tests.unit.authoring.test_requirements import make_wheel

TARGET = Target("3.11", Platform("linux", "amd64"), glibc=(2, 36))
PASSWORD = "pa55word"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A simple index (PEP 503) on loopback that answers only to ada; gives host:port."""
    make_wheel(tmp_path / "served", "madealpha")
    wheel = next((tmp_path / "served").iterdir())
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    page = f'<a href="/files/{wheel.name}#sha256={sha256}">{wheel.name}</a>'.encode()
    expected = "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic realm=x")
                self.end_headers()
                return
            body = {"/simple/madealpha/": page, f"/files/{wheel.name}": wheel.read_bytes()}.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html" if body == page else "application/octet-stream")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_NO_INDEX", "UV_FIND_LINKS", "UV_OFFLINE", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def installs(installer: Installer, root: Path, requirements: list[str] | None = None) -> None:
    with resolved(requirements or ["madealpha"], root, TARGET, installer=installer) as found:
        assert [p.name for p in found.packages] == ["madealpha"]
        names = [entry.name for part in found.install() for entry in part.entries]
    assert "opt/xumi/site-packages/madealpha/__init__.py" in names


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_what_pips_configuration_says_holds_for_both(tmp_path: Path, index: str, installer: Installer) -> None:
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = http://ada:{PASSWORD}@{index}/simple\n")
    installs(installer, tmp_path)


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_netrc_gives_the_credentials(tmp_path: Path, index: str, installer: Installer) -> None:
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = http://{index}/simple\n")
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login ada password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    installs(installer, tmp_path)


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_an_index_in_the_requirements_holds(tmp_path: Path, index: str, installer: Installer) -> None:
    address = f"http://ada:{PASSWORD}@{index}/simple"
    installs(installer, tmp_path, [f"--index-url {address}", "madealpha"])


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_errors_name_neither_address_nor_password(tmp_path: Path, index: str, installer: Installer) -> None:
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = http://ada:wrong{PASSWORD}@{index}/simple\n")
    with pytest.raises(InvalidInput) as caught:
        installs(installer, tmp_path)
    assert PASSWORD not in str(caught.value)
    assert index not in str(caught.value)
