"""Starts Debian's `docker-registry` (Distribution 2.8) on a free loopback port."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = "docker-registry"
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_CONFIG = """\
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: 127.0.0.1:0}}
{more}
"""


@contextmanager
def running_registry(folder: Path, more: str = "") -> Iterator[str]:
    """Yields the registry's URL; `more` is added to its configuration."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"the program {PROGRAM} is not installed")
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(root=folder / "data", more=more))
    process = subprocess.Popen(
        [PROGRAM, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    lines: list[str] = []
    address = None
    for line in process.stderr:
        lines.append(line)
        found = _LISTENING.search(line)
        if found:
            address = found.group(1)
            break
    if address is None:
        raise RuntimeError(f"{PROGRAM} ended: {''.join(lines)}")
    # Its log has to be read for ever, or it stops when the pipe is full.
    reader = threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True)
    reader.start()
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=20)
        reader.join(timeout=5)
        process.stderr.close()
