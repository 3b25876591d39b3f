"""Models in the background: started, listed, read and ended; nothing of one that fails is left.

In processes; containers are in tests/stories/test_run.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from berth.authoring import detached
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from berth.errors import NotFound
from tests.support.processes import poll
from xumi.caller import Caller

Xumi = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "home"
    monkeypatch.setenv("XUMI_HOME", str(folder))
    yield folder
    for one in detached.every(folder):
        detached.stop(one, seconds=0)


@pytest.fixture
def xumi(home: Path, capsys: pytest.CaptureFixture[str]) -> Xumi:
    def call(*arguments: str | Path) -> tuple[int, Any, str]:
        code = run("xumi", COMMANDS, [*map(str, arguments), "-o", "json"])
        done = capsys.readouterr()
        return code, json.loads(done.out) if done.out else None, done.err

    return call


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


def gone(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_a_detached_model_answers_after_the_command_has_ended_until_it_is_stopped(
    xumi: Xumi, make_project: Any, home: Path
) -> None:
    root = make_project()
    code, said, _ = xumi("run", root, "-d", "--name", "echo", "--port", "0")
    assert code == 0
    assert (said["name"], said["version"], said["state"], said["how"]) == (
        "echo",
        "acme/echo:1.2.3",
        "running",
        "process",
    )
    (out,) = Caller(said["url"]).invoke({"text": "hello"})
    assert out["text"] == "hello"
    assert xumi("ps")[1] == [said]
    code, _, err = xumi("run", root, "-d", "--name", "echo", "--port", "0")
    assert code == 1
    assert "runs already" in err
    (model,) = children(said["pid"])
    assert xumi("stop", "echo")[:2] == (0, {"stopped": ["echo"]})
    assert gone(said["pid"])
    assert gone(model)
    assert xumi("ps")[1] == []
    assert list((home / "running").iterdir()) == []
    assert xumi("stop", "echo")[0] == 1


def test_a_model_that_fails_to_start_says_why_and_leaves_nothing(xumi: Xumi, make_project: Any, home: Path) -> None:
    root = make_project()
    (root / "serve.py").write_text((root / "serve.py").read_text() + "\nraise RuntimeError('no luck today')\n")
    code, _, err = xumi("run", root, "-d", "--port", "0")
    assert code == 1
    assert "no luck today" in json.loads(err.strip().splitlines()[-1])["error"]["message"]
    assert list((home / "running").iterdir()) == []


def test_a_port_that_is_taken_is_an_error_at_once(xumi: Xumi, make_project: Any, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code, _, err = xumi("run", make_project(), "-d", "--port", str(server.getsockname()[1]))
    assert code == 1
    assert "Cannot listen" in err
    assert list((home / "running").iterdir()) == []


def test_when_its_supervisor_is_killed_the_model_ends_too_and_stop_cleans_up(
    xumi: Xumi, make_project: Any, home: Path
) -> None:
    root = make_project()
    _, said, _ = xumi("run", root, "-d", "--name", "echo", "--port", "0")
    (model,) = children(said["pid"])
    os.kill(said["pid"], signal.SIGKILL)
    os.waitpid(said["pid"], 0)
    poll(lambda: gone(model), what="the model is gone")
    assert [one["state"] for one in xumi("ps")[1]] == ["ended"]
    code, found, _ = xumi("logs", "echo")
    assert (code, found["state"]) == (0, "ended")
    _, again, _ = xumi("run", root, "-d", "--name", "echo", "--port", "0")
    assert again["state"] == "running", "the name of one that has ended is free"
    assert xumi("stop", "--all")[1] == {"stopped": ["echo"]}


def test_names_that_are_paths_are_refused(home: Path, xumi: Xumi) -> None:
    for name in ("../x", "", "A", "a/b", "-x"):
        with pytest.raises(NotFound):
            detached.one(home, name)
    assert xumi("run", ".", "-d", "--name", "../x")[0] == 1
    assert not home.exists()
