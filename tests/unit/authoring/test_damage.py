"""No bytes in a folder crash `init` or `validate`, and nothing that waits in a file to be loaded ever runs."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from tests.support.weight_files import CARDS, TRAP, WEIGHTS, YAML_TRAP, damaged, trapped, went_off

ALL = {**WEIGHTS, **CARDS}


@pytest.fixture(autouse=True)
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRAP, str(tmp_path / "went-off"))


def test_the_traps_of_these_tests_go_off_when_they_are_loaded(tmp_path: Path) -> None:
    for protocol in (0, 2, 4):
        pickle.loads(trapped(protocol))
        assert went_off()
        (tmp_path / "went-off").rmdir()
    yaml.unsafe_load(YAML_TRAP)
    assert went_off()


def answers(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> int:
    """Runs a command; a mistake of ours would be code 70 or speak of --debug."""
    code = run("xumi", COMMANDS, [str(a) for a in arguments])
    said = capsys.readouterr().err
    assert "--debug" not in said, said
    assert code in (0, 1), said
    return code


def look_at(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers(capsys, "init", "acme/odd", "-d", root) == 0
    answers(capsys, "validate", root)
    assert not went_off()


@pytest.mark.parametrize("name", ALL)
def test_a_whole_file_is_looked_at_and_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    root = tmp_path / "model"
    root.mkdir()
    (root / name).write_bytes(ALL[name])
    look_at(root, capsys)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_crashes_nothing_and_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    root = tmp_path / "model"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name in data.draw(st.lists(st.sampled_from(sorted(ALL)), min_size=1, max_size=3, unique=True)):
        (root / name).write_bytes(data.draw(damaged(ALL[name])))
    look_at(root, capsys)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_xumi_yaml_is_refused_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    root = tmp_path / "model"
    if not root.exists():
        assert answers(capsys, "init", "acme/odd", "-d", root, "--template", "command") == 0
        (tmp_path / "good").write_bytes((root / "xumi.yaml").read_bytes())
    good = (tmp_path / "good").read_bytes()
    places = [n for n, byte in enumerate(good) if byte in b"\n"]
    at = data.draw(st.sampled_from(places))
    key = data.draw(st.sampled_from([b"x: ", b"title: ", b"  - ", b"license: ", b"? ", b"&a *a "]))
    body = good[: at + 1] + key + YAML_TRAP.encode() + b"\n" + good[at + 1 :]
    (root / "xumi.yaml").write_bytes(data.draw(st.one_of(st.just(body), damaged(body), damaged(good))))
    answers(capsys, "validate", root)
    assert not went_off()
