"""Wheels → a layer, by pip and by uv, without a network: the wheels are made here."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from berth.authoring.base import Platform
from berth.authoring.requirements import Installer, Target, installed
from berth.errors import InvalidInput

TARGET = Target("3.11", Platform("linux", "amd64"))
PREFIX = "opt/xumi/site-packages/"


def make_wheel(folder: Path, name: str, version: str = "1.0", tag: str = "py3-none-any") -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": b"VALUE = 1\n",
        f"{name}/__pycache__/__init__.cpython-311.pyc": b"stale",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}={name}:main\n".encode(),
    }

    def line(path: str, data: bytes) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(data)}\n"

    record = "".join(line(*item) for item in files.items()) + f"{info}/RECORD,,\n"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
        for path, data in {**files, f"{info}/RECORD": record.encode()}.items():
            wheel.writestr(path, data)


@pytest.fixture(autouse=True)
def only_local_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wheels = tmp_path / "wheels"
    for name in ("madealpha", "madebeta"):
        make_wheel(wheels, name)
    for key, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}.items():
        monkeypatch.setenv(key, value)
    for key, value in {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(wheels)}.items():
        monkeypatch.setenv(key, value)
    return wheels


def content(requirements: list[str] | str, root: Path, installer: Installer) -> dict[str, bytes]:
    with installed(requirements, root, TARGET, installer=installer) as entries:
        return {
            e.name.removeprefix(PREFIX): e.source if isinstance(e.source, bytes) else e.source.read_bytes()
            for e in entries
        }


def test_pip_and_uv_in_any_order_give_the_same_files(tmp_path: Path) -> None:
    by_pip = content(["madealpha", "madebeta==1.0"], tmp_path, "pip")
    assert by_pip == content(["madebeta", "madealpha"], tmp_path, "uv")
    assert sorted(by_pip) == sorted(
        f"{name}{rest}"
        for name in ("madealpha", "madebeta")
        for rest in (
            "/__init__.py",
            "-1.0.dist-info/METADATA",
            "-1.0.dist-info/RECORD",
            "-1.0.dist-info/WHEEL",
            "-1.0.dist-info/entry_points.txt",
        )
    )
    record = by_pip["madealpha-1.0.dist-info/RECORD"].decode()
    assert record.splitlines() == sorted(record.splitlines())
    assert "bin/" not in record
    assert "INSTALLER" not in record


def test_a_requirements_file_is_read_with_the_files_it_includes(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r more.txt\nmadealpha\n")
    (tmp_path / "more.txt").write_text("madebeta\n")
    assert "madebeta/__init__.py" in content("requirements.txt", tmp_path, "uv")


@pytest.mark.parametrize(
    "line", ["git+https://user:secret@example.org/x", "-e .", "x @ file:///tmp/x", "./local", "--no-binary :all:"]
)
def test_what_would_be_built_from_source_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidInput, match="built from source") as caught:
        content(["madealpha", line], tmp_path, "uv")
    assert "line 2" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_wheel_for_another_platform_does_not_count(tmp_path: Path, only_local_wheels: Path) -> None:
    make_wheel(only_local_wheels, "madegamma", tag="cp311-cp311-win_amd64")
    with pytest.raises(InvalidInput, match="cannot be installed"):
        content(["madegamma"], tmp_path, "uv")
    make_wheel(only_local_wheels, "madegamma", tag="cp311-cp311-manylinux_2_17_x86_64")
    assert "madegamma/__init__.py" in content(["madegamma"], tmp_path, "uv")


def test_an_unknown_package_is_an_error_without_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="cannot be installed") as caught:
        content(["no-such-package-made"], tmp_path, "pip")
    assert "http" not in str(caught.value)
