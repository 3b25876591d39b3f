"""`pip install berth` and nothing else: from an empty folder to a tested version with pinned packages, zstd included.

The environment gets the wheel of this tree and exactly the packages that it requires without any extra, copied from the
environment of the tests, so that no index is asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.processes import ROOT
from tests.unit.authoring.conftest import make_base
from tests.unit.authoring.test_requirements import make_wheel

pytestmark = pytest.mark.slow
SERVE = """\
import madealpha
from xumi import Model


class Echo(Model):
    def predict(self, text: str) -> str:
        return text
"""


def required(wheel: Path) -> list[metadata.Distribution]:
    """What the wheel needs without any extra, all the way down, as it is installed here."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        needs_all = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    left = [(text, frozenset[str]()) for text in needs_all]
    found: dict[str, metadata.Distribution] = {}
    while left:
        text, extras = left.pop()
        needs = Requirement(text)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if needs.marker is not None and not any(needs.marker.evaluate(each) for each in environments):
            continue
        if canonicalize_name(needs.name) not in found:
            distribution = metadata.distribution(needs.name)
            found[canonicalize_name(needs.name)] = distribution
            left += [(each, frozenset(needs.extras)) for each in distribution.requires or ()]
    return list(found.values())


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a new environment."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=True)
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "venv" / "lib" / minor / "site-packages"
    build = [Path(sys.executable).parent / "uv", "build", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--quiet", "--offline", "-o", folder / "dist", ROOT], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    for distribution in required(wheel):
        for file in distribution.files or ():
            target = (site / file).resolve()
            if file.suffix != ".pyc" and target.is_relative_to(folder.resolve()):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file.locate(), target)
    install = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    return folder / "venv" / "bin"


def test_a_fresh_client_makes_locks_builds_and_tests_a_model(fresh: Path, tmp_path: Path) -> None:
    wheels, root = tmp_path / "wheels", tmp_path / "echo"
    make_wheel(wheels, "madealpha")
    make_base(tmp_path / "base")
    root.mkdir()
    (root / "serve.py").write_text(SERVE.replace("import madealpha\n", ""))
    (root / "requirements.txt").write_text("madealpha\n")
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "XUMI_HOME": str(tmp_path / "home"),
        "UV_OFFLINE": "1",
        "UV_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
    }

    def xumi(*arguments: str) -> dict[str, object]:
        command = [fresh / "xumi", *arguments, "-o", "json"]
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    xumi("init", "acme/echo")
    text = (root / "xumi.yaml").read_text().replace("docker.io/library/python:3.11-slim", "oci-layout:../base")
    # Another Python than the one that runs here: only uv can resolve for it.
    other = "3.12" if sys.version_info[:2] == (3, 11) else "3.11"
    (root / "xumi.yaml").write_text(text.replace('python: "3.11"', f'python: "{other}"'))
    xumi("validate")
    assert xumi("lock", "--compression", "zstd")["platforms"]
    built = xumi("build", "--locked", "--compression", "zstd")
    assert built["locked"]
    shown = xumi("show", "acme/echo")
    assert any(layer["kind"] == "deps" for layer in shown["images"][0]["layers"])  # type: ignore[index]
    assert xumi("test")["passed"]
    assert xumi("fit")["fits"]


def test_it_says_what_to_install_for_the_service(fresh: Path) -> None:
    done = subprocess.run([fresh / "berth", "up"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert 'pip install "berth[server]"' in done.stderr
