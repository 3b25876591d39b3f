"""Builds a project on a tiny base and starts what the image holds: code, runtime and weights come out of its layers."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from berth.authoring.build import build
from berth.authoring.packing import open_layer
from berth.authoring.repository import LocalRepository
from berth.authoring.unpack import unpack
from berth.oci import manifest as manifests
from tests.unit.authoring.conftest import make_base
from tests.unit.xumi.serving import Served, served


def on_tiny_base(root: Path) -> None:
    """Builds without an index: the base is a folder beside, no packages are installed into the image."""
    make_base(root.parent / "base")
    lines = (root / "xumi.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.strip().startswith(("requirements:", "system_packages:"))]
    edited = ["  base: oci-layout:../base" if line.startswith("  base:") else line for line in kept]
    (root / "xumi.yaml").write_text("\n".join(edited) + "\n")


def image_of(root: Path, scratch: Path, *libraries: Path) -> tuple[Path, dict[str, str]]:
    """Builds; returns the folder that the image has as /opt/xumi, and the environment its container would have."""
    repository = LocalRepository(scratch / "home")
    built = build(root, repository)
    unpack(built.digest, scratch / "pulled", repository)
    index = manifests.parse(repository.manifest(built.digest))
    image = manifests.parse(repository.manifest(index.manifests[0].digest))
    for layer in image.layers:
        if layer.annotations.get("io.xumi.layer") in ("manifest", "code", "runtime"):
            with (
                repository.open_blob(layer.digest) as blob,
                tarfile.open(fileobj=open_layer(blob), mode="r|") as archive,
            ):
                archive.extractall(scratch / "rootfs", filter="data")
    opt = scratch / "rootfs" / "opt"
    return opt / "xumi", {
        "XUMI_CODE": str(opt / "model"),
        "PYTHONPATH": ":".join([str(opt / "xumi" / "runtime"), *map(str, libraries)]),
        "XUMI_WEIGHTS_DIR": str(scratch / "pulled" / "weights"),
    }


@contextmanager
def started(root: Path, scratch: Path, *libraries: Path, **environment: str) -> Iterator[Served]:
    """The built model, ready to be called."""
    folder, own = image_of(root, scratch, *libraries)
    with served(folder, **own, **environment) as model:
        yield model
