"""The real libraries that write weights, in a folder of their own, so that the tests' environment stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from berth.authoring import templates
from berth.oci.reference import ModelName

# What the scikit-learn template itself asks for, and the writers of the other formats.
WRITERS = ("safetensors", "gguf", "onnx")


_INSTALLED: list[Path] = []


def install(folder: Path) -> Path:
    """Installs from the package index, once for all tests; skips the test, saying so, where there is none."""
    if _INSTALLED:
        return _INSTALLED[0]
    requirements = folder / "requirements.txt"
    pins = templates.texts(ModelName.parse("acme/iris"), "sklearn")["requirements.txt"]
    requirements.write_text(pins + "".join(f"{name}\n" for name in WRITERS))
    target = folder / "site-packages"
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(target), "--no-build"]
    done = subprocess.run(
        [*command, "--python", sys.executable, "-r", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        pytest.skip(f"NO PACKAGE INDEX: scikit-learn, safetensors, gguf and onnx were not tried: {done.stderr[-300:]}")
    _INSTALLED.append(target)
    return target


def python(libraries: Path, code: str, *arguments: str | Path) -> str:
    """Runs code that sees the libraries; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(libraries)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
