"""Starting models: in processes of this machine, and what an engine is asked for; real engines are in stories."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import socket
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from berth.authoring import containers, running_relay, running_targets
from berth.authoring.build import build
from berth.authoring.containers import Container, Engine, Limits, Mount, find_engine, limits_of, write_docker_archive
from berth.authoring.manifest import Manifest, parse
from berth.authoring.repository import LocalRepository
from berth.authoring.running import Options, relayed, started
from berth.authoring.running_targets import find
from berth.authoring.running_watch import Running
from berth.authoring.unpack import unpack
from berth.errors import BlobUnknown, IntegrityError, InvalidInput, ManifestFileInvalid, ManifestUnknown, Unavailable
from berth.oci import digest as digests
from berth.oci import manifest as manifests

Make = Callable[..., Path]
SERVE = """\
import os, sys
from xumi import Model


class Echo(Model):
    def setup(self):
        self.data = (self.weights["main"] / "a.bin").read_bytes()

    def predict(self, text):
        if text == "environment":
            return ",".join(sorted(k for k in os.environ if k.startswith(("BERTH", "OWN", "XUMI"))))
        if text == "modules":
            return ",".join(sorted({name.partition(".")[0] for name in sys.modules} & {"berth", "pydantic", "typer"}))
        return f"{len(self.data)} {text}"
"""


@pytest.fixture
def project(make_project: Make) -> Path:
    root = make_project()
    (root / "serve.py").write_text(SERVE)
    text = (root / "xumi.yaml").read_text().replace("max_length: 20", "max_length: 2000")
    (root / "xumi.yaml").write_text(text.replace("runtime:\n", "runtime:\n  environment: {OWN_WORD: x}\n"))
    return root


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def say(running: Running, text: str) -> str:
    (out,) = running.wait_ready(30).invoke({"text": text})
    return str(out["text"])


# --- targets -----------------------------------------------------------------------------------------------------


def test_a_folder_a_version_and_a_pulled_folder_are_told_apart(project: Path, home: Path, tmp_path: Path) -> None:
    assert find(str(project), home).kind == "folder"
    assert find(str(project / "xumi.yaml"), home).folder == project
    assert not home.exists(), "looking at a folder makes no local repository"
    repository = LocalRepository(home)
    built = build(project, repository)
    assert find("acme/echo", home).kind == "version"
    assert find(f"acme/echo:1.2.3@{built.digest}".partition("@")[0], home).descriptor is not None
    unpack(built.digest, tmp_path / "pulled", repository)
    pulled = find(str(tmp_path / "pulled"), home)
    assert (pulled.kind, pulled.trusted) == ("pulled", False)
    assert running_targets.built(pulled) is not None
    text = (tmp_path / "pulled" / "xumi.yaml").read_text()
    (tmp_path / "pulled" / "xumi.yaml").write_text(text.replace("title: Echo", "title: Another"))
    assert running_targets.built(find(str(tmp_path / "pulled"), home)) is None
    # Neither files beside it nor missing weights make somebody else's code one's own.
    (tmp_path / "pulled" / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "pulled" / "weights")
    assert find(str(tmp_path / "pulled"), home).kind == "pulled"
    with pytest.raises(ManifestUnknown):
        find("acme/none", home)
    for nowhere in ("./none", "/none", "none"):
        with pytest.raises(ManifestFileInvalid, match="There is no folder"):
            find(nowhere, home)


def test_a_version_mounts_its_weights_from_where_they_lie(project: Path, home: Path) -> None:
    build(project, LocalRepository(home))
    mounts = running_targets.weight_mounts(find("acme/echo", home))
    assert [(m.source, m.target, m.writable) for m in mounts] == [
        (project / "weights/a.bin", "/weights/main/a.bin", False),
        (project / "weights/deep/er/b.dat", "/weights/main/deep/er/b.dat", False),
    ]
    (project / "weights/a.bin").chmod(0o600)
    with pytest.raises(InvalidInput) as caught:
        running_targets.weight_mounts(find("acme/echo", home))
    assert caught.value.hint == f"chmod o+r {project / 'weights/a.bin'}"
    (project / "weights/a.bin").unlink()
    with pytest.raises((BlobUnknown, IntegrityError)):
        running_targets.weight_mounts(find("acme/echo", home))


def test_the_image_for_this_machine_is_chosen(project: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_targets.platform, "machine", lambda: "x86_64")
    from berth.authoring.options import Options as BuildOptions

    build(project, LocalRepository(home), options=BuildOptions(bundle=True))
    target = find("acme/echo", home)
    plain, bundled = running_targets.image_of(target), running_targets.image_of(target, bundle=True)
    assert (plain[1], bundled[1]) == (False, True)
    assert plain[0].digest != bundled[0].digest
    monkeypatch.setattr(running_targets.platform, "machine", lambda: "aarch64")
    with pytest.raises(InvalidInput, match=r"no image for arm64; it has: amd64\."):
        running_targets.image_of(target)


# --- processes ---------------------------------------------------------------------------------------------------


def test_a_folder_runs_in_a_process_that_sees_nothing_of_ours(
    project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTH_TOKEN", "secret")
    monkeypatch.setenv("XUMI_WEIGHTS_TOKEN", "secret")
    lines: list[str] = []
    with started(find(str(project), home), Options(), tell=lines.append) as running:
        assert say(running, "hi") == "1000 hi"
        assert say(running, "modules") == ""
        assert say(running, "environment") == ("OWN_WORD,XUMI_CODE,XUMI_HOST,XUMI_MANIFEST,XUMI_PORT,XUMI_WEIGHTS_DIR")
        assert (running.peak_memory() or 0) > 1_000_000
    assert running.exit_code == 0
    assert "xumi: ready" in lines
    assert "serve" not in sys.modules
    assert not list(project.rglob("__pycache__"))


def test_code_of_others_runs_in_a_process_only_when_it_is_trusted(project: Path, home: Path, tmp_path: Path) -> None:
    repository = LocalRepository(home)
    built = build(project, repository)
    unpack(built.digest, tmp_path / "pulled", repository)
    for name in ("acme/echo:1.2.3", str(tmp_path / "pulled")):
        with started(find(name, home), Options(trust_code=True)) as running:
            assert (running.how, say(running, "hi")) == ("process", "1000 hi")


def test_a_process_can_be_started_with_another_python(project: Path, home: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "mypython"
    chosen.symlink_to(sys.executable)
    with started(find(str(project), home), Options(python=str(chosen))) as running:
        assert say(running, "a") == "1000 a"
    with (
        pytest.raises(Unavailable, match="There is no Python python-none"),
        started(find(str(project), home), Options(python="python-none")),
    ):
        pass


def test_a_model_that_does_not_start_says_why(project: Path, home: Path) -> None:
    (project / "serve.py").write_text(
        "from xumi import Model\n\n\nclass Echo(Model):\n    def setup(self):\n        1 / 0\n"
    )
    with started(find(str(project), home), Options()) as running, pytest.raises(Unavailable) as caught:
        running.wait_ready(30)
    assert "exit code 4: setup() failed" in caught.value.message
    assert "ZeroDivisionError" in caught.value.message
    assert caught.value.detail["exit_code"] == 4


def test_a_folder_whose_packages_are_not_here_names_the_ways_out(project: Path, home: Path) -> None:
    (project / "serve.py").write_text("import no_such_package_here\n" + SERVE)
    with started(find(str(project), home), Options()) as running, pytest.raises(Unavailable) as caught:
        running.wait_ready(30)
    assert "No module named 'no_such_package_here'" in caught.value.message
    assert "--python" in str(caught.value.hint)
    assert "`xumi build`" in str(caught.value.hint)


def test_missing_weights_are_named_before_anything_starts(project: Path, home: Path) -> None:
    shutil.rmtree(project / "weights" / "deep")
    with pytest.raises(ManifestFileInvalid, match="no file matches"), started(find(str(project), home), Options()):
        pass


def test_a_taken_port_is_refused(project: Path, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InvalidInput, match=f"Cannot listen on 127.0.0.1:{port}"),
            started(find(str(project), home), Options(port=port)),
        ):
            pass


def test_a_program_that_serves_itself_is_started_on_its_port(tmp_path: Path, home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "p").mkdir()
    (tmp_path / "p/prog.py").write_text(
        "import sys\nfrom http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class H(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n        self.send_response(200)\n        self.end_headers()\n"
        f"HTTPServer(('127.0.0.1', {port}), H).serve_forever()\n"
    )
    (tmp_path / "p/xumi.yaml").write_text(
        "xumi: 1\nname: acme/own\nversion: 1.0.0\n"
        f"entry: {{command: [{sys.executable}, prog.py]}}\nruntime: {{base: 'oci-layout:x', port: {port}}}\n"
    )
    target = find(str(tmp_path / "p"), home)
    with started(target, Options()) as running:
        running.wait_ready(30)
        assert running.address == f"http://127.0.0.1:{port}"
    with pytest.raises(InvalidInput, match=f"listens on port {port} only"), started(target, Options(port=port + 1)):
        pass


def test_a_socket_gets_an_address_and_any_other_address_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with relayed(f"unix:{path}", "127.0.0.1", 0) as url:
            port = int(url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                inside, _ = listener.accept()
                with inside:
                    client.sendall(b"to")
                    assert inside.recv(10) == b"to"
                    inside.sendall(b"back")
                    assert client.recv(10) == b"back"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    with relayed("http://127.0.0.1:1", "127.0.0.1", 0) as url:
        assert url == "http://127.0.0.1:1"


# --- containers --------------------------------------------------------------------------------------------------


def manifest_with(runtime: str = "", hardware: str = "") -> Manifest:
    return parse(
        "xumi: 1\nname: acme/own\nversion: 1.0.0\nentry: {command: [x]}\n"
        f"runtime: {{base: 'oci-layout:x'{runtime}}}\n{hardware}"
    ).manifest


def option(command: list[str], name: str) -> list[str]:
    return [following for word, following in itertools.pairwise(command) if word == name]


def test_a_container_has_the_manifests_limits_and_no_more_than_it_needs() -> None:
    manifest = manifest_with(
        ", user: 1234, shm: 64MiB", "hardware: {minimum: {memory: 1GiB, cpu: 1}, recommended: {memory: 2GiB}}\n"
    )
    limits = limits_of(manifest)
    assert limits == Limits(memory=2 * 1024**3, cpus=1.0)
    command = Engine("podman", ("podman", "--root", "x")).run(
        Container("n", "image", manifest, (Mount(Path("/a"), "/b"), Mount(Path("/s"), "/t", writable=True)), limits)
    )
    assert command[:4] == ["podman", "--root", "x", "run"]
    assert command[-1] == "image"
    for name, value in {
        "--user": "1234:1234",
        "--cap-drop": "ALL",
        "--network": "none",
        "--memory": "2147483648",
        "--cpus": "1",
        "--pids-limit": "1024",
        "--shm-size": "67108864",
        "--env": "XUMI_SOCKET=/run/xumi/model.sock",
        "--pull": "never",
    }.items():
        assert option(command, name) == [value]
    assert "no-new-privileges" in option(command, "--security-opt")
    assert "--read-only" in command
    assert option(command, "--mount") == ["type=bind,source=/a,target=/b,readonly", "type=bind,source=/s,target=/t"]


def test_what_the_manifest_declares_is_given() -> None:
    manifest = manifest_with(", egress: true, writable: true")
    command = Engine("docker", ("docker",)).run(
        Container("n", "image", manifest, network=True, publish=("127.0.0.1", 9000), socket=False)
    )
    assert option(command, "--publish") == ["127.0.0.1:9000:8080"]
    assert not {"--network", "--read-only", "--env", "--memory"} & set(command)


@pytest.mark.parametrize(
    ("kind", "vendor", "expected"),
    [
        ("podman", "nvidia", ["--device", "nvidia.com/gpu=all"]),
        ("docker", "nvidia", ["--gpus", "2"]),
        ("docker", "amd", ["--device", "/dev/kfd", "--device", "/dev/dri"]),
        ("podman", "intel", ["--device", "/dev/dri"]),
    ],
)
def test_accelerators_are_handed_in(kind: Any, vendor: str, expected: list[str]) -> None:
    manifest = manifest_with("", f"hardware: {{minimum: {{gpu: {{vendor: {vendor}, count: 2}}}}}}\n")
    command = Engine(kind, (kind,)).run(Container("n", "image", manifest))
    assert command[-1 - len(expected) : -1] == expected


def test_limits_may_be_given_and_never_exceed_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers.os, "cpu_count", lambda: 2)
    manifest = manifest_with("", "hardware: {minimum: {cpu: 64}}\n")
    assert limits_of(manifest).cpus == 2.0
    assert limits_of(manifest, memory=5, cpus=0.5) == Limits(memory=5, cpus=0.5)
    assert limits_of(manifest, cpus=0) == Limits()
    assert limits_of(manifest_with()) == Limits()


def test_a_path_that_an_engine_would_misread_is_refused() -> None:
    with pytest.raises(InvalidInput, match="comma"):
        Mount(Path("/a,target=/etc"), "/b").option()


def test_without_an_engine_the_next_step_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable) as caught:
        find_engine()
    assert caught.value.message == (
        "No container engine is usable here: podman is not installed; docker is not installed."
    )
    assert caught.value.hint is not None
    assert "--trust-code" in caught.value.hint
    with pytest.raises(Unavailable, match="There is no program podman"):
        find_engine("podman --root x")
    with pytest.raises(InvalidInput, match="is no container engine"):
        find_engine("lxc")
    broken = tmp_path / "docker"
    broken.write_text("#!/bin/sh\necho first >&2; echo cannot connect >&2; exit 1\n")
    broken.chmod(0o755)
    with pytest.raises(Unavailable, match="docker does not work here: cannot connect"):
        find_engine()


def test_a_pulled_folder_without_its_image_names_the_ways_out(project: Path, home: Path, tmp_path: Path) -> None:
    repository = LocalRepository(home)
    built = build(project, repository)
    unpack(built.digest, tmp_path / "pulled", repository)
    (tmp_path / "podman").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "podman").chmod(0o755)
    target = find(str(tmp_path / "pulled"), tmp_path / "another-home")
    with (
        pytest.raises(Unavailable, match="not in the local repository") as caught,
        started(target, Options(engine=str(tmp_path / "podman"))),
    ):
        pass
    assert "--image HOST/acme/echo:1.2.3" in (caught.value.hint or "")


def test_an_image_without_python_is_entered_by_root_and_by_the_owner_of_podman_containers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    podman, docker = Engine("podman", ("podman", "--root", "x")), Engine("docker", ("docker",))
    monkeypatch.setattr(running_relay.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(running_relay.os, "geteuid", lambda: 0)
    assert running_relay.entering_command(docker, "acme/own") == ["/usr/bin/nsenter"]
    monkeypatch.setattr(running_relay.os, "geteuid", lambda: 1000)
    unshared = ["podman", "--root", "x", "unshare", "/usr/bin/nsenter"]
    assert running_relay.entering_command(podman, "acme/own") == unshared
    with pytest.raises(InvalidInput, match="only root can enter a container of docker") as caught:
        running_relay.entering_command(docker, "acme/own")
    assert "--network" in (caught.value.hint or "")
    monkeypatch.setattr(running_relay.shutil, "which", lambda name: None)
    with pytest.raises(InvalidInput, match="nsenter .* is not here"):
        running_relay.entering_command(podman, "acme/own")


def test_the_tar_for_docker_holds_config_and_layers_as_they_are(project: Path, home: Path) -> None:
    repository = LocalRepository(home)
    build(project, repository)
    descriptor, _ = running_targets.image_of(find("acme/echo", home))
    manifest = manifests.parse(repository.manifest(descriptor.digest))
    out = io.BytesIO()
    write_docker_archive(out, repository.layout, manifest, tag="xumi.local/acme/echo:1.2.3")
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    (listed,) = json.loads(files["manifest.json"])
    assert listed["RepoTags"] == ["xumi.local/acme/echo:1.2.3"]
    assert manifest.config is not None
    assert digests.of_bytes(files[listed["Config"]]) == manifest.config.digest
    assert [digests.of_bytes(files[name]) for name in listed["Layers"]] == [x.digest for x in manifest.layers]
