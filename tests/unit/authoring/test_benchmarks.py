"""`benchmarks:` of xumi.yaml: what it may say, where it is shown, and that versions without any stay what they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from berth.authoring import manifest
from berth.authoring.build import build
from berth.authoring.compare import compare_folder
from berth.authoring.describe import describe
from berth.authoring.repository import LocalRepository
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from tests.unit.authoring.test_manifest import MINIMAL, complaints

Make = Callable[..., Path]
BENCHMARKS = """\
benchmarks:
  - name: digits
    description: Images of digits.
    runner: registry.example/benchmarks/classify:1.2
    dataset: {reference: "https://data.example.org/digits.parquet", revision: "2024-05", split: test}
    parameters: {batch: 32, seed: null}
    metrics:
      - {name: accuracy, goal: 0.95, tolerance: 0.01}
      - {name: latency.p95, unit: ms, better: lower, goal: 40}
      - {name: energy}
"""


def test_benchmarks_are_read_with_their_data_metrics_and_goals() -> None:
    (found,) = manifest.parse(MINIMAL + BENCHMARKS).manifest.benchmarks
    assert (found.name, found.timeout, found.parameters) == ("digits", 3600, {"batch": 32, "seed": None})
    assert found.dataset is not None
    assert (found.dataset.reference, found.dataset.split) == ("https://data.example.org/digits.parquet", "test")
    assert [(m.name, m.better, m.goal, m.unit) for m in found.metrics] == [
        ("accuracy", "higher", 0.95, None),
        ("latency.p95", "lower", 40.0, "ms"),
        ("energy", "higher", None, None),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("benchmarks: [{name: a}]", "`metrics` is missing"),
        ("benchmarks: [{name: a, metrics: []}]", "benchmarks[0].metrics"),
        ("benchmarks: [{name: A, metrics: [{name: x}]}]", "'A' does not have the right form"),
        ("benchmarks: [{name: a, metrics: [{name: x, goal: high}]}]", "benchmarks[0].metrics[0].goal"),
        ("benchmarks: [{name: a, metrics: [{name: x, goal: .nan}]}]", "benchmarks[0].metrics[0].goal"),
        ("benchmarks: [{name: a, metrics: [{name: x, better: more}]}]", "'more' is not allowed"),
        ("benchmarks: [{name: a, metrics: [{name: x, gaol: 1}]}]", "Did you mean `goal`?"),
        ("benchmarks: [{name: a, metrics: [{name: x}, {name: x}]}]", "the metric x is there twice"),
        ("benchmarks: [{name: a, metrics: [{name: x}]}, {name: a, metrics: [{name: x}]}]", "the name a twice"),
        (
            "benchmarks: [{name: a, metrics: [{name: x}], dataset: {reference: 'https://me:pw@host/x'}}]",
            "without user and password",
        ),
    ],
)
def test_a_mistake_is_explained(line: str, expected: str) -> None:
    (only,) = complaints(MINIMAL + line + "\n")
    assert expected in only
    assert "pw@" not in only


def test_the_published_schema_accepts_them_and_refuses_the_same_mistakes() -> None:
    import yaml

    validator = Draft202012Validator(manifest.schema())
    assert validator.is_valid(yaml.safe_load(MINIMAL + BENCHMARKS))
    assert not validator.is_valid(yaml.safe_load(MINIMAL + BENCHMARKS.replace("goal: 40", "gaol: 40")))


def test_a_manifest_without_benchmarks_is_packed_as_before_there_were_any() -> None:
    assert "benchmarks" not in manifest.parse(MINIMAL).manifest.to_json()
    assert manifest.parse(MINIMAL + BENCHMARKS).manifest.to_json()["benchmarks"][0]["parameters"]["seed"] is None


def test_show_and_diff_name_them(
    make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_project()
    text = (root / "xumi.yaml").read_text()
    (root / "xumi.yaml").write_text(text + BENCHMARKS)
    repository = LocalRepository(tmp_path / "home")
    with_goals = build(root, repository)
    assert [b["name"] for b in describe(repository, with_goals.digest)["benchmarks"]] == ["digits"]
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))
    assert run("xumi", COMMANDS, ["show", "acme/echo"]) == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert shown == [
        "benchmark digits on https://data.example.org/digits.parquet",
        "accuracy  ≥ 0.95",
        "latency.p95 ≤ 40 ms",
        "energy    higher is better",
    ]
    (root / "xumi.yaml").write_text(text + BENCHMARKS.replace("goal: 0.95", "goal: 0.9"))
    changes = compare_folder(repository, "acme/echo", root).manifest
    assert [(c.what, c.old, c.new) for c in changes] == [("benchmarks[digits].metrics[accuracy].goal", 0.95, 0.9)]
    assert build(root, repository).digest != with_goals.digest, "goals are part of the version"
    assert json.loads(json.dumps([c.to_json() for c in changes]))


def test_a_bump_leaves_them_as_they_are(make_project: Make) -> None:
    root: Any = make_project()
    (root / "xumi.yaml").write_text((root / "xumi.yaml").read_text() + BENCHMARKS)
    assert run("xumi", COMMANDS, ["bump", "minor", "-d", str(root)]) == 0
    assert (root / "xumi.yaml").read_text().endswith(BENCHMARKS)
