"""xumi.lock: what it names, that builds keep to it, and that it says exactly what does not fit."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.authoring import lockfile
from berth.authoring.build import Built, build
from berth.authoring.options import Options
from berth.authoring.pinning import Upgrade, lock
from berth.authoring.repository import LocalRepository
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from berth.errors import InvalidInput
from tests.unit.authoring.conftest import MANIFEST, make_base
from tests.unit.authoring.test_requirements import make_wheel

Make = Callable[..., Path]
WITH_WHEELS = MANIFEST.replace("runtime:\n", "runtime:\n  requirements: [madealpha]\n")
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    make_wheel(folder, "madealpha")
    for key, value in {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(folder), "UV_CACHE_DIR": str(tmp_path / "uv")}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def locked(root: Path, repository: LocalRepository) -> dict:
    lockfile.write(root, lock(root, repository))
    return json.loads((root / "xumi.lock").read_text())


def strictly(root: Path, repository: LocalRepository) -> Built:
    return build(root, repository, options=Options(locked=True))


def test_the_lock_names_base_wheels_and_runtime_by_digest_and_no_address(
    make_project: Make, repository: LocalRepository, wheels: Path
) -> None:
    root = make_project(manifest=WITH_WHEELS)
    text = locked(root, repository)
    base = json.loads((root.parent / "base" / "index.json").read_text())["manifests"][0]["digest"]
    platform = text["platforms"]["linux/amd64"]
    assert platform["base"] == base
    assert platform["python_packages"] == [
        {
            "name": "madealpha",
            "version": "1.0",
            "filename": "madealpha-1.0-py3-none-any.whl",
            "sha256": sha256(wheels / "madealpha-1.0-py3-none-any.whl"),
        }
    ]
    raw = (root / "xumi.lock").read_text()
    assert "://" not in raw
    assert str(wheels) not in raw
    assert "oci-layout" not in raw
    assert lockfile.read(root).text() == raw  # type: ignore[union-attr]
    assert not lockfile.write(root, lock(root, repository))


def test_an_image_without_python_is_locked_and_built(make_project: Make, repository: LocalRepository) -> None:
    own = MANIFEST.replace("python: serve:Echo", "command: [./serve]").replace(
        "runtime:\n", "runtime:\n  python: null\n"
    )
    root = make_project(manifest=own)
    assert "python" not in locked(root, repository)["inputs"]
    assert strictly(root, repository).warnings == ()


def test_index_options_and_credentials_in_requirements_stay_out_of_the_lock(
    make_project: Make, repository: LocalRepository, wheels: Path
) -> None:
    root = make_project(manifest=MANIFEST.replace("runtime:\n", "runtime:\n  requirements: requirements.txt\n"))
    (root / "requirements.txt").write_text(
        f"--find-links {wheels}\n--extra-index-url https://me:{SECRET}@index.example/simple\n-r more.txt\n"
    )
    (root / "more.txt").write_text("madealpha  # the one\n")
    inputs = locked(root, repository)["inputs"]
    assert inputs["requirements"] == ["madealpha"]
    assert SECRET not in (root / "xumi.lock").read_text()
    assert "index.example" not in (root / "xumi.lock").read_text()


def test_a_build_takes_what_the_lock_names_although_there_is_something_newer(
    make_project: Make, repository: LocalRepository, wheels: Path, tmp_path: Path
) -> None:
    root = make_project(manifest=WITH_WHEELS)
    locked(root, repository)
    make_wheel(wheels, "madealpha", "2.0")
    make_wheel(wheels, "madealpha", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    empty = LocalRepository(tmp_path / "other-home")
    built = strictly(root, empty)
    assert built.locked
    deps = next(layer for layer in built.layers if layer.kind == "deps")
    (root / "xumi.lock").unlink()
    assert deps != next(layer for layer in build(root, empty).layers if layer.kind == "deps")


def test_content_that_is_not_what_the_lock_names_is_refused(
    make_project: Make, repository: LocalRepository, wheels: Path, tmp_path: Path
) -> None:
    root = make_project(manifest=WITH_WHEELS)
    locked(root, repository)
    wheel = wheels / "madealpha-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(InvalidInput, match="madealpha"):
        strictly(root, LocalRepository(tmp_path / "other-home"))


def test_with_a_lock_an_unchanged_build_needs_no_index(
    make_project: Make, repository: LocalRepository, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project(manifest=WITH_WHEELS)
    locked(root, repository)
    first = strictly(root, repository)
    shutil.rmtree(wheels)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert strictly(root, repository).digest == first.digest


def test_a_lock_that_is_out_of_date_is_not_used_and_the_build_says_why(
    make_project: Make, repository: LocalRepository, wheels: Path
) -> None:
    root = make_project(manifest=WITH_WHEELS)
    locked(root, repository)
    make_wheel(wheels, "madebeta")
    (root / "xumi.yaml").write_text(
        WITH_WHEELS.replace("[madealpha]", "[madebeta]").replace("runtime:\n", "runtime:\n  python: '3.12'\n")
    )
    with pytest.raises(InvalidInput) as caught:
        strictly(root, repository)
    assert caught.value.detail["problems"] == [
        "runtime.python was 3.11 and is 3.12",
        "runtime.requirements: madebeta is new",
        "runtime.requirements: madealpha is gone",
    ]
    built = build(root, repository)
    assert not built.locked
    assert "out of date" in built.warnings[-1]
    assert "madebeta is new" in built.warnings[-1]


def test_locked_without_a_lock_is_refused(make_project: Make, repository: LocalRepository) -> None:
    with pytest.raises(InvalidInput, match="no xumi.lock"):
        strictly(make_project(), repository)


def test_another_runtime_or_compressor_is_drift_too(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    text = locked(root, repository)
    text["runtime"] = "sha256:" + "0" * 64
    text["compressor"] = "gzip-6-other"
    (root / "xumi.lock").write_text(json.dumps(text))
    with pytest.raises(InvalidInput, match=r"runtime that goes into the image was 000000000000") as caught:
        strictly(root, repository)
    assert "compressed by gzip-6-other" in str(caught.value)
    built = build(root, repository)
    assert built.locked
    assert len(built.warnings) == 2


def test_a_base_that_moved_is_not_followed_and_one_that_is_gone_is_an_error(
    make_project: Make, repository: LocalRepository
) -> None:
    root = make_project()
    base = root.parent / "base"
    locked(root, repository)
    first = strictly(root, repository)
    make_base(base, files={"etc/os-release": b"ID=newer\n"})
    assert strictly(root, repository).digest == first.digest
    shutil.rmtree(base)
    make_base(base, files={"etc/os-release": b"ID=newer\n"})
    with pytest.raises(InvalidInput, match="not there any more"):
        strictly(root, repository)


def test_the_commands_lock_check_and_build(
    make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))

    def xumi(*arguments: str | Path) -> tuple[int, str, str]:
        code = run("xumi", COMMANDS, [str(a) for a in arguments])
        done = capsys.readouterr()
        return code, done.out, done.err

    root = make_project(manifest=WITH_WHEELS)
    assert xumi("lock", root, "--check")[0] == 1
    assert not (root / "xumi.lock").exists()
    code, out, _ = xumi("lock", root, "-o", "json")
    assert (code, json.loads(out)["changed"]) == (0, True)
    assert json.loads(out)["platforms"] == {"linux/amd64": {"python_packages": 1, "system_packages": 0}}
    assert xumi("lock", root, "--check")[0] == 0
    code, out, _ = xumi("build", root, "--locked", "-o", "json")
    assert (code, json.loads(out)["locked"]) == (0, True)
    (root / "xumi.yaml").write_text(WITH_WHEELS.replace("[madealpha]", "['madealpha>=1']"))
    code, _, err = xumi("build", root, "--locked")
    assert code == 1
    assert "runtime.requirements: madealpha>=1 is new" in err


@pytest.mark.parametrize("content", ["", "[]", "{", '{"xumi_lock": 2}', "\x00", "[" * 100_000])
def test_a_damaged_lock_is_one_clear_error(make_project: Make, repository: LocalRepository, content: str) -> None:
    root = make_project()
    (root / "xumi.lock").write_text(content)
    with pytest.raises(InvalidInput, match=r"xumi\.lock is damaged"):
        build(root, repository)


# --- pins stay ---------------------------------------------------------------------------------------------------

INSTALLERS = pytest.mark.parametrize("installer", ["uv", "pip"])


def versions(root: Path, repository: LocalRepository, installer: str, upgrade: Upgrade | None = None) -> dict[str, str]:
    found = lock(root, repository, options=Options(installer=installer), upgrade=upgrade)  # type: ignore[arg-type]
    lockfile.write(root, found)
    return {p.name: p.version for p in found.platforms["linux/amd64"].python_packages}


@pytest.fixture
def both(make_project: Make, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that needs madealpha and madebeta, for uv and pip alike."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    make_wheel(wheels, "madebeta")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = WITH_WHEELS.replace("[madealpha]", "[madealpha, madebeta]")
    return make_project(manifest=text.replace("runtime:\n", f"runtime:\n  python: '{python}'\n"))


@INSTALLERS
def test_a_lock_keeps_its_pins_though_there_is_something_newer(
    both: Path, repository: LocalRepository, wheels: Path, installer: str
) -> None:
    assert versions(both, repository, installer) == {"madealpha": "1.0", "madebeta": "1.0"}
    make_wheel(wheels, "madealpha", "2.0")
    make_wheel(wheels, "madebeta", "2.0")
    assert versions(both, repository, installer) == {"madealpha": "1.0", "madebeta": "1.0"}
    only = Upgrade.named(["MadeAlpha"])
    assert versions(both, repository, installer, only) == {"madealpha": "2.0", "madebeta": "1.0"}
    assert versions(both, repository, installer) == {"madealpha": "2.0", "madebeta": "1.0"}
    whole = Upgrade.named([], everything=True)
    assert versions(both, repository, installer, whole) == {"madealpha": "2.0", "madebeta": "2.0"}


@INSTALLERS
def test_a_changed_requirement_moves_only_what_must_move(
    both: Path, repository: LocalRepository, wheels: Path, installer: str
) -> None:
    versions(both, repository, installer)
    for name in ("madealpha", "madebeta", "madegamma"):
        make_wheel(wheels, name, "2.0")
    text = (both / "xumi.yaml").read_text()
    (both / "xumi.yaml").write_text(text.replace("[madealpha, madebeta]", "['madealpha>=2', madebeta, madegamma]"))
    assert versions(both, repository, installer) == {"madealpha": "2.0", "madebeta": "1.0", "madegamma": "2.0"}
    (both / "xumi.yaml").write_text(text.replace("[madealpha, madebeta]", "[madebeta]"))
    assert versions(both, repository, installer) == {"madebeta": "1.0"}


@INSTALLERS
def test_a_pin_that_is_not_offered_any_more_moves(
    both: Path, repository: LocalRepository, wheels: Path, installer: str
) -> None:
    versions(both, repository, installer)
    make_wheel(wheels, "madealpha", "2.0")
    make_wheel(wheels, "madebeta", "2.0")
    (wheels / "madealpha-1.0-py3-none-any.whl").unlink()
    assert versions(both, repository, installer) == {"madealpha": "2.0", "madebeta": "1.0"}


def test_the_same_file_stays_though_a_better_wheel_of_that_version_came(
    make_project: Make, repository: LocalRepository, wheels: Path
) -> None:
    root = make_project(manifest=WITH_WHEELS)
    locked(root, repository)
    make_wheel(wheels, "madealpha", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    name = locked(root, repository)["platforms"]["linux/amd64"]["python_packages"][0]["filename"]
    assert name == "madealpha-1.0-py3-none-any.whl"
    lockfile.write(root, lock(root, repository, upgrade=Upgrade.named(["madealpha"])))
    raised = json.loads((root / "xumi.lock").read_text())["platforms"]["linux/amd64"]["python_packages"][0]["filename"]
    assert raised == "madealpha-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"


def test_the_base_stays_until_it_is_asked_for_or_another_one_is_named(
    make_project: Make, repository: LocalRepository
) -> None:
    def base() -> str:
        return str(locked(root, repository)["platforms"]["linux/amd64"]["base"])

    root = make_project()
    folder = root.parent / "base"
    first = base()
    (folder / "index.json").unlink()  # the tag moves; what it meant is still there by its digest
    make_base(folder, files={"etc/os-release": b"ID=newer\n"})
    assert base() == first
    moved = lock(root, repository, upgrade=Upgrade(base=True)).platforms["linux/amd64"].base
    assert moved != first
    make_base(root.parent / "other", files={"etc/os-release": b"ID=other\n"})
    text = (root / "xumi.yaml").read_text()
    (root / "xumi.yaml").write_text(text.replace("oci-layout:../base", "oci-layout:../other"))
    assert base() not in (first, moved)


def test_the_command_says_what_moved(
    both: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))

    def xumi(*arguments: str | Path) -> tuple[int, str, str]:
        code = run("xumi", COMMANDS, [str(a) for a in arguments])
        done = capsys.readouterr()
        return code, done.out, done.err

    assert xumi("lock", both)[0] == 0
    make_wheel(wheels, "madealpha", "2.0")
    assert xumi("lock", both, "--check")[0] == 0
    code, _, err = xumi("lock", both, "--check", "--upgrade")
    assert code == 1
    code, out, err = xumi("lock", both, "-P", "madealpha", "-o", "json")
    assert (code, json.loads(out)["changes"]) == (0, ["linux/amd64: madealpha 1.0 → 2.0"])
    assert "madealpha 1.0 → 2.0" not in err
    code, _, err = xumi("lock", both, "-P", "nothing-like-it")
    assert code == 1
    assert "nothing-like-it" in err
    (both / "xumi.lock").write_text("{")
    assert xumi("lock", both)[0] == 1
    assert xumi("lock", both, "--upgrade")[0] == 0
    assert xumi("build", both, "--locked")[0] == 0
