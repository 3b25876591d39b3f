"""A folder → a version: what is in it, and that it is the same each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from berth.authoring.build import build, find_revision
from berth.authoring.options import Options
from berth.authoring.repository import LocalRepository
from berth.authoring.unpack import unpack
from berth.errors import Conflict, IntegrityError, InvalidInput, ManifestFileInvalid, SetupError
from tests.unit.authoring.conftest import MANIFEST, make_base

Make = Callable[..., Path]
# The part of ModelPack's config-schema.json (model-spec, Apache-2.0) that a checkpoint of ours uses.
MODELPACK_CONFIG = {
    "type": "object",
    "required": ["descriptor", "config", "modelfs"],
    "additionalProperties": False,
    "properties": {
        "descriptor": {"type": "object", "properties": {"name": {"type": "string", "minLength": 1}}},
        "config": {"type": "object", "properties": {"format": {"type": "string"}}, "additionalProperties": False},
        "modelfs": {
            "type": "object",
            "required": ["type", "diffIds"],
            "additionalProperties": False,
            "properties": {"type": {"const": "layers"}, "diffIds": {"type": "array", "minItems": 1}},
        },
    },
}


def read(repository: LocalRepository, digest: str) -> Any:
    return json.loads(repository.manifest(digest))


def layer_files(repository: LocalRepository, digest: str) -> dict[str, tarfile.TarInfo]:
    with repository.open_blob(digest) as blob, tarfile.open(fileobj=io.BytesIO(blob.read())) as archive:
        return {m.name: m for m in archive}


def test_a_version_is_an_index_of_the_code_image_first_and_then_its_checkpoints(
    make_project: Make, repository: LocalRepository
) -> None:
    root = make_project()
    built = build(root, repository)
    index = read(repository, built.digest)
    assert built.reference == "acme/echo:1.2.3"
    assert repository.resolve("acme/echo:1.2.3").digest == built.digest
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    code, checkpoint = index["manifests"]
    assert code["platform"] == {"os": "linux", "architecture": "amd64"}
    assert "artifactType" not in code
    assert checkpoint["platform"] == {"os": "unknown", "architecture": "unknown"}
    assert "artifactType" not in checkpoint  # older skopeo and podman drop it and so change the index's digest
    assert read(repository, checkpoint["digest"])["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    notes = index["annotations"]
    assert notes["io.xumi.manifest"] == MANIFEST
    assert notes["org.opencontainers.image.title"] == "Echo"
    assert notes["org.opencontainers.image.version"] == "1.2.3"
    assert notes["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert notes["org.opencontainers.image.authors"] == "Ada <ada@example.org>"
    assert built.size == sum(
        {
            d["digest"]: d["size"]
            for m in index["manifests"]
            for c in [read(repository, m["digest"])]
            for d in [m, c["config"], *c["layers"]]
        }.values()
    ) + repository.blob_size(built.digest)


def test_the_image_runs_the_runtime_as_a_user_and_keeps_the_base(
    make_project: Make, repository: LocalRepository
) -> None:
    index = read(repository, build(make_project(), repository).digest)
    manifest = read(repository, index["manifests"][0]["digest"])
    with repository.open_blob(manifest["config"]["digest"]) as blob:
        config = json.load(blob)
    kinds = [layer.get("annotations", {}).get("io.xumi.layer") for layer in manifest["layers"]]
    assert kinds == [None, "runtime", "manifest", "code"]
    inside = config["config"]
    assert inside["Entrypoint"] == ["python3", "-m", "xumi"]
    assert "Cmd" not in inside
    assert inside["User"] == "65532:65532"
    assert inside["ExposedPorts"] == {"8080/tcp": {}}
    assert "PYTHONPATH=/opt/xumi/runtime:/opt/model:/opt/xumi/site-packages" in inside["Env"]
    assert "LANG=C.UTF-8" in inside["Env"]
    assert inside["Labels"]["keep"] == "me"
    assert inside["Labels"]["org.opencontainers.image.title"] == "Echo"
    assert config["created"] == "1970-01-01T00:00:00Z"
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == len(config["history"])
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        with repository.open_blob(layer["digest"]) as blob:
            data = blob.read()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer["digest"]
        assert f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}" == diff_id


def test_code_and_weights_are_apart(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("x")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.pyc").write_text("x")
    (root / ".xumiignore").write_text("notes/\n*.log\n!keep.log\n")
    (root / "notes").mkdir()
    (root / "notes" / "n.txt").write_text("x")
    (root / "a.log").write_text("x")
    (root / "keep.log").write_text("x")
    index = read(repository, build(root, repository).digest)
    layers = read(repository, index["manifests"][0]["digest"])["layers"]
    code = layer_files(repository, layers[-1]["digest"])
    assert sorted(n for n, m in code.items() if m.isfile()) == [
        "opt/model/helpers/__init__.py",
        "opt/model/helpers/grüße.txt",
        "opt/model/keep.log",
        "opt/model/run.sh",
        "opt/model/serve.py",
    ]
    assert code["opt/model/run.sh"].mode == 0o755
    checkpoint = read(repository, index["manifests"][1]["digest"])
    assert checkpoint["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    with repository.open_blob(checkpoint["config"]["digest"]) as blob:
        Draft202012Validator(MODELPACK_CONFIG).validate(json.load(blob))
    assert [
        (x["mediaType"], x["annotations"]["org.cncf.model.filepath"], x["digest"]) for x in checkpoint["layers"]
    ] == [
        ("application/vnd.cncf.model.weight.v1.raw", "a.bin", f"sha256:{hashlib.sha256(b'A' * 1000).hexdigest()}"),
        (
            "application/vnd.cncf.model.weight.v1.raw",
            "deep/er/b.dat",
            f"sha256:{hashlib.sha256(bytes(range(256)) * 5000).hexdigest()}",
        ),
    ]


def test_the_container_can_write_the_folders_its_weights_go_to(make_project: Make, repository: LocalRepository) -> None:
    index = read(repository, build(make_project(), repository).digest)
    layers = read(repository, index["manifests"][0]["digest"])["layers"]
    files = layer_files(repository, layers[2]["digest"])
    assert (files["weights/main"].uid, files["weights/main"].mode) == (65532, 0o755)
    assert (files["weights"].uid, files["opt/xumi/manifest.json"].uid) == (0, 0)


SCRIPT = """
import sys
from pathlib import Path
from berth.authoring.build import build
from berth.authoring.options import Options
from berth.authoring.repository import LocalRepository
print(build(Path(sys.argv[1]), LocalRepository(Path(sys.argv[2])), options=Options(bundle=True)).digest)
"""


def test_two_builds_anywhere_give_one_digest(make_project: Make, tmp_path: Path) -> None:
    def run(folder: str, umask: int, seed: str, zone: str) -> str:
        # Files are made in another order and with other times each time.
        root = make_project(folder)
        os.utime(root / "serve.py", (int(seed) * 1_000_000, int(seed) * 1_000_000))
        for path in sorted(root.rglob("*"), reverse=seed == "2"):
            if path.is_file():
                path.write_bytes(path.read_bytes())
                path.chmod((0o777 if path.name == "run.sh" else 0o666) & ~umask)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(root), str(tmp_path / f"home-{folder}")],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C", "PYTHONPATH": "src"},
            cwd=Path(__file__).parents[3],
            umask=umask,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    first = run("here", 0o022, "1", "UTC")
    assert first.startswith("sha256:")
    assert run("somewhere/else", 0o077, "2", "Asia/Tokyo") == first


def test_a_code_edit_changes_only_the_code_layer_and_new_weights_only_theirs(
    make_project: Make, repository: LocalRepository
) -> None:
    root = make_project()

    def layers() -> dict[str, str]:
        return {layer.kind: layer.descriptor.digest for layer in build(root, repository).layers}

    before = layers()
    (root / "serve.py").write_text((root / "serve.py").read_text() + "# changed\n")
    after = layers()
    assert {kind for kind in before if before[kind] != after[kind]} == {"code"}
    (root / "weights" / "a.bin").write_bytes(b"B" * 1000)
    assert {kind for kind in after if after[kind] != layers()[kind]} == {"manifest"}
    (root / "xumi.yaml").write_text(MANIFEST.replace("1.2.3", "1.2.4"))
    assert layers()["code"] == after["code"]


def test_a_bundle_adds_an_image_with_the_weights_at_their_mount_path(
    make_project: Make, repository: LocalRepository
) -> None:
    built = build(make_project(), repository, options=Options(bundle=True))
    index = read(repository, built.digest)
    code, _, bundle = index["manifests"]
    assert bundle["annotations"] == {"io.xumi.bundle": "true"}
    plain, whole = read(repository, code["digest"]), read(repository, bundle["digest"])
    assert whole["layers"][: len(plain["layers"])] == plain["layers"]
    extra = whole["layers"][len(plain["layers"]) :]
    assert {x["mediaType"] for x in extra} == {"application/vnd.oci.image.layer.v1.tar"}
    names = [n for x in extra for n, m in layer_files(repository, x["digest"]).items() if m.isfile()]
    assert names == ["weights/main/a.bin", "weights/main/deep/er/b.dat"]


def test_a_version_unpacks_to_the_files_it_was_built_from(
    make_project: Make, repository: LocalRepository, tmp_path: Path
) -> None:
    root = make_project()
    (root / "link").symlink_to("serve.py")
    built = build(root, repository, options=Options(bundle=True))
    done = unpack(built.digest, tmp_path / "out" / "echo", repository)
    out = tmp_path / "out" / "echo"
    assert (out / "xumi.yaml").read_bytes() == (root / "xumi.yaml").read_bytes()
    for name in ("serve.py", "run.sh", "helpers/__init__.py", "helpers/grüße.txt"):
        assert (out / "code" / name).read_bytes() == (root / name).read_bytes()
        assert (out / "code" / name).stat().st_mode & 0o111 == (root / name).stat().st_mode & 0o111
    assert os.readlink(out / "code" / "link") == "serve.py"
    for name in ("a.bin", "deep/er/b.dat"):
        assert (out / "weights" / "main" / name).read_bytes() == (root / "weights" / name).read_bytes()
    assert done.weights == ("weights/main/a.bin", "weights/main/deep/er/b.dat")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["echo"]


def test_unpacking_replaces_nothing_unasked_and_a_failure_leaves_nothing(
    make_project: Make, repository: LocalRepository, tmp_path: Path
) -> None:
    root = make_project()
    built = build(root, repository)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    with pytest.raises(Conflict):
        unpack(built.digest, out, repository)
    (root / "weights" / "a.bin").write_bytes(b"Z" * 1000)
    with pytest.raises(IntegrityError):
        unpack(built.digest, out, repository, force=True)
    assert [p.name for p in out.iterdir()] == ["mine"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")] == []
    (root / "weights" / "a.bin").write_bytes(b"A" * 1000)
    unpack(built.digest, out, repository, force=True)
    assert sorted(p.name for p in out.iterdir()) == ["code", "weights", "xumi.yaml"]


def test_a_checkpoint_that_leaves_its_folder_is_refused(repository: LocalRepository, tmp_path: Path) -> None:
    from berth.oci import manifest as manifests
    from berth.oci.descriptor import Descriptor

    def version(path: str) -> str:
        weight = repository.add_blob_bytes(b"w")
        layer = Descriptor(
            "application/vnd.cncf.model.weight.v1.raw", weight.digest, 1, annotations={"org.cncf.model.filepath": path}
        )
        config = repository.add_blob_bytes(b"{}", media_type="application/vnd.cncf.model.config.v1+json")
        kind = "application/vnd.cncf.model.manifest.v1+json"
        body = manifests.image(config=config, layers=[layer], artifact_type=kind)
        child = repository.add_blob_bytes(body, media_type="application/vnd.oci.image.manifest.v1+json")
        named = Descriptor(child.media_type, child.digest, child.size, artifact_type=kind)
        return repository.add_blob_bytes(manifests.index([named], annotations={"io.xumi.manifest": "x"})).digest

    for path in ("../x", "/x", "a/../../x", "a//b", ".", "a\\b", "a/./b"):
        with pytest.raises(IntegrityError, match="weight file"):
            unpack(version(path), tmp_path / "out", repository)
        assert not (tmp_path / "out").exists()
    unpack(version("a/b"), tmp_path / "out", repository)
    assert (tmp_path / "out" / "weights" / "a" / "b").read_bytes() == b"w"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env", "A=1"),
        (".env.local", "A=1"),
        ("id_ed25519", "x"),
        ("deploy.key", "x"),
        ("notes.txt", "-----BEGIN OPENSSH PRIVATE KEY-----\nx"),
        ("c.pem", "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_secrets_are_refused_unless_allowed(
    make_project: Make, repository: LocalRepository, name: str, content: str
) -> None:
    root = make_project()
    (root / "helpers" / name).write_text(content)
    with pytest.raises(InvalidInput) as caught:
        build(root, repository)
    assert caught.value.detail["files"] == [f"helpers/{name}"]
    assert build(root, repository, options=Options(allow_secrets=True)).digest


@pytest.mark.parametrize("name", [".env.example", "public.pem", "key.py"])
def test_what_only_looks_like_a_secret_is_packed(make_project: Make, repository: LocalRepository, name: str) -> None:
    root = make_project()
    (root / name).write_text("-----BEGIN PUBLIC KEY-----\n")
    assert build(root, repository).digest


def test_links_out_of_the_project_and_clashing_names_are_refused(
    make_project: Make, repository: LocalRepository
) -> None:
    root = make_project()
    (root / "out").symlink_to("../../etc")
    with pytest.raises(InvalidInput, match="outside the project"):
        build(root, repository)
    (root / "out").unlink()
    (root / "SERVE.py").write_text("")
    with pytest.raises(InvalidInput, match="one name on some systems"):
        build(root, repository)


def test_what_the_manifest_names_must_be_there(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    (root / "xumi.yaml").write_text(MANIFEST.replace("serve:Echo", "serve:Other"))
    with pytest.raises(ManifestFileInvalid, match=r"serve\.py defines no Other"):
        build(root, repository)
    (root / "xumi.yaml").write_text(MANIFEST.replace("*.bin", "*.onnx"))
    with pytest.raises(ManifestFileInvalid, match=r"no file matches weights/\*\.onnx"):
        build(root, repository)


def test_the_models_code_is_never_run(make_project: Make, repository: LocalRepository, tmp_path: Path) -> None:
    root = make_project()
    mark = tmp_path / "ran"
    (root / "serve.py").write_text(f"open({str(mark)!r}, 'w')\nclass Echo: pass\n")
    build(root, repository)
    assert not mark.exists()


def test_a_base_must_be_for_the_platform(make_project: Make, repository: LocalRepository, tmp_path: Path) -> None:
    root = make_project()
    make_base(tmp_path / "arm", architecture="arm64")
    with pytest.raises(InvalidInput, match="linux/arm64, not linux/amd64"):
        build(root, repository, options=Options(base=f"oci-layout:{tmp_path / 'arm'}"))
    with pytest.raises(InvalidInput, match="does not name the architecture arm64"):
        build(root, repository, options=Options(platform="linux/arm64"))
    with pytest.raises(InvalidInput, match="no image named nope"):
        build(root, repository, options=Options(base="oci-layout:../base:nope"))
    with pytest.raises(SetupError, match="registry"):
        build(root, repository, options=Options(base="python:3.11"))
    assert build(root, repository, options=Options(base="oci-layout:../base:latest")).digest


def test_a_damaged_base_layer_is_refused(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    largest = max(
        (root.parent / "base" / "blobs" / "sha256").iterdir(), key=lambda p: p.read_bytes()[:2] == b"\x1f\x8b"
    )
    largest.write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(IntegrityError):
        build(root, repository)


def test_the_revision_is_recorded_only_from_a_clean_checkout(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    assert find_revision(root) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, "-C", str(root), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    assert find_revision(root) is None
    git("add", ".")
    git("commit", "-qm", "x")
    assert find_revision(root) == git("rev-parse", "HEAD")
    index = read(repository, build(root, repository).digest)
    assert index["annotations"]["io.xumi.revision"] == git("rev-parse", "HEAD")
    (root / "serve.py").write_text("class Echo: pass\n")
    assert find_revision(root) is None


def disk_use(folder: Path) -> int:
    """Bytes of disk that a folder really takes."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


@pytest.mark.slow
def test_a_checkpoint_of_50_gb_takes_no_room_of_its_own(
    make_project: Make, repository: LocalRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has a hole where the weights are, so that it fits here; a copy anywhere would not have one."""
    root = make_project()
    with (root / "weights" / "huge.bin").open("wb") as file:
        file.truncate(50 * 10**9)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    before = disk_use(tmp_path)
    built = build(root, repository)
    assert built.size > 50 * 10**9
    assert disk_use(tmp_path) - before < 100 * 10**6
    assert repository.disk_use().referenced > 50 * 10**9
