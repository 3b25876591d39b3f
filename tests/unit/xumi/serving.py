"""Starts the runtime as a container would: `python3 -m xumi` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SRC = Path(__file__).parents[3] / "src"


def lay_out(folder: Path, manifest: Mapping[str, Any], code: str, weights: list[dict[str, Any]] | None = None) -> Path:
    """The files a build puts under /opt."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "weights.json").write_text(json.dumps({"files": weights or []}))
    (folder / "model" / "serve.py").write_text(code)
    return folder


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "PYTHONPATH": str(SRC),
        "XUMI_MANIFEST": str(folder / "manifest.json"),
        "XUMI_CODE": str(folder / "model"),
        "XUMI_HOST": "127.0.0.1",
        "XUMI_PORT": "0",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "xumi"], env=env, cwd=folder, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


class Served:
    """A running model."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self.changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        found = re.search(r":(\d+)$", self.line("listening on"))
        assert found
        self.url = f"http://127.0.0.1:{found[1]}"

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self.changed:
                self.log.append(line.rstrip("\n"))
                self.changed.notify_all()

    def line(self, words: str) -> str:
        """Waits for a line of the log."""
        with self.changed:
            assert self.changed.wait_for(lambda: any(words in entry for entry in self.log), timeout=30), self.log
            return next(entry for entry in self.log if words in entry)

    def call(
        self, path: str, body: Any = None, *, content_type: str = "application/json", headers: Any = None
    ) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={**({"Content-Type": content_type} if data else {}), **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@contextmanager
def served(folder: Path, **environment: str) -> Iterator[Served]:
    """A model that is ready; ended at exit."""
    process = start(folder, **environment)
    try:
        model = Served(process)
        model.line("xumi: ready")
        yield model
    finally:
        process.terminate()
        process.wait(timeout=30)


def run_to_end(folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and log of a model that does not stay."""
    process = start(folder, **environment)
    _, log = process.communicate(timeout=60)
    return process.returncode, log
