"""Runs the two programs in this process, with a scripted service behind them."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from berth.cli.berth import COMMANDS as BERTH
from berth.cli.main import run
from berth.cli.xumi import COMMANDS as XUMI


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err.strip().splitlines()[-1])["error"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person with an empty XUMI_HOME and nothing in the environment."""
    for name in ("BERTH_URL", "BERTH_TOKEN", "BERTH_USER", "BERTH_KEY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def cli() -> Callable[..., Ran]:
    """cli("xumi", "push", …) → Ran"""

    def call(program: str, *arguments: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run(program, {"berth": BERTH, "xumi": XUMI}[program], arguments)
        return Ran(code, out.getvalue(), err.getvalue())

    return call


@dataclass
class Service:
    """A table of "METHOD path" → (status, body); what is missing is 404. `asked` notes (line, body, token).

    An entry "METHOD path?word" answers where `word` is in the query; `queries` notes those.
    """

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, Any, str | None]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A scripted service that BERTH_URL and BERTH_TOKEN point at."""
    scripted = Service()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            content = self.rfile.read(length)
            path, _, query = self.path.partition("?")
            line = f"{self.command} {path}"
            scripted.queries.append(query)
            scripted.asked.append((line, json.loads(content) if content else None, self.headers.get("authorization")))
            missing = {"status": 404, "code": "not_found", "detail": f"{line} is not scripted.", "hint": "Script it."}
            status, body = scripted.answers.get(line, (404, missing))
            for entry, special in scripted.answers.items():
                before, mark, word = entry.partition("?")
                if mark and before == line and word in query:
                    status, body = special
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("BERTH_URL", scripted.url)
    monkeypatch.setenv("BERTH_TOKEN", "secret-token")
    yield scripted
    server.shutdown()
    server.server_close()
    thread.join()
