"""Packages fit the image, not this machine: its C library, its Python, its architecture, its environment markers."""

from __future__ import annotations

import io
import json
import platform as host
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.authoring import base_files
from berth.authoring.base import Platform, open_base
from berth.authoring.build import MAX_LAYERS, build
from berth.authoring.installers import Target
from berth.authoring.options import Options
from berth.authoring.packing import open_layer
from berth.authoring.repository import LocalRepository
from berth.authoring.requirements import SITE_PACKAGES, distributions, resolved
from berth.authoring.wheels import rank
from berth.errors import InvalidInput, SetupError
from berth.oci.layout import Layout
from tests.unit.authoring.conftest import MANIFEST, make_base
from tests.unit.authoring.test_requirements import make_wheel

Make = Callable[..., Path]
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
LIBC = b"\x7fELF...GNU C Library (Debian GLIBC 2.%d-9+deb12u9) stable release version 2.%d.\n"
BOTH = MANIFEST.replace("runtime:\n", "hardware:\n  architectures: [amd64, arm64]\nruntime:\n")


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for key, value in {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(folder), "UV_CACHE_DIR": str(tmp_path / "uv")}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return folder


def names(requirements: list[str], root: Path, target: Target) -> list[str]:
    with resolved(requirements, root, target, installer="uv") as found:
        return [p.filename for p in found.packages]


def facts_of(tmp_path: Path, repository: LocalRepository, files: dict[str, bytes]) -> base_files.Facts:
    base = open_base(f"oci-layout:{make_base(tmp_path / 'b', files=files)}", tmp_path, platform=AMD64)
    for layer in base.layers:
        with base.source.open(layer.digest) as stream:
            repository.add_blob_stream(stream)
    return base_files.facts(repository, base)


@pytest.mark.parametrize(
    ("files", "libc"),
    [
        ({"usr/lib/x86_64-linux-gnu/libc.so.6": LIBC % (36, 36)}, "glibc 2.36"),
        ({"lib/x86_64-linux-gnu/libc-2.31.so": LIBC % (31, 31)}, "glibc 2.31"),
        ({"lib64/libc.so.6": b"GNU C Library (GNU libc) stable release version 2.34."}, "glibc 2.34"),
        ({"lib/apk/db/installed": b"C:Q1x=\nP:musl\nV:1.2.4-r2\n"}, "musl 1.2"),
        ({"home/libc.so.6": LIBC % (36, 36)}, None),
    ],
)
def test_the_c_library_is_read_from_the_base(
    tmp_path: Path, repository: LocalRepository, files: dict[str, bytes], libc: str | None
) -> None:
    assert facts_of(tmp_path, repository, files).libc == libc


def test_release_and_pythons_are_read_from_the_base(tmp_path: Path, repository: LocalRepository) -> None:
    found = facts_of(
        tmp_path,
        repository,
        {
            "etc/os-release": b'ID=debian\nVERSION_CODENAME=bookworm\nVERSION_ID="12"\n',
            "usr/bin/python3.9": b"",
            "usr/local/bin/python3.11": b"",
            "usr/share/python3.13": b"",
        },
    )
    assert found.pythons == ("3.9", "3.11")
    assert found.release == {"ID": "debian", "VERSION_CODENAME": "bookworm", "VERSION_ID": "12"}


def test_a_wheel_for_a_newer_glibc_than_the_bases_is_not_taken(tmp_path: Path, wheels: Path) -> None:
    make_wheel(wheels, "madealpha", "2.0", tag="cp311-cp311-manylinux_2_34_x86_64")
    make_wheel(wheels, "madealpha", "1.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    new, old = Target("3.11", AMD64, glibc=(2, 36)), Target("3.11", AMD64, glibc=(2, 31))
    assert names(["madealpha"], tmp_path, new) == ["madealpha-2.0-cp311-cp311-manylinux_2_34_x86_64.whl"]
    assert names(["madealpha"], tmp_path, old) == ["madealpha-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"]
    with pytest.raises(InvalidInput, match="madealpha"):
        names(["madealpha"], tmp_path, Target("3.11", AMD64))


def test_the_wheels_of_the_targets_architecture_and_python_are_taken(tmp_path: Path, wheels: Path) -> None:
    for python in ("310", "312"):
        for machine in ("x86_64", "aarch64"):
            make_wheel(wheels, "madealpha", tag=f"cp{python}-cp{python}-manylinux_2_17_{machine}")
    target = Target("3.12", ARM64, glibc=(2, 36))
    assert names(["madealpha"], tmp_path, target) == ["madealpha-1.0-cp312-cp312-manylinux_2_17_aarch64.whl"]


def test_environment_markers_are_those_of_the_target(tmp_path: Path, wheels: Path) -> None:
    for name in ("onarm", "onintel", "onnine", "onwindows"):
        make_wheel(wheels, name)
    lines = [
        "onarm; platform_machine == 'aarch64'",
        "onintel; platform_machine == 'x86_64'",
        "onnine; python_version < '3.10'",
        "onwindows; sys_platform == 'win32'",
    ]
    assert names(lines, tmp_path, Target("3.9", ARM64)) == ["onarm-1.0-py3-none-any.whl", "onnine-1.0-py3-none-any.whl"]
    assert names(lines, tmp_path, Target("3.11", AMD64)) == ["onintel-1.0-py3-none-any.whl"]
    with (
        pytest.raises(SetupError, match="this machine's Python"),
        resolved(lines, tmp_path, Target("3.11", Platform("linux", "s390x")), installer="pip"),
    ):
        pass


def test_the_best_of_several_wheels_is_the_one_installers_take() -> None:
    # The order of `packaging.tags` (PEP 425): own ABI, abi3, no ABI; a platform's before any; the newest C library.
    best_first = [
        "x-1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "x-1-cp311-cp311-manylinux2014_x86_64.whl",
        "x-1-cp310-abi3-manylinux_2_28_x86_64.whl",
        "x-1-cp37-abi3-manylinux_2_28_x86_64.whl",
        "x-1-py3-none-manylinux_2_28_x86_64.whl",
        "x-1-py2.py3-none-any.whl",
    ]
    ranked = sorted(best_first, key=lambda name: rank(name, python="3.11") or (), reverse=True)
    assert ranked == best_first
    for other in ("x-1-cp312-cp312-any.whl", "x-1-cp310-cp310-any.whl", "x-1-py2-none-any.whl", "x-1.tar.gz"):
        assert rank(other, python="3.11") is None


BACKEND = """
import pathlib, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "fromsource-1.0-py3-none-any.whl"
    info = "fromsource-1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("fromsource.py", "VALUE = 1")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: fromsource\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", f"fromsource.py,,\\n{info}/RECORD,,\\n")
    return name
"""


def make_sdist(folder: Path) -> None:
    """A source package whose build needs nothing but itself."""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "fromsource"\nversion = "1.0"\n',
        "backend.py": BACKEND,
        "PKG-INFO": "Metadata-Version: 2.2\nName: fromsource\nVersion: 1.0\n",
    }
    with tarfile.open(folder / "fromsource-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"fromsource-1.0/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


def test_a_source_package_is_built_only_when_asked_for_and_only_for_this_machine(tmp_path: Path, wheels: Path) -> None:
    make_sdist(wheels)
    with pytest.raises(InvalidInput, match="fromsource"):
        names(["fromsource"], tmp_path, Target("3.11", AMD64, glibc=(2, 40)))
    other = ARM64 if host.machine() == "x86_64" else AMD64
    for foreign in (Target("3.11", other, glibc=(2, 40)), Target("3.11", AMD64, glibc=(2, 17))):
        with (
            pytest.raises(InvalidInput, match="cannot be built"),
            resolved(["fromsource"], tmp_path, foreign, allow_sdist=True),
        ):
            pass
    if not sys.platform.startswith("linux") or host.libc_ver()[0] != "glibc":
        pytest.skip("this machine is no glibc Linux: nothing can be built for an image")
    here = Target(f"{sys.version_info.major}.{sys.version_info.minor}", AMD64 if other is ARM64 else ARM64, (2, 40))
    with resolved(["fromsource"], tmp_path, here, installer="uv", allow_sdist=True) as found:
        assert [p.filename for p in found.packages] == ["fromsource-1.0.tar.gz"]
        built = [entry.name for part in found.install() for entry in part.entries]
    assert f"{SITE_PACKAGES}/fromsource.py" in built


def both_bases(root: Path) -> None:
    other = make_base(root.parent / "arm", architecture="arm64")
    layout, second = Layout(root.parent / "base"), Layout(other)
    for path in (other / "blobs" / "sha256").iterdir():
        layout.write_blob(path.read_bytes())
    layout.add(second.index()[0], "arm")
    layout.set_index([*(d for d in layout.index())])


def test_there_is_one_image_per_architecture_and_the_weights_are_shared(
    make_project: Make, repository: LocalRepository, wheels: Path
) -> None:
    root = make_project(manifest=BOTH.replace("  base:", "  requirements: [madealpha]\n  base:"))
    both_bases(root)
    for machine in ("x86_64", "aarch64"):
        make_wheel(wheels, "madealpha", tag=f"cp311-cp311-manylinux_2_17_{machine}")
    index = json.loads(repository.manifest(build(root, repository, options=Options(bundle=True)).digest))
    platforms = [m["platform"]["architecture"] for m in index["manifests"]]
    assert platforms == ["amd64", "arm64", "unknown", "amd64", "arm64"]
    for child, machine in zip(index["manifests"][:2], ("x86_64", "aarch64"), strict=True):
        layers = json.loads(repository.manifest(child["digest"]))["layers"]
        deps = next(x for x in layers if x.get("annotations", {}).get("io.xumi.layer") == "deps")
        with repository.open_blob(deps["digest"]) as blob, tarfile.open(fileobj=open_layer(blob), mode="r|") as tar:
            wheel = next(tar.extractfile(m).read() for m in tar if m.name.endswith("/WHEEL"))  # type: ignore[union-attr]
        assert machine.encode() in wheel
    one = build(root, repository, options=Options(platform="linux/arm64"))
    assert one.platforms == ("linux/arm64",)


def test_a_platform_without_wheels_is_an_error_that_names_the_package(
    make_project: Make, repository: LocalRepository, wheels: Path
) -> None:
    root = make_project(manifest=BOTH.replace("  base:", "  requirements: [madealpha]\n  base:"))
    make_wheel(wheels, "madealpha", tag="cp311-cp311-manylinux_2_17_x86_64")
    with pytest.raises(InvalidInput, match="not linux/arm64"):
        build(root, repository)
    both_bases(root)
    with pytest.raises(InvalidInput, match=r"(?s)linux/arm64.*madealpha"):
        build(root, repository)


def test_another_python_than_the_bases_is_refused(
    make_project: Make, repository: LocalRepository, wheels: Path
) -> None:
    root = make_project(manifest=MANIFEST.replace("runtime:\n", "runtime:\n  requirements: [madealpha]\n"))
    shutil.rmtree(root.parent / "base")
    make_base(root.parent / "base", files={"usr/bin/python3.12": b""})
    with pytest.raises(InvalidInput, match=r"has Python 3\.12, and runtime\.python says 3\.11"):
        build(root, repository)


def test_a_large_package_is_a_layer_of_its_own(tmp_path: Path) -> None:
    for name, size in (("small", 10), ("large", 5000), ("alarge", 6000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(b"x" * size)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "RECORD").write_text(f"{name}/data,,\n{name}-1.0.dist-info/RECORD,,\n")
    found = distributions(tmp_path, large_bytes=1000)
    assert [d.name for d in found] == ["alarge", "large", None]
    assert [e.name for e in found[1].entries] == [
        f"{SITE_PACKAGES}/large-1.0.dist-info/RECORD",
        f"{SITE_PACKAGES}/large/data",
    ]


def test_more_layers_than_engines_can_mount_are_refused(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    for number in range(MAX_LAYERS):
        (root / "weights" / "deep" / f"{number}.bin").write_bytes(b"%d" % number)
    assert build(root, repository).digest
    with pytest.raises(InvalidInput, match="at most 100"):
        build(root, repository, options=Options(bundle=True))


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_the_compression_changes_no_content(
    make_project: Make, repository: LocalRepository, compression: str, tmp_path: Path
) -> None:
    root = make_project()
    gzip = build(root, repository)
    other = build(root, repository, options=Options(compression=compression))  # type: ignore[arg-type]
    assert [x.diff_id for x in other.layers] == [x.diff_id for x in gzip.layers]
    types = {"gzip": "tar+gzip", "zstd": "tar+zstd", "none": "tar"}
    assert {x.descriptor.media_type.rpartition(".")[2] for x in other.layers} == {types[compression]}
    with repository.open_blob(other.layers[-1].descriptor.digest) as blob:
        data = open_layer(io.BytesIO(blob.read())).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert "opt/model/serve.py" in archive.getnames()


def test_other_programs_read_a_compressed_stream_of_many_chunks(tmp_path: Path) -> None:
    from berth.authoring.compression import CHUNK_BYTES, compress_stream

    data = b"".join(b"%d," % (n * n % 99991) for n in range(2 * CHUNK_BYTES // 5)) + bytes(CHUNK_BYTES)
    assert len(data) > 2 * CHUNK_BYTES
    pieces = [data[i : i + 77_777] for i in range(0, len(data), 77_777)]
    packed = b"".join(compress_stream(pieces, "gzip"))
    assert packed == b"".join(compress_stream([data], "gzip"))
    done = subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True)
    assert done.stdout == data
    assert b"".join(compress_stream(pieces, "zstd")) == b"".join(compress_stream([data], "zstd"))
