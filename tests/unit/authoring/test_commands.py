"""The commands, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.cli.main import run
from berth.cli.xumi import COMMANDS

Make = Callable[..., Path]


@pytest.fixture
def xumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run("xumi", COMMANDS, [str(a) for a in arguments])
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


def test_from_init_to_rm(xumi: Callable[..., tuple], make_project: Make, tmp_path: Path) -> None:
    assert xumi("init", "acme/new", "-t", "command", "-d", tmp_path / "new")[0] == 0
    assert xumi("validate", tmp_path / "new")[0] == 0
    root = make_project()
    code, out, err = xumi("build", root, "--bundle", "-o", "json")
    assert code == 0, err
    built = json.loads(out)
    assert built["reference"] == "acme/echo:1.2.3"
    assert [x["kind"] for x in built["layers"]] == ["runtime", "manifest", "code", "weights", "weights"]
    assert "code " in err
    (row,) = json.loads(xumi("ls", "-o", "json")[1])
    assert (row["name"], row["version"], row["digest"], row["size"]) == (
        "acme/echo",
        "1.2.3",
        built["digest"],
        built["size"],
    )
    shown = json.loads(xumi("show", "acme/echo", "-o", "json")[1])
    assert shown["size"] == built["size"]
    assert [f["path"] for f in shown["checkpoints"][0]["files"]] == ["a.bin", "deep/er/b.dat"]
    assert xumi("show", "acme/echo", "--manifest")[1] == (root / "xumi.yaml").read_text()
    assert json.loads(xumi("prune", "-o", "json")[1]) == {"freed": 0, "dry_run": False}
    code, out, _ = xumi("rm", "acme/echo:1.2.3", "-o", "json")
    assert (code, json.loads(out)["freed"]) == (0, 0)
    freed = json.loads(xumi("prune", "--dry-run", "-o", "json")[1])["freed"]
    assert freed > 0
    assert json.loads(xumi("prune", "-o", "json")[1]) == {"freed": freed, "dry_run": False}
    assert json.loads(xumi("prune", "-o", "json")[1])["freed"] == 0
    assert json.loads(xumi("ls", "-o", "json")[1]) == []


def test_a_mistake_is_one_clear_error(xumi: Callable[..., tuple], make_project: Make) -> None:
    root = make_project()
    (root / "xumi.yaml").write_text((root / "xumi.yaml").read_text().replace("license:", "licence:"))
    code, out, err = xumi("validate", root)
    assert (code, out) == (1, "")
    assert "line 10, column 1: `licence` is not known here. Did you mean `license`?" in err
    code, _, err = xumi("validate", root, "-o", "json")
    assert json.loads(err)["error"]["detail"]["problems"][0]["line"] == 10
    assert xumi("show", "acme/none")[0] == 1
    assert xumi("rm")[0] == 1
    assert xumi("build", root, "--installer", "conda")[0] == 2
