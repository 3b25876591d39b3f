"""An image that a team already has is wrapped, not rebuilt (X6): by reference, or from its Dockerfile."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from berth.authoring import lockfile, origins
from berth.authoring.build import build
from berth.authoring.options import Options
from berth.authoring.pinning import lock
from berth.authoring.repository import LocalRepository
from berth.errors import InvalidInput, ManifestFileInvalid, SetupError
from tests.unit.authoring.conftest import MANIFEST

Make = Callable[..., Path]
WRAP = MANIFEST.replace("  base: oci-layout:../base\n", "  build: {image: 'oci-layout:../base'}\n")
DOCKERFILE = MANIFEST.replace("  base: oci-layout:../base\n", "  build: {dockerfile: image/Dockerfile}\n")


def config_of(repository: LocalRepository, digest: str) -> tuple[dict[str, Any], dict[str, Any]]:
    index = json.loads(repository.manifest(digest))
    manifest = json.loads(repository.manifest(index["manifests"][0]["digest"]))
    with repository.open_blob(manifest["config"]["digest"]) as blob:
        return manifest, json.load(blob)


def test_an_image_is_wrapped_unchanged_below_our_layers(make_project: Make, repository: LocalRepository) -> None:
    root = make_project(manifest=WRAP)
    base = json.loads((root.parent / "base" / "index.json").read_text())["manifests"][0]["digest"]
    theirs = json.loads((root.parent / "base" / "blobs" / "sha256" / base.removeprefix("sha256:")).read_text())
    manifest, config = config_of(repository, build(root, repository).digest)
    assert [x["digest"] for x in manifest["layers"][: len(theirs["layers"])]] == [x["digest"] for x in theirs["layers"]]
    assert [x["annotations"]["io.xumi.layer"] for x in manifest["layers"][len(theirs["layers"]) :]] == [
        "runtime",
        "manifest",
        "code",
    ]
    assert manifest["annotations"]["org.opencontainers.image.base.digest"] == base
    assert {"PATH=/usr/bin", "LANG=C.UTF-8"} <= set(config["config"]["Env"])


def test_with_an_image_of_ones_own_packages_belong_into_it(make_project: Make, repository: LocalRepository) -> None:
    for more in ("requirements: [x]", "system_packages: [libgomp1]", "base: x"):
        root = make_project(more[:3], manifest=WRAP.replace("runtime:\n", f"runtime:\n  {more}\n"))
        with pytest.raises(ManifestFileInvalid):
            build(root, repository)


def dockerfile_project(make: Make, text: str) -> Path:
    root = make(manifest=DOCKERFILE)
    (root / "image").mkdir()
    (root / "image" / "Dockerfile").write_text(text)
    (root / "image" / "tool").write_text("a tool\n")
    (root / ".xumiignore").write_text("image/\n")
    return root


def can_build() -> str | None:
    """Why a Dockerfile cannot be built here, or None."""
    if shutil.which("buildah") is None:
        return "buildah is not installed"
    done = subprocess.run(["buildah", "info"], capture_output=True, text=True, check=False, timeout=60)
    return None if done.returncode == 0 else f"buildah does not work here: {done.stderr.strip()[-200:]}"


def test_a_dockerfile_is_built_and_wrapped(make_project: Make, repository: LocalRepository) -> None:
    if reason := can_build():
        pytest.skip(reason)
    root = dockerfile_project(make_project, "FROM scratch\nENV THEIRS=1\nCOPY tool /tool\n")
    first = build(root, repository)
    manifest, config = config_of(repository, first.digest)
    assert "THEIRS=1" in config["config"]["Env"]
    assert [x.get("annotations", {}).get("io.xumi.layer") for x in manifest["layers"]] == [
        None,
        "runtime",
        "manifest",
        "code",
    ]
    lockfile.write(root, lock(root, repository))
    assert build(root, repository, options=Options(locked=True)).digest == first.digest
    (root / "image" / "tool").write_text("another tool\n")
    with pytest.raises(InvalidInput, match="gives another image"):
        build(root, repository, options=Options(locked=True))
    (root / "image" / "Dockerfile").write_text("FROM scratch\nCOPY nothing /x\n")
    with pytest.raises(InvalidInput, match=r"(?s)Dockerfile cannot be built.*nothing"):
        build(root, repository)


def test_without_a_program_that_builds_dockerfiles_the_error_says_what_to_do(
    make_project: Make, repository: LocalRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = dockerfile_project(make_project, "FROM scratch\n")
    monkeypatch.setattr(origins.shutil, "which", lambda _: None)
    with pytest.raises(SetupError, match=r"needs buildah or podman.*runtime\.build\.image"):
        build(root, repository)
