"""The same project gives the same version on any machine, for any user, with any Python: the digest in golden.json.

When a format changes on purpose (what is in the config, in manifest.json, in a layer), the new digest belongs there,
and into the changelog: every model that is built again gets another digest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.authoring.test_requirements import make_wheel

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())
SCRIPT = HERE / "golden_build.py"
ROOT = Path(__file__).parents[3]
NEEDED = ("pydantic", "pyyaml", "license-expression", "pydantic-settings")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    for name in ("madealpha", "madebeta"):
        make_wheel(tmp_path / "wheels", name)
    return tmp_path / "wheels"


def run(
    folder: Path,
    wheels: Path,
    *,
    seed: int = 1,
    python: str = sys.executable,
    prefix: tuple[str, ...] = (),
    umask: int = 0o022,
    uv: str | None = None,
    **environment: str,
) -> dict[str, Any]:
    folder.mkdir(parents=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "LC_", "LANG"))}
    settings = {
        "UV_OFFLINE": "1",
        "UV_FIND_LINKS": str(wheels),
        "UV_CACHE_DIR": str(folder / "uv-cache"),
        "PIP_CONFIG_FILE": "/dev/null",
        "PYTHONPATH": str(ROOT / "src"),
        "PATH": f"{Path(uv).parent}:{os.environ['PATH']}" if uv else os.environ["PATH"],
    }
    done = subprocess.run(
        [*prefix, python, "-P", str(SCRIPT), str(folder), str(seed)],
        env={**inherited, **settings, **environment},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def is_golden(found: dict[str, Any]) -> None:
    kept = {key: found[key] for key in GOLDEN}
    hint = f"If the format was changed on purpose, golden.json must say: {json.dumps(kept)}"
    assert found["diff_ids"] == GOLDEN["diff_ids"], hint
    if found["compressor"] != GOLDEN["compressor"]:
        pytest.skip(f"this zlib compresses differently ({found['compressor']}): only the layers' content was compared")
    assert found["version"] == GOLDEN["version"], hint


def test_the_golden_digest_is_reproduced(tmp_path: Path, wheels: Path) -> None:
    is_golden(run(tmp_path / "one", wheels))


def test_zone_locale_hash_seed_umask_folder_order_and_times_do_not_matter(tmp_path: Path, wheels: Path) -> None:
    first = run(tmp_path / "one", wheels, seed=1, TZ="UTC", LC_ALL="C", PYTHONHASHSEED="1")
    second = run(
        tmp_path / "quite" / "another folder" / "\u00fc",
        wheels,
        seed=2,
        umask=0o077,
        TZ="Pacific/Kiritimati",
        LC_ALL="C.UTF-8",
        PYTHONHASHSEED="4711",
        SOURCE_DATE_EPOCH="1",
    )
    assert (first["saw"][2:], second["saw"][2:]) == (["UTC", "1"], ["Pacific/Kiritimati", "4711"])
    assert first["real"] == second["real"]
    is_golden(second)


def test_the_user_does_not_matter(tmp_path: Path, wheels: Path) -> None:
    prefix = ("unshare", "--user", "--map-user=4321", "--map-group=4321")
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here: cannot run as another user without giving up access to the checkout")
    found = run(tmp_path / "one", wheels, prefix=prefix)
    assert found["saw"][0] == 4321 != os.getuid()
    is_golden(found)


def uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is not installed: no other interpreter can be set up")
    return found


def interpreters() -> dict[str, str]:
    """Minor version → path, of every CPython >= 3.11 on this machine but this one's minor: PATH and pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [str(p) for p in sorted(pyenv.glob("versions/*/bin/python"))]
    candidates += [p for n in range(11, 30) if (p := shutil.which(f"python3.{n}"))]
    found: dict[str, str] = {}
    for path in candidates:
        ask = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
        done = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=False)
        name, *minor = done.stdout.split() or [""]
        version = tuple(int(n) for n in minor)
        if done.returncode == 0 and name == "cpython" and version >= (3, 11) and version != sys.version_info[:2]:
            found.setdefault(".".join(minor), path)
    return found


def test_the_version_of_python_does_not_matter(tmp_path: Path, wheels: Path) -> None:
    others = interpreters()
    if not others:
        pytest.skip("no other CPython >= 3.11 on this machine")
    tried, reasons = [], []
    for minor, path in sorted(others.items()):
        venv = tmp_path / f"venv-{minor}"
        for command in (
            [uv(), "venv", "--quiet", "--python", path, str(venv)],
            [uv(), "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), *NEEDED],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reasons.append(f"{minor}: {done.stderr.strip().splitlines()[-1][:200]}")
                break
        else:
            found = run(tmp_path / minor, wheels, python=str(venv / "bin" / "python"), uv=uv())
            assert ".".join(map(str, found["saw"][1])) == minor
            is_golden(found)
            tried.append(minor)
    if not tried:
        pytest.skip(f"no other Python could be set up (no package index?): {'; '.join(reasons)}")
