"""Stories of a built model on this machine: tested, run and called, in a process and in real containers."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.authoring.containers import Container, find_engine
from berth.authoring.repository import LocalRepository
from berth.authoring.running_targets import find, image_of
from demo import base as demo_base
from demo import weights as demo_weights
from demo.podman import Podman
from tests.support.processes import ROOT, needs, poll

CACHE = ROOT / ".demo" / "cache"
MANIFEST = """\
xumi: 1
name: acme/greeter
version: 1.0.0
license: Apache-2.0
interface:
  inputs:
    - {{name: text, type: text, max_length: 200}}
  outputs:
    - {{name: text, type: text}}
    - {{name: facts, type: object}}
entry:
  python: serve:Greeter
runtime:
  base: "oci-layout:{base}:{ref}"
hardware:
  architectures: [{architecture}]
  minimum: {{memory: 256MiB}}
checkpoints:
  - {{name: words, files: ["*.txt"]}}
samples:
  - name: greeting
    inputs: {{text: world}}
    outputs:
      text: {greeting} world
      facts: {{contains: {{uid: 65532, interfaces: [lo]}}}}
"""
SERVE = """\
import os
import socket

from xumi import Model


def tried(path, mode):
    try:
        open(path, mode).close()
    except OSError as error:
        return error.errno
    return 0


class Greeter(Model):
    def setup(self):
        self.word = (self.weights["words"] / "word.txt").read_text().strip()

    def predict(self, text):
        facts = {
            "uid": os.getuid(),
            "interfaces": [name for _, name in socket.if_nameindex()],
            "code": tried("/opt/model/new", "w"),
            "weights": tried(self.weights["words"] / "word.txt", "a"),
            "tmp": tried("/tmp/new", "w"),
        }
        return {"text": self.word + " " + text, "facts": facts}
"""

# errno 30 is EROFS (a read-only root), 13 is EACCES (the weights belong to somebody else).
LOCKED_UP = {"uid": 65532, "interfaces": ["lo"], "code": 30, "weights": 13, "tmp": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Debian with Python, as an OCI layout; the demo's when it is there already."""
    cached = CACHE / "base"
    try:
        return demo_base.prepare(
            cached if (cached / "made-by.txt").is_file() else tmp_path_factory.mktemp("base") / "base"
        )[0]
    except demo_base.BaseUnavailableError as error:
        pytest.skip(f"no base image can be made here: {error}")


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """The command line of a podman with a storage of its own, for --engine."""
    needs("podman")
    needs("runc")
    short = Path(tempfile.mkdtemp(prefix="podman-"))  # podman wants a runroot of at most 50 characters
    try:
        podman = Podman(short)
        problem = podman.ready()
        if problem:
            pytest.skip(problem)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("CONTAINERS_CONF", podman.env["CONTAINERS_CONF"])
            yield shlex.join(podman.command)
            podman.clean()
    finally:
        shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def docker(dockerd: str) -> str:
    """The command line of a docker with a daemon of our own."""
    if shutil.which("docker") is None:
        pytest.skip("needs the docker command (apt-get install docker.io)")
    return shlex.join(["docker", "-H", dockerd])


class Person:
    """Somebody at a terminal with a folder and a local repository."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.home = folder / "home"
        self.project = folder / "greeter"
        (self.project / "weights").mkdir(parents=True)
        self.weight = self.project / "weights" / "word.txt"
        self.weight.write_text("salve\n")
        self.weight.chmod(0o644)
        (self.project / "serve.py").write_text(SERVE)
        self.base = base
        self.write("salve")

    def write(self, greeting: str) -> None:
        text = MANIFEST.format(
            base=self.base, ref=demo_base.REF_NAME, architecture=demo_base.architecture(), greeting=greeting
        )
        (self.project / "xumi.yaml").write_text(text)

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-c", "from berth.cli.main import xumi; xumi()", *map(str, arguments)]

    @property
    def env(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(ROOT / "src"), "XUMI_HOME": str(self.home)}
        return {k: v for k, v in os.environ.items() if not k.startswith("BERTH_")} | own

    def xumi(self, *arguments: str | Path, expect: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments), env=self.env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout if expect == 0 or done.stdout else done.stderr


@pytest.fixture
def person(tmp_path: Path, base: Path) -> Person:
    return Person(tmp_path, base)


def names(engine: str, *options: str) -> list[str]:
    said = subprocess.run(
        [*shlex.split(engine), "ps", *options, "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    )
    return said.stdout.split()


def test_a_bundled_image_answers_in_podman_without_a_network_and_without_its_folder(
    person: Person, engine: str
) -> None:
    person.xumi("build", person.project, "--bundle")
    shutil.rmtree(person.project)
    said = json.loads(person.xumi("test", "acme/greeter:1.0.0", "--engine", engine, "-o", "json"))
    assert (said["how"], [c["name"] for c in said["checks"] if c["kind"] == "sample"]) == ("container", ["greeting"])
    assert said["passed"]
    answer = json.loads(
        person.xumi("invoke", "acme/greeter", "--bundle", "--engine", engine, "-i", "text=you", "-o", "json")
    )
    assert answer["text"] == "salve you"
    assert answer["facts"] == LOCKED_UP
    assert names(engine, "--all") == []


def test_an_image_without_its_weights_exits_3_and_names_the_files(person: Person, engine: str) -> None:
    person.xumi("build", person.project)
    found = find_engine(engine)
    target = find("acme/greeter", person.home)
    image = found.load(LocalRepository(person.home), image_of(target)[0], name=target.version)
    command = found.run(Container("xumi-story-without-weights", image, target.manifest))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 3
    assert "Weights are missing:\n  /weights/words/word.txt  missing  (6 bytes, sha256:" in ended.stderr
    assert "Mount them at /weights/words" in ended.stderr


def test_a_version_runs_with_mounted_weights_until_it_is_stopped(person: Person, engine: str) -> None:
    person.xumi("build", person.project)
    process = subprocess.Popen(
        person.command("run", "acme/greeter:1.0.0", "--engine", engine, "--port", "0", "-o", "json"),
        env=person.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            text += line
        said = json.loads(text)
        assert said["how"] == "container"
        (running,) = names(engine)
        assert running.startswith("xumi-greeter-")
        answer = json.loads(person.xumi("invoke", "--url", said["url"], "-i", "text=you", "-o", "json"))
        assert answer["text"] == "salve you"
        assert answer["facts"] == LOCKED_UP
        refused = person.xumi("invoke", "--url", said["url"], "-i", "txt=you", expect=1)
        assert "did you mean text?" in refused
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    poll(lambda: names(engine, "--all") == [], what="the container is gone")


def image_id(person: Person, engine: str) -> str:
    found = find_engine(engine)
    target = find("acme/greeter", person.home)
    return found.load(LocalRepository(person.home), image_of(target)[0], name=target.version)


WITHOUT_PYTHON = """\
xumi: 1
name: acme/plain
version: 1.0.0
interface:
  inputs: [{{name: text, type: text}}]
  outputs: [{{name: text, type: text}}]
entry: {{command: [python3, /opt/model/serve.py]}}
runtime: {{base: "oci-layout:{base}:{ref}", python: null}}
hardware: {{architectures: [{architecture}]}}
"""


PLAIN_SERVER = """\
import functools, http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
pages = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/opt/model/www")
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), pages).serve_forever()
"""


def test_a_program_without_python_answers_in_a_container_without_a_network(
    person: Person, engine: str, tmp_path: Path
) -> None:
    """Any program that serves files does; with `runtime.python: null` the image gets no runtime of ours."""
    folder = tmp_path / "plain"
    pages = folder / "www"
    (pages / "healthz").mkdir(parents=True)
    for page in ("healthz/live", "healthz/ready"):
        (pages / page).write_text('{"status": "ok"}')
    (pages / "xumi").write_text(json.dumps({"name": "acme/plain"}))
    (folder / "serve.py").write_text(PLAIN_SERVER)
    (folder / "xumi.yaml").write_text(
        WITHOUT_PYTHON.format(base=person.base, ref=demo_base.REF_NAME, architecture=demo_base.architecture())
    )
    person.xumi("build", folder)
    said = json.loads(person.xumi("run", "acme/plain", "-d", "--engine", engine, "--port", "0", "-o", "json"))
    try:
        with urllib.request.urlopen(f"{said['url']}/xumi", timeout=30) as answer:
            assert json.loads(answer.read()) == {"name": "acme/plain"}
        inside = [*shlex.split(engine), "exec", said["name"], "python3", "-c", "print(open('/proc/net/dev').read())"]
        devices = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.strip().splitlines()[2:]
        assert [line.partition(":")[0].strip() for line in devices] == ["lo"]
    finally:
        person.xumi("stop", said["name"])
    assert names(engine, "--all") == []


def test_a_detached_container_answers_until_it_is_stopped_and_a_killed_supervisor_leaves_none(
    person: Person, engine: str
) -> None:
    person.xumi("build", person.project)
    start = ("run", "acme/greeter", "--detach", "--engine", engine, "--port", "0", "-o", "json")
    said = json.loads(person.xumi(*start))
    assert names(engine) == [said["name"]] == [said["container"]]
    answer = json.loads(person.xumi("invoke", "--url", said["url"], "-i", "text=you", "-o", "json"))
    assert answer["facts"] == LOCKED_UP
    assert said["name"] in person.xumi("ps")
    person.xumi("stop", said["name"])
    assert names(engine, "--all") == []
    image = image_id(person, engine)
    own = [*shlex.split(engine), "run", "-d", "--rm", "--name", "mine", "--entrypoint", "python3", image]
    own += ["-c", "import time; time.sleep(600)"]
    subprocess.run(own, capture_output=True, check=True)
    assert "named mine already" in person.xumi(*start, "--name", "mine", expect=1)
    assert names(engine) == ["mine"], "nobody else's container is touched"
    subprocess.run([*shlex.split(engine), "rm", "--force", "--time", "0", "mine"], capture_output=True, check=True)
    said = json.loads(person.xumi(*start))
    os.kill(said["pid"], signal.SIGKILL)
    poll(lambda: "ended" in person.xumi("ps"), what="its end is seen")
    person.xumi("stop", "--all")
    assert names(engine, "--all") == []


def test_other_weights_give_another_answer_and_a_changed_file_is_refused(person: Person, engine: str) -> None:
    person.weight.write_text("ave\n")
    person.write("ave")
    person.xumi("build", person.project)
    assert json.loads(person.xumi("test", "acme/greeter", "--engine", engine, "-o", "json"))["passed"]
    person.weight.write_text("another word\n")
    refused = person.xumi("run", "acme/greeter", "--engine", engine, expect=1)
    assert "has changed since it was built" in refused


def test_docker_loads_and_runs_the_same_image(person: Person, docker: str) -> None:
    person.xumi("build", person.project)
    said = json.loads(person.xumi("test", "acme/greeter", "--engine", docker, "-o", "json"))
    assert (said["how"], said["passed"]) == ("container", True)
    answer = json.loads(person.xumi("invoke", "acme/greeter", "--engine", docker, "-i", "text=you", "-o", "json"))
    assert answer == {"text": "salve you", "facts": LOCKED_UP}
    assert names(docker, "--all") == []


def test_a_sample_that_differs_in_the_container_exits_1(person: Person, engine: str) -> None:
    person.write("buongiorno")
    person.xumi("build", person.project)
    said = person.xumi("test", "acme/greeter", "--engine", engine, expect=1)
    assert 'text: is "salve world", expected "buongiorno world"' in said


def test_a_folder_is_tested_in_a_process(person: Person) -> None:
    said = json.loads(person.xumi("test", person.project, "-o", "json", expect=1))
    (sample,) = [c for c in said["checks"] if c["kind"] == "sample"]
    # Outside of a container the user and the network are this machine's; the answer itself is right.
    assert said["how"] == "process"
    assert not [p for p in sample["problems"] if p.startswith("text")]
    assert [p for p in sample["problems"] if p.startswith("facts")]


def magika(tmp_path: Path) -> demo_weights.Source:
    """The demo's network, out of a wheel."""
    try:
        return demo_weights.prepare(CACHE if (CACHE / "magika" / "package").is_dir() else tmp_path / "cache")
    except SystemExit as error:
        pytest.skip(f"no package index: {str(error)[:200]}")


def test_the_demo_model_passes_its_samples(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = magika(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "demo/model", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "weights").mkdir()
    for file in (source.network, source.config):
        shutil.copyfile(file, folder / "weights" / file.name)
    person = Person(tmp_path / "person", base)
    said = json.loads(person.xumi("test", folder, "-o", "json"))
    assert said["passed"], said
    assert [c["name"] for c in said["checks"] if c["kind"] == "sample"] == ["Python source text"]
    answer = json.loads(person.xumi("invoke", folder, "-i", f"content=@{ROOT}/demo/run.py", "-o", "json"))
    label, score = demo_weights.oracle(source, ROOT / "demo/run.py")
    assert answer["label"] == label
    assert answer["score"] == pytest.approx(score, abs=1e-4)
