"""`xumi fit --models`: what is asked for a described machine, and what is shown of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.unit.cli.conftest import Ran, Service

Cli = Callable[..., Ran]
FITTING = "GET /api/v1/models/fitting"


def item(model: str, version: str, *, missing: list[str] | None = None, recommended: bool | None = None) -> Any:
    return {
        "model": model,
        "version": version,
        "fits": not missing,
        "fits_recommended": recommended,
        "missing": missing or [],
        "title": None,
    }


def test_a_described_machine_is_what_is_asked_about(cli: Cli, service: Service) -> None:
    service.answers[FITTING] = (200, {"items": [item("ml/demo", "1.0.0")], "next": None})
    words = "--arch amd64 --gpus 2 --gpu-memory 24GiB --compute-capability 8.6 --memory 64GiB --project ml --all"
    ran = cli("xumi", "fit", "--models", *words.split(), "-o", "json")
    assert (ran.code, [i["version"] for i in ran.json["items"]]) == (0, ["1.0.0"])
    asked = parse_qs(service.queries[0])
    assert asked["gpu"] == ["nvidia:25769803776:8.6:"] * 2
    assert (asked["architecture"], asked["memory"], asked["project"]) == (["amd64"], [str(64 * 1024**3)], ["ml"])
    assert (asked["every"], "nearly" in asked, "cpus" in asked, "cuda" in asked) == (["true"], False, False, False)


def test_this_machine_is_what_is_asked_about_otherwise(cli: Cli, service: Service) -> None:
    service.answers[FITTING] = (200, {"items": [], "next": None})
    ran = cli("xumi", "fit", "--models")
    assert ran.code == 1
    assert "--nearly" in ran.err
    asked = parse_qs(service.queries[0])
    assert float(asked["cpus"][0]) > 0
    assert {"memory", "disk", "cuda", "rocm"} <= set(asked)


def test_what_nearly_fits_is_shown_with_what_is_missing(cli: Cli, service: Service) -> None:
    """Of a model that fits, a lower version that needs more is left out."""
    near = [
        item("ml/chat", "1.10.0", missing=["memory: needs 16 GiB, has 8 GiB"]),
        item("ml/chat", "1.1.0", missing=["memory: needs 16 GiB, has 8 GiB"]),
    ]
    service.answers[FITTING] = (200, {"items": [item("ml/chat", "1.9.0", recommended=False)], "next": None})
    service.answers[FITTING + "?nearly"] = (200, {"items": near, "next": None})
    ran = cli("xumi", "fit", "--models", "--nearly", "--memory", "8GiB")
    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines()[1:]]
    assert [line[:3] for line in lines] == [["ml/chat", "1.9.0", "minimum"], ["ml/chat", "1.10.0", "nearly"]]
    assert "needs 16 GiB, has 8 GiB" in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--models ml/demo:1.0.0", "--models"),
        ("--nearly", "--models"),
        ("--models --memory lots", "lots"),
        ("--models --arch z80", "z80"),
        ("--models --gpus 1 --gpu-vendor NVIDIA", "NVIDIA"),
    ],
)
def test_words_that_make_no_sense_are_errors(cli: Cli, service: Service, words: str, said: str) -> None:
    ran = cli("xumi", "fit", *words.split(), "-o", "json")
    assert ran.code == 1
    assert said in ran.error["message"]
    assert service.asked == []
    json.dumps(ran.error)


def test_a_model_is_compared_with_a_described_machine(cli: Cli, tmp_path: Any) -> None:
    (tmp_path / "xumi.yaml").write_text(
        "xumi: 1\nname: ml/demo\nversion: 1.0.0\n"
        "interface: {inputs: [{name: a, type: text}], outputs: [{name: b, type: text}]}\n"
        "entry: {python: 'serve:M'}\nruntime: {base: 'python:3.11'}\n"
        "hardware: {architectures: [amd64], minimum: {gpu: {memory: 24GiB}}}\n"
    )
    assert cli("xumi", "fit", "--arch", "amd64", "--gpu-memory", "24GiB").code == 0
    assert cli("xumi", "fit", "--arch", "amd64", "--gpu-memory", "23GiB").code == 1
    assert cli("xumi", "fit", "--arch", "arm64", "--gpu-memory", "24GiB").code == 1
