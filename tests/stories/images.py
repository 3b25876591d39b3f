"""Small real images as OCI layouts, made by hand: what stock clients push in the stories."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

DEBIAN = {
    "etc/os-release": b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n',
    "etc/debian_version": b"12.5\n",
    "var/lib/dpkg/status": (
        b"Package: base-files\nStatus: install ok installed\nArchitecture: amd64\nVersion: 12.4\n"
        b"Maintainer: us\nDescription: made\n\n"
    ),
}


def installed(name: str, version: str) -> dict[str, bytes]:
    """What pip leaves of a package, as far as Trivy reads it."""
    folder = f"usr/lib/python3/dist-packages/{name.replace('-', '_')}-{version}.dist-info"
    return {f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n".encode()}


class Malicious:
    """Unpickled, it would run a program."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("echo owned",)


def malicious_pickle() -> bytes:
    return pickle.dumps({"weights": Malicious()})


def layout(folder: Path, files: Mapping[str, bytes], *, tag: str = "image") -> str:
    """Write an OCI layout with one image of these files; returns the manifest's digest."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(data))
    packed = gzip.compress(raw.getvalue(), mtime=0)
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    config = put(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/bin/true"], "Labels": {"org.opencontainers.image.licenses": "MIT"}},
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(raw.getvalue()).hexdigest()]},
                "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "made by hand"}],
            }
        ).encode()
    )
    manifest = put(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **put(packed)}],
            }
        ).encode()
    )
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **manifest,
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return str(manifest["digest"])
