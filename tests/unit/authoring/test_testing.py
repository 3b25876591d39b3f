"""`xumi test` and `xumi invoke` on folders: what passes, and how failures are said."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from berth.authoring.running import Options
from berth.authoring.running_targets import find
from berth.authoring.testing import Report, run_samples, value_of
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from berth.errors import InvalidInput
from tests.support.processes import poll
from xumi.caller import Caller
from xumi.problems import InvalidValue
from xumi.values import File

SRC = Path(__file__).parents[3] / "src"
HEAD = """\
xumi: 1
name: acme/echo
version: 1.2.3
interface:
  inputs:
    - {name: text, type: text, required: false, default: ""}
    - {name: n, type: integer, required: false, default: 1}
    - {name: blob, type: file, required: false, media_types: [text/plain]}
  outputs:
    - {name: text, type: text}
    - {name: n, type: number, maximum: 100}
    - {name: blob, type: file, required: false}
entry: {python: "serve:Echo"}
runtime: {base: "oci-layout:base", startup_timeout: 20}
"""
SERVE = """
import os
from xumi import File, InvalidInput, Model


class Echo(Model):
    def predict(self, text, n, blob=None):
        if text == "exit":
            os._exit(9)
        if text == "refuse":
            raise InvalidInput("makes no sense", "text")
        if text == "crash":
            raise RuntimeError("no")
        out = {"text": text * n, "n": n / 3}
        if blob is not None:
            out["blob"] = File(blob.data.upper(), blob.media_type, "x.txt")
        return out
"""


class Folder:
    """A model of one's own, and its report."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "samples").mkdir()
        (path / "samples" / "in.txt").write_text("shout")
        (path / "samples" / "out.txt").write_text("SHOUT")
        (path / "serve.py").write_text(SERVE)
        self.write("")

    def write(self, samples: str, *, head: str = HEAD, serve: str = SERVE) -> None:
        (self.path / "serve.py").write_text(serve)
        (self.path / "xumi.yaml").write_text(head + textwrap.dedent(samples))

    def test(self, samples: str, **options: Any) -> Report:
        self.write(samples, head=options.pop("head", HEAD), serve=options.pop("serve", SERVE))
        return run_samples(find(str(self.path), self.path / "no-home"), Options(), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "model").mkdir()
    return Folder(tmp_path / "model")


def problems(report: Report) -> dict[str, tuple[str, ...]]:
    return {check.name: check.problems for check in report.checks}


def test_samples_that_fit_pass(folder: Folder) -> None:
    report = folder.test(
        """
        samples:
          - {name: plain, inputs: {text: ab, n: 2}, outputs: {text: abab, n: {close: 0.6667, atol: 0.001}}}
          - name: file
            inputs: {blob: {file: samples/in.txt}}
            outputs: {blob: {file: samples/out.txt}, text: {schema: {maxLength: 0}}}
          - {name: no outputs, inputs: {text: x}}
        """
    )
    assert problems(report) == dict.fromkeys(["starts", "serves its manifest", "plain", "file", "no outputs"], ())
    assert (report.ok, report.how) == (True, "process")
    assert report.peak_memory


def test_every_failure_is_named_and_the_others_still_run(folder: Folder) -> None:
    report = folder.test(
        """
        samples:
          - {name: differs, inputs: {text: ab}, outputs: {text: xy, n: {close: 0.5, atol: 0.1}}}
          - {name: refused, inputs: {text: refuse}}
          - {name: crashes, inputs: {text: crash}}
          - {name: breaks, inputs: {n: 1000}}
          - {name: fine, inputs: {text: a}, outputs: {text: a}}
        """
    )
    assert not report.ok
    assert problems(report) == {
        "starts": (),
        "serves its manifest": (),
        "differs": (
            'text: is "ab", expected "xy"',
            "n: is 0.3333333333333333, expected 0.5 (difference 0.166667, allowed 0.1: rtol 0, atol 0.1)",
        ),
        "refused": ("HTTP 422 text: makes no sense",),
        "crashes": ("HTTP 500 predict() raised RuntimeError: no",),
        "breaks": ("HTTP 500 n: The model broke its contract: n: 333.3333333333333 is more than 100",),
        "fine": (),
    }


def test_a_model_that_dies_in_a_call_is_a_failure_with_its_exit_code(folder: Folder) -> None:
    report = folder.test("samples: [{name: dies, inputs: {text: exit}}]\n")
    assert not report.ok
    assert "does not answer" in problems(report)["dies"][0]
    assert "exit code 9" in problems(report)["dies"][1]


def test_a_model_that_does_not_start_is_one_failed_check(folder: Folder) -> None:
    report = folder.test("samples: [{name: a}]\n", serve="class Echo: pass\n")
    (check,) = report.checks
    assert (check.kind, check.ok) == ("start", False)
    assert "serve:Echo is not a class with predict()" in check.problems[0]


def test_a_slow_call_is_a_failure(folder: Folder) -> None:
    wait = "        __import__('threading').Event().wait(60)\n"
    slow = "from xumi import Model\n\n\nclass Echo(Model):\n    def predict(self, **_):\n" + wait
    report = folder.test("samples: [{name: slow}]\n", serve=slow, timeout=0.3)
    assert "did not answer in time" in problems(report)["slow"][0]


def test_more_memory_than_declared_is_a_failure(folder: Folder) -> None:
    report = folder.test("", head=HEAD + "hardware: {minimum: {memory: 1MiB}}\n")
    assert not report.ok
    (said,) = problems(report)["memory"]
    assert said.startswith(f"used {report.peak_memory} bytes; hardware in xumi.yaml says 1048576")


def test_a_stream_is_put_together(folder: Folder) -> None:
    loop = "        for n in (1, 2):\n            yield {'text': str(n), 'n': n}\n"
    streaming = "from xumi import Model\n\n\nclass Echo(Model):\n    def predict(self, **_):\n" + loop
    report = folder.test(
        "samples: [{name: stream, outputs: {text: '12', n: 2}}]\n",
        head=HEAD.replace("interface:\n", "interface:\n  streaming: true\n"),
        serve=streaming,
    )
    assert report.ok, problems(report)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ("samples: [{name: a, inputs: {blob: {file: samples/none.txt}}}]\n", "cannot be read"),
        ("samples: [{name: a, inputs: {blob: {file: ../secret}}}]\n", "outside the model's folder"),
        ("samples: [{name: a, inputs: {n: {file: samples/in.txt}}}]\n", "is not JSON"),
        ("samples: [{name: a}]\n", "has no sample 'other'; it has: a"),
    ],
)
def test_samples_that_cannot_be_run_are_refused_before_anything_starts(
    folder: Folder, samples: str, words: str
) -> None:
    only = frozenset({"other"}) if "other" in words else frozenset()
    with pytest.raises(InvalidInput, match=words):
        folder.test(samples, only=only)


def test_a_file_gets_a_media_type_that_the_field_allows() -> None:
    def kind(name: str, *allowed: str) -> str:
        found = value_of({"name": "x", "type": "image", "media_types": allowed}, b"", name=name)
        assert isinstance(found, File)
        return found.media_type

    assert kind("a.png") == "image/png"
    assert kind("a.png", "image/*") == "image/png"
    assert kind("a.png", "image/jpeg") == "application/octet-stream"
    assert kind("a.unknown") == "application/octet-stream"
    assert value_of({"type": "text"}, b"a\n", name="a") == "a\n"
    assert value_of({"type": "tensor"}, b"[1]", name="a") == [1]
    with pytest.raises(InvalidValue):
        value_of({"type": "text"}, b"\xff", name="a")


# --- commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def xumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run("xumi", COMMANDS, [str(a) for a in arguments])
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


def test_the_test_command_prints_passes_and_failures_and_exits_accordingly(
    xumi: Callable[..., Any], folder: Folder
) -> None:
    folder.write("samples: [{name: one, inputs: {text: a}, outputs: {text: a}}, {name: two, outputs: {text: b}}]\n")
    code, out, _ = xumi("test", folder.path)
    assert code == 1
    assert "ok    sample one" in out
    assert "FAIL  sample two" in out
    assert '      text: is "", expected "b"' in out
    assert "1 failed in a process" in out
    code, out, _ = xumi("test", folder.path, "--sample", "one", "-o", "json")
    assert code == 0
    found = json.loads(out)
    assert (found["passed"], found["how"], found["version"]) == (True, "process", "acme/echo:1.2.3")
    assert [(c["kind"], c["name"], c["passed"]) for c in found["checks"]] == [
        ("start", "starts", True),
        ("contract", "serves its manifest", True),
        ("sample", "one", True),
    ]


def test_run_and_invoke_by_address_and_by_folder(xumi: Callable[..., Any], folder: Folder, tmp_path: Path) -> None:
    # A shell's background jobs ignore SIGINT, and what they start does too: this one is as in the foreground.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from berth.cli.main import xumi; xumi()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", folder.path, "-p", "0", "-o", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={"PYTHONPATH": str(SRC), "XUMI_HOME": str(tmp_path / "home"), "PATH": "/usr/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            text += process.stdout.readline()
        url = json.loads(text)["url"]
        code, out, _ = xumi("invoke", "--url", url, "-i", "text=ab", "-i", "n=3", "-o", "json")
        assert (code, json.loads(out)) == (0, {"text": "ababab", "n": 1.0})
        code, out, _ = xumi(
            "invoke", "--url", url, "-i", f"blob=@{folder.path}/samples/in.txt", "--save", tmp_path / "o"
        )
        assert code == 0
        assert (tmp_path / "o" / "blob.txt").read_text() == "SHOUT"
        assert "text/plain" in out
        for given, words in {
            "n=x": "not JSON",
            "n": "has no value",
            "blob=@none": "cannot be read",
            "txt=a": "did you mean text?",
        }.items():
            code, _, err = xumi("invoke", "--url", url, "-i", given)
            assert code == 1
            assert words in err
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=5)
    code, _, err = xumi("invoke", "--url", url)
    assert code == 1
    assert "does not answer" in err
    code, out, _ = xumi("invoke", folder.path, "-i", "text=ab", "-o", "json")
    assert (code, json.loads(out)["text"]) == (0, "ab")
    assert xumi("invoke")[0] == 1


def test_the_command_template_is_tested_and_called_without_saying_its_interface(
    xumi: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "own"
    assert xumi("init", "acme/own", "--template", "command", "-d", root)[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("server.py", "xumi.yaml"):
        (root / name).write_text((root / name).read_text().replace("8080", str(port)))
    sample = "samples:\n  - {name: loud, inputs: {text: ab}, outputs: {text: AB}}\n"
    (root / "xumi.yaml").write_text((root / "xumi.yaml").read_text() + sample)
    code, out, err = xumi("test", root, "-o", "json")
    assert (code, json.loads(out)["passed"]) == (0, True), err
    code, out, err = xumi("invoke", root, "-i", "text=7", "-o", "json")
    assert (code, json.loads(out)) == (0, {"text": "7"}), err
    # By address nothing is known: what is JSON goes as JSON.
    server = subprocess.Popen([sys.executable, root / "server.py"], stderr=subprocess.DEVNULL)
    try:
        caller = Caller(f"http://127.0.0.1:{port}")
        poll(caller.ready, what="the program answers")
        code, out, err = xumi("invoke", "--url", caller.address, "-i", "text=[true]", "-o", "json")
        assert (code, json.loads(out)) == (0, {"text": "[TRUE]"}), err
    finally:
        server.kill()
        server.wait()
