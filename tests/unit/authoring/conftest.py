"""A tiny base image, a tiny project and a repository to build them in."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.authoring.repository import LocalRepository
from berth.oci import digest as digests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor
from berth.oci.layout import Layout

MANIFEST = """\
xumi: 1
name: acme/echo
version: 1.2.3
title: Echo
description: Says it again.
authors:
  - name: Ada
    email: ada@example.org
organization: Acme
license: Apache-2.0
interface:
  inputs:
    - {name: text, type: text, max_length: 20}
  outputs:
    - {name: text, type: text}
entry:
  python: serve:Echo
runtime:
  base: oci-layout:../base
checkpoints:
  - name: main
    files: ["*.bin", "deep/**/*"]
"""

SERVE = """\
from xumi import Model


class Echo(Model):
    def predict(self, text):
        return {"text": text}
"""


def make_base(path: Path, *, architecture: str = "amd64", files: dict[str, bytes] | None = None) -> Path:
    """An OCI layout with one image of one layer."""
    layout = Layout(path).create()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, content in (files or {"etc/os-release": b"ID=tiny\n"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    layer = layout.write_blob(gzip.compress(raw.getvalue(), mtime=0))
    config = {
        "os": "linux",
        "architecture": architecture,
        "config": {
            "Env": ["PATH=/usr/bin", "LANG=C.UTF-8"],
            "Cmd": ["sh"],
            "Labels": {"org.opencontainers.image.title": "base", "keep": "me"},
        },
        "rootfs": {"type": "layers", "diff_ids": [digests.of_bytes(raw.getvalue())]},
    }
    stored = layout.write_blob(json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": {"mediaType": media_types.OCI_CONFIG, "digest": stored.digest, "size": stored.size},
        "layers": [{"mediaType": media_types.OCI_LAYER_TAR_GZIP, "digest": layer.digest, "size": layer.size}],
    }
    body = layout.write_blob(json.dumps(manifest).encode())
    platform = {"os": "linux", "architecture": architecture}
    layout.add(Descriptor(media_types.OCI_MANIFEST, body.digest, body.size, platform=platform), "latest")
    return path


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Path]:
    """Makes FOLDER/project beside FOLDER/base; the same content each time."""

    def make(folder: str = "work", manifest: str = MANIFEST) -> Path:
        top = tmp_path / folder
        make_base(top / "base")
        root = top / "project"
        (root / "weights" / "deep" / "er").mkdir(parents=True)
        (root / "helpers").mkdir()
        (root / "xumi.yaml").write_text(manifest)
        (root / "serve.py").write_text(SERVE)
        (root / "helpers" / "__init__.py").write_text("")
        (root / "helpers" / "grüße.txt").write_text("umlaut\n")
        (root / "run.sh").write_text("#!/bin/sh\n")
        (root / "run.sh").chmod(0o755)
        (root / "weights" / "a.bin").write_bytes(b"A" * 1000)
        (root / "weights" / "deep" / "er" / "b.dat").write_bytes(bytes(range(256)) * 5000)
        return root

    return make


@pytest.fixture
def repository(tmp_path: Path) -> LocalRepository:
    return LocalRepository(tmp_path / "home")
