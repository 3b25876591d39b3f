"""Images, checkpoints and pickles for scanner tests, made by hand from their formats."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

from berth.adapters.scanners.contract import Subject
from berth.errors import BlobUnknown

OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPES = {
    "plain": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
DEBIAN = {
    "etc/os-release": b'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n',
    "etc/debian_version": b"12.5\n",
}


def dpkg(**packages: str) -> dict[str, bytes]:
    """A dpkg database; the source package of `zlib1g` is zlib, of others their own name."""
    entries = "".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\n"
        f"Source: {'zlib' if name == 'zlib1g' else name}\nVersion: {version}\nMaintainer: us\nDescription: made\n\n"
        for name, version in packages.items()
    )
    return {"var/lib/dpkg/status": entries.encode()}


def dist_info(name: str, version: str) -> dict[str, bytes]:
    """What pip leaves of an installed package, as far as Trivy reads it."""
    path = f"usr/lib/python3/dist-packages/{name.replace('-', '_')}-{version}.dist-info/METADATA"
    return {path: f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n".encode()}


def tar(files: Mapping[str, bytes], **options: Any) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", **options) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return body.getvalue()


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return body.getvalue()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Depot:
    """A folder of blobs, as the depot keeps them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> dict[str, Any]:
        digest = sha256(data)
        (self.folder / digest[7:]).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def path_of(self, digest: str) -> Path:
        path = self.folder / digest.partition(":")[2]
        if not path.exists():
            raise BlobUnknown(f"no {digest}")
        return path

    def image(
        self,
        *layers: Mapping[str, bytes] | bytes,
        compression: str | Sequence[str] = "gzip",
        docker: bool = False,
        diff_ids: Sequence[str] | None = None,
        layer: Mapping[str, Any] | None = None,
    ) -> Subject:
        """An image; a layer is its files, or the tar itself. `layer`: members to change in each layer descriptor."""
        tars = [one if isinstance(one, bytes) else tar(one) for one in layers]
        ways = [compression] * len(tars) if isinstance(compression, str) else list(compression)
        true_ids = [sha256(one) for one in tars]
        config = {"architecture": "amd64", "os": "linux", "config": {}}
        config["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids) if diff_ids is not None else true_ids}
        descriptors = [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else _LAYER_TYPES[way],
                **self.put(_compressed(one, way)),
                **(layer or {}),
            }
            for one, way in zip(tars, ways, strict=True)
        ]
        return self.manifest(
            {"mediaType": _DOCKER_CONFIG if docker else _OCI_CONFIG, **self.put(json.dumps(config).encode())},
            descriptors,
            media_type=DOCKER if docker else OCI,
        )

    def checkpoint(self, *files: bytes) -> Subject:
        """A ModelPack manifest with one raw weight layer per file."""
        config = self.put(b'{"modelfs":{"type":"layers","diffIds":[]}}')
        return self.manifest(
            {"mediaType": "application/vnd.cncf.model.config.v1+json", **config},
            [{"mediaType": "application/vnd.cncf.model.weight.v1.raw", **self.put(data)} for data in files],
        )

    def manifest(
        self, config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], *, media_type: str = OCI
    ) -> Subject:
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}).encode()
        return Subject(sha256(body), body, media_type, self.path_of)


def _compressed(data: bytes, way: str) -> bytes:
    if way == "gzip":
        return gzip.compress(data, mtime=0)
    return zstandard.compress(data) if way == "zstd" else data


# Pickles are written opcode by opcode: what they do is seen here, not taken from a pickler.
SYSTEM = b"cos\nsystem\n(S'true'\ntR."
"""Protocol 0: os.system('true')."""

SYSTEM_4 = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
"""Protocol 4: posix.system('true')."""

HARMLESS_0 = b"(dp0\nVlayer.weight\np1\nF0.5\ns."
"""Protocol 0: a dict with one number."""

HARMLESS_4 = b"\x80\x04}\x94\x8c\x06weight\x94G?\xe0\x00\x00\x00\x00\x00\x00s."
"""Protocol 4: a dict with one number."""

ORDERED = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01."
"""Protocol 2: an OrderedDict, as torch.save writes it."""


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def call(module: str, name: str) -> bytes:
    """Protocol 4: module.name('true')."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text("true") + b"\x85R."
