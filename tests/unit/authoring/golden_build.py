"""Builds the golden project in a folder and prints its digests as JSON; `test_golden` runs it as a child in many ways.

Usage: python golden_build.py FOLDER SEED
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tarfile
from pathlib import Path

from berth.authoring import build as builder
from berth.authoring.compression import compressor_id
from berth.authoring.options import Options
from berth.authoring.packing import file_entry
from berth.authoring.repository import LocalRepository
from berth.oci import digest as digests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor
from berth.oci.layout import Layout

FILES = {
    "xumi.yaml": (
        b"xumi: 1\nname: acme/golden\nversion: 1.0.0\nlicense: MIT\n"
        b"interface:\n  inputs: [{name: x, type: number}]\n  outputs: [{name: y, type: number}]\n"
        b"entry: {python: 'serve:Golden'}\n"
        b"runtime:\n  base: oci-layout:../base\n  requirements: [madealpha, madebeta]\n"
        b"  environment: {B: '2', A: '1'}\n"
        b"checkpoints: [{name: main}]\n"
    ),
    "serve.py": b"from xumi import Model\n\n\nclass Golden(Model):\n    def predict(self, x): return {'y': x}\n",
    "tools/run.sh": b"#!/bin/sh\necho 1\n",
    "tools/gr\u00fc\u00dfe.txt": b"umlaut\n",
    "a/b/c/d.txt": b"deep\n" * 1000,
    "data.json": json.dumps(list(range(20_000))).encode(),
    "weights/one.bin": bytes(range(256)) * 64,
    "weights/two/three.bin": b"3" * 1000,
}
EXECUTABLE = "tools/run.sh"


def make_base(folder: Path) -> None:
    """One plain layer from constants."""
    layout = Layout(folder).create()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in {"etc/os-release": b"ID=golden\n", "usr/bin/python3.11": b"#!"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    layer = layout.write_blob(raw.getvalue())
    rootfs = {"type": "layers", "diff_ids": [layer.digest]}
    config = layout.write_blob(
        json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}).encode()
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": {"mediaType": media_types.OCI_CONFIG, "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": media_types.OCI_LAYER_TAR, "digest": layer.digest, "size": layer.size}],
    }
    body = layout.write_blob(json.dumps(manifest).encode())
    layout.add(Descriptor(media_types.OCI_MANIFEST, body.digest, body.size), "latest")


def make_project(folder: Path, seed: int) -> None:
    """The files, in another order and with other times for each seed."""
    chance = random.Random(seed)
    names = sorted(FILES)
    chance.shuffle(names)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name])
        if name == EXECUTABLE:
            path.chmod(0o700)
        os.utime(path, (chance.randrange(2**31), chance.randrange(2**31)))


def main(folder: Path, seed: int) -> None:
    make_base(folder / "base")
    make_project(folder / "project", seed)
    options = Options(bundle=True, installer="uv")
    real = builder.build(folder / "project", LocalRepository(folder / "home"), options=options)
    # The runtime is a part of every version and changes with this program; the golden digest leaves that out.
    builder.runtime_entries = lambda: iter([file_entry("opt/xumi/runtime/xumi/__init__.py", b"# golden\n")])
    golden = builder.build(folder / "project", LocalRepository(folder / "home2"), options=options)
    print(
        json.dumps(
            {
                "compressor": compressor_id("gzip"),
                "diff_ids": digests.of_bytes(" ".join(x.diff_id for x in golden.layers).encode()),
                "version": golden.digest,
                "real": real.digest,
                "saw": [os.getuid(), sys.version_info[:2], os.environ.get("TZ"), os.environ.get("PYTHONHASHSEED")],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
