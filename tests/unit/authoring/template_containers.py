"""Templates in their own containers: `xumi lock`, `xumi build` and `xumi invoke` on a real Debian, started by podman.

A call is what a user's is: no network, the weights mounted read-only or inside the image. What a library itself says is
computed by the same version of it, installed here or mounted into a container of the bare base image.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from demo import base as demo_base
from demo.podman import Podman
from tests.support.processes import ROOT, needs, note_peer


class Containers:
    """A local repository and a podman of its own."""

    def __init__(self, podman: Podman, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.podman, self.base, self._capsys = podman, base, capsys

    def lock_and_build(self, root: Path, *options: str, base: Path | None = None) -> None:
        """The folder becomes a version, exactly as `xumi.lock` says; its base image is the one of this machine."""
        text = (root / "xumi.yaml").read_text()
        lines = [
            f"  base: oci-layout:{base or self.base}" if li.startswith("  base:") else li for li in text.split("\n")
        ]
        (root / "xumi.yaml").write_text("\n".join(lines))
        self.xumi("lock", root)
        self.xumi("build", root, "--locked", *options)

    def invoke(self, reference: str, *options: str, **inputs: Any) -> Any:
        """The outputs of one call in a container without a network."""
        given = [f"--input={key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in inputs.items()]
        return json.loads(self.xumi("invoke", reference, "--engine", shlex.join(self.podman.command), *options, *given))

    def xumi(self, *arguments: str | Path) -> str:
        code = run("xumi", COMMANDS, [*map(str, arguments), "-o", "json"])
        done = self._capsys.readouterr()
        assert code == 0, done.err
        return done.out


@pytest.fixture
def containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Containers]:
    needs("podman")
    needs("runc")
    # podman wants a runroot of at most 50 characters.
    short = Path(tempfile.mkdtemp(prefix="podman-"))
    podman = Podman(short)
    try:
        if problem := podman.ready():
            pytest.skip(problem)
        monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("CONTAINERS_CONF", podman.env["CONTAINERS_CONF"])
        yield Containers(podman, debian(tmp_path), capsys)
        podman.clean()
    finally:
        shutil.rmtree(short, ignore_errors=True)


def debian(scratch: Path) -> Path:
    """Debian with Python as an OCI layout; the demo's when it is there already."""
    cached = ROOT / ".demo" / "cache" / "base"
    try:
        return demo_base.prepare(cached if (cached / "made-by.txt").is_file() else scratch / "base")[0]
    except demo_base.BaseUnavailableError as error:
        pytest.skip(f"no base image can be made here: {error}")


def installed(folder: Path, requirements: Path | Sequence[str], *, peer: str, options: Sequence[str] = ()) -> Path:
    """The packages of a template in a folder; the test is skipped, saying so, where they cannot be had."""
    wanted = [f"--requirements={requirements}"] if isinstance(requirements, Path) else list(requirements)
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-build", "--target", str(folder)]
    own = ["--python", sys.executable] if not options else list(options)
    done = subprocess.run([*command, *own, *wanted], capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        pytest.skip(
            f"{peer} WAS NOT TRIED: no wheel of it for this platform, or no package index: {done.stderr[-300:]}"
        )
    (found,) = folder.glob(f"{peer}-*.dist-info")
    note_peer(peer, found.name.removesuffix(".dist-info"))
    return folder


def debian_with_torch(scratch: Path) -> Path:
    """A newer Debian with Python 3.13 and its own PyTorch, as an OCI layout; made once, beside the demo's base.

    PyTorch's wheels of the package index bring CUDA: 2.8 GB to download, 5.2 GB installed. Debian's is for CPUs.
    """
    needs("mmdebstrap")
    cache = ROOT / ".demo" / "cache"
    made = cache / "torch-base"
    if made.is_dir():
        return made
    if os.geteuid() != 0:
        pytest.skip("Debian's PyTorch is installed with its scripts, which needs root")
    tar = scratch / "torch.tar"
    left_out = [f"--dpkgopt=path-exclude={path}/*" for path in ("/usr/share/doc", "/usr/include", "/usr/share/locale")]
    packages = "--include=python3-torch,python3-numpy"
    done = subprocess.run(
        ["mmdebstrap", "--variant=essential", packages, "--skip=output/dev", *left_out, "trixie", str(tar)],
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"PyTorch WAS NOT TRIED: no Debian with it can be made here: {done.stderr[-300:]}")
    demo_base.write_layout(tar, scratch / "torch-base", level=1)
    tar.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        return (scratch / "torch-base").rename(made)
    except OSError:
        # Another process was faster, or the cache is elsewhere.
        return made if made.is_dir() else scratch / "torch-base"
