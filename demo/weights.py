"""Which real weights does the demo wrap? The ONNX network in the PyPI wheel of magika, and magika itself as the oracle.

The wheel comes from the machine's package index, pinned by hash in source.txt, and is kept in the demo's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL_FOLDER = "magika/models/standard_v3_3"
# magika wants `click` only for its program; what answers here is its Python class.
ORACLE = """
import json, sys, pathlib, magika
found = magika.Magika().identify_bytes(pathlib.Path(sys.argv[1]).read_bytes())
print(json.dumps({"label": str(found.dl.label), "score": float(found.score)}))
"""


@dataclass(frozen=True)
class Source:
    """What was taken out of the wheel."""

    network: Path
    config: Path
    package: Path
    wheel: str


def prepare(cache: Path) -> Source:
    """Download the wheel once, take network and configuration out of it, and unpack the package for the oracle."""
    folder = cache / "magika"
    wheels = sorted(folder.glob("magika-*.whl"))
    if not wheels:
        folder.mkdir(parents=True, exist_ok=True)
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
             "--dest", str(folder), "-r", str(HERE / "source.txt")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if fetched.returncode != 0:
            raise SystemExit(f"the model's wheel can't be downloaded:\n{fetched.stderr.strip()}")
        wheels = sorted(folder.glob("magika-*.whl"))
    package = folder / "package"
    if not package.is_dir():
        scratch = folder / ".unpacking"
        shutil.rmtree(scratch, ignore_errors=True)
        with zipfile.ZipFile(wheels[0]) as archive:
            # The program in the wheel is 34 MB of machine code that nobody here needs.
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith("magika/")])
        scratch.rename(package)
    model = package / MODEL_FOLDER
    return Source(model / "model.onnx", model / "config.min.json", package, wheels[0].name)


def oracle(source: Source, sample: Path) -> tuple[str, float]:
    """What magika itself says about a file: label and score."""
    said = subprocess.run(
        [sys.executable, "-c", ORACLE, str(sample)],
        env={**os.environ, "PYTHONPATH": str(source.package)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answer = json.loads(said.stdout)
    return answer["label"], answer["score"]
