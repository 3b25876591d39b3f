"""Sentences of the CNCF ModelPack model-spec (docs/spec.md, docs/annotations.md), held to what `xumi build` makes.

Where Harbor reads more than the specification says (its tabs README.MD and LICENSE), its rule is the docstring.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from berth.authoring.build import build
from berth.authoring.describe import describe
from berth.authoring.repository import LocalRepository
from berth.authoring.unpack import unpack
from tests.unit.authoring.conftest import make_project as make_project
from tests.unit.authoring.conftest import repository as repository

Make = Callable[..., Path]
SCHEMA = json.loads((Path(__file__).parent / "modelpack-config-schema.json").read_text())
README = "# Echo\n\nSays it again. ✓\n"
LICENCE = "Apache License\n"
TAR = "application/vnd.cncf.model.doc.v1.tar"


@pytest.fixture
def project(make_project: Make) -> Path:
    root = make_project()
    (root / "README.md").write_text(README)
    (root / "LICENSE").write_text(LICENCE)
    return root


def checkpoint(root: Path, repository: LocalRepository) -> dict[str, Any]:
    """The checkpoint's manifest of a fresh build."""
    built = build(root, repository)
    index = json.loads(repository.manifest(built.digest))
    [child] = [m for m in index["manifests"] if m["platform"]["os"] == "unknown"]
    found: dict[str, Any] = json.loads(repository.manifest(child["digest"]))
    return found


def blob(repository: LocalRepository, digest: str) -> bytes:
    with repository.open_blob(digest) as stream:
        return stream.read()


def documents(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        layer["annotations"]["org.cncf.model.filepath"]: layer
        for layer in manifest["layers"]
        if layer["mediaType"] == TAR
    }


def members(tar: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
        streams = [(m, archive.extractfile(m)) for m in archive.getmembers()]
        return [(m, stream.read()) for m, stream in streams if stream is not None]


def test_manifest_types(project: Path, repository: LocalRepository) -> None:
    """mediaType MUST be the OCI image manifest's; artifactType and the config's mediaType MUST be ModelPack's."""
    manifest = checkpoint(project, repository)
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"


def test_config_fits_its_schema_and_lists_every_layer_in_order(project: Path, repository: LocalRepository) -> None:
    """modelfs.diffIds: an array of layer content hashes, in order from first to last; nothing here is compressed."""
    manifest = checkpoint(project, repository)
    config = json.loads(blob(repository, manifest["config"]["digest"]))
    Draft202012Validator(SCHEMA).validate(config)
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]


def test_documents_are_layers_of_their_type(project: Path, repository: LocalRepository) -> None:
    """`application/vnd.cncf.model.doc.v1.tar`: a tar archive that contains documentation files."""
    found = documents(checkpoint(project, repository))
    assert set(found) == {"README.md", "LICENSE"}
    for name, text in (("README.md", README), ("LICENSE", LICENCE)):
        [(member, content)] = members(blob(repository, found[name]["digest"]))
        assert (member.name, content.decode()) == (name, text)
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
        metadata = json.loads(found[name]["annotations"]["org.cncf.model.file.metadata+json"])
        assert (metadata["name"], metadata["size"]) == (name, len(text.encode()))


def harbor_shows(repository: LocalRepository, manifest: dict[str, Any], names: tuple[str, ...]) -> bytes | None:
    """What Harbor puts into a tab: the first document of one of these names, all files of its tar joined."""
    for layer in manifest["layers"]:
        if layer["mediaType"] == TAR and layer["annotations"].get("org.cncf.model.filepath") in names:
            return b"".join(content for _, content in members(blob(repository, layer["digest"])))
    return None


@pytest.mark.parametrize(
    ("readme", "licence"), [("README.md", "LICENSE"), ("README", "LICENSE.txt"), ("README.md", "LICENSE.md")]
)
def test_harbor_fills_its_tabs(make_project: Make, repository: LocalRepository, readme: str, licence: str) -> None:
    """Tab README.MD: filepath README or README.md; tab LICENSE: filepath LICENSE or LICENSE.txt."""
    root = make_project()
    (root / readme).write_text(README)
    (root / licence).write_text(LICENCE)
    manifest = checkpoint(root, repository)
    assert harbor_shows(repository, manifest, ("README", "README.md")) == README.encode()
    assert harbor_shows(repository, manifest, ("LICENSE", "LICENSE.txt")) == LICENCE.encode()


def test_a_checkpoint_without_documents_is_as_before(make_project: Make, repository: LocalRepository) -> None:
    assert documents(checkpoint(make_project(), repository)) == {}


def test_the_documents_beside_the_weights_come_first(project: Path, repository: LocalRepository) -> None:
    (project / "weights" / "README.md").write_text("about the weights")
    manifest = checkpoint(project, repository)
    assert harbor_shows(repository, manifest, ("README.md",)) == b"about the weights"
    assert harbor_shows(repository, manifest, ("LICENSE",)) == LICENCE.encode()


def test_what_is_ignored_linked_or_too_large_is_not_taken(project: Path, repository: LocalRepository) -> None:
    (project / ".xumiignore").write_text("LICENSE\n")
    (project / "README.md").unlink()
    os.symlink("serve.py", project / "README.md")
    assert documents(checkpoint(project, repository)) == {}
    (project / "README.md").unlink()
    (project / "README.md").write_bytes(b"x" * (4 << 20))
    built = build(project, repository)
    assert any("README.md is too large" in warning for warning in built.warnings)


def test_times_and_modes_of_documents_do_not_matter(project: Path, repository: LocalRepository) -> None:
    first = checkpoint(project, repository)
    (project / "README.md").chmod(0o700)
    os.utime(project / "README.md", (5, 5))
    assert checkpoint(project, repository) == first
    (project / "README.md").write_text("Another one.")
    changed = checkpoint(project, repository)
    assert changed != first
    assert changed["layers"][0] == first["layers"][0], "the weights themselves are shared"


def test_documents_are_no_weights_where_files_are_unpacked(
    project: Path, repository: LocalRepository, tmp_path: Path
) -> None:
    built = build(project, repository)
    [facts] = describe(repository, built.reference)["checkpoints"]
    assert facts["documents"] == ["README.md", "LICENSE"]
    assert [file["path"] for file in facts["files"]] == ["a.bin", "deep/er/b.dat"]
    unpack(built.digest, tmp_path / "out", repository)
    below = tmp_path / "out" / "weights"
    assert sorted(p.name for p in below.rglob("*") if p.is_file()) == ["a.bin", "b.dat"]
