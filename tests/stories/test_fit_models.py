"""A pushed model is found by the machine that it fits: xumi.yaml, index annotation, `xumi fit --models`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from berth.client import Berth
from tests.support.processes import BerthProcess
from tests.unit.authoring.conftest import MANIFEST, make_base


def test_a_pushed_model_is_found_by_the_machines_that_it_fits(
    berth: BerthProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from berth.cli.main import run
    from berth.cli.xumi import COMMANDS

    def fit(*words: str) -> tuple[int, list[str]]:
        code = run("xumi", COMMANDS, ["fit", "--models", "--arch", "amd64", *words, "-o", "json"])
        items = json.loads(capsys.readouterr().out)["items"]
        return code, [f"{item['model']}:{item['version']}" for item in items]

    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BERTH_URL", berth.url)
    monkeypatch.setenv("BERTH_TOKEN", berth.admin_token)
    with Berth(berth.url, berth.admin_token) as client:
        client.projects.create("fits", policy="open")
    root = tmp_path / "work" / "project"
    (root / "weights").mkdir(parents=True)
    make_base(tmp_path / "work" / "base")
    (root / "weights" / "a.bin").write_bytes(b"weights")
    (root / "serve.py").write_text("from xumi import Model\n\n\nclass Echo(Model):\n    def predict(self, text): ...\n")
    for version, memory in (("1.2.3", "8GiB"), ("2.0.0", "64GiB")):
        text = MANIFEST.replace("acme/echo", "fits/echo").replace("1.2.3", version).replace(', "deep/**/*"', "")
        needs = f"hardware: {{architectures: [amd64], minimum: {{memory: {memory}}}}}\n"
        (root / "xumi.yaml").write_text(text + needs)
        assert run("xumi", COMMANDS, ["build", str(root)]) == 0, capsys.readouterr().err
        assert run("xumi", COMMANDS, ["push", f"fits/echo:{version}"]) == 0, capsys.readouterr().err
        capsys.readouterr()
    assert fit("--memory", "4GiB") == (1, [])
    assert fit("--memory", "8GiB") == (0, ["fits/echo:1.2.3"])
    assert fit("--memory", "64GiB") == (0, ["fits/echo:2.0.0"])
    assert fit("--memory", "64GiB", "--all", "--project", "fits") == (0, ["fits/echo:2.0.0", "fits/echo:1.2.3"])
