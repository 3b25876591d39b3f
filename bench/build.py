"""How long does `xumi build` take beside what people do today, and how much is sent again after a change?

The scikit-learn example is built from nothing (no caches, wheels and base on this disk) three ways: `xumi build`; `pip
install` of the same requirements into a folder, which is the least that anyone has to wait for; `buildah bud` of a
Dockerfile that does the same. Then one line of code changes: the time of the next build, and the bytes that reach the
peer's socket when it is pushed. All three run in turns; the middle of the repeats counts.
Usage: python -m bench.build [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.peers import HOME, PROJECT, berth
from demo.base import REF_NAME, BaseUnavailableError, prepare
from demo.service import BIN

WORK = HOME / "build"
BASE = HOME / "base"
REQUIREMENTS = "scikit-learn==1.5.2\n"
PYTHON = "3.11"
MANIFEST = f"""\
xumi: 1
name: {PROJECT}/iris
version: {{version}}
interface:
  inputs: [{{{{name: x, type: number}}}}]
  outputs: [{{{{name: y, type: number}}}}]
entry: {{{{python: "serve:Iris"}}}}
runtime:
  base: oci-layout:{BASE}:{REF_NAME}
  python: "{PYTHON}"
  requirements: requirements.txt
"""
SERVE = """\
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from xumi import Model


class Iris(Model):
    def setup(self):
        self.model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))

    def predict(self, x):
        return {"y": float(self.model.predict([[x, x, x, x]])[0])}
"""
DOCKERFILE = """\
FROM localhost/bench-base
COPY requirements.txt /tmp/requirements.txt
RUN PIP_FIND_LINKS=/wheels PYTHONPATH=/pip python3 -m pip install --no-cache-dir --no-index \
    --target /opt/site-packages -r /tmp/requirements.txt
COPY serve.py /opt/model/serve.py
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    try:
        _, how = prepare(BASE)
    except BaseUnavailableError as error:
        sys.exit(f"no base image can be made here: {error}")
    shutil.rmtree(WORK, ignore_errors=True)
    project = WORK / "project"
    project.mkdir(parents=True)
    (project / "requirements.txt").write_text(REQUIREMENTS)
    (project / "serve.py").write_text(SERVE)
    (project / "xumi.yaml").write_text(MANIFEST.format(version="1.0.0"))
    try:
        wheels = download(project)
        print(
            f"\nscikit-learn example, {size_of(wheels) / 1e6:.0f} MB of wheels, base by {how}, "
            f"{options.repeats} repeats, load {os.getloadavg()[0]:.1f}"
        )
        cold(project, wheels, options.repeats)
        edits(project, wheels)
    finally:
        shutil.rmtree(WORK, ignore_errors=True)


def cold(project: Path, wheels: Path, repeats: int) -> None:
    """Prints the times from nothing, and their ratios."""
    ways: dict[str, Callable[[], None]] = {
        "xumi build": lambda: xumi_build(project, wheels, fresh("home")),
        "pip install": lambda: pip_install(project, wheels),
    }
    if reason := no_buildah():
        print(f"  buildah bud is left out: {reason}")
    else:
        ways["buildah bud"] = lambda: buildah(project, wheels)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.monotonic()
            way()
            times[name].append(time.monotonic() - started)
    middle = {name: statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        ratio = "" if name == "xumi build" else f"   xumi build takes {middle['xumi build'] / middle[name]:.2f} of it"
        print(f"  cold, {name:<12} {middle[name]:7.2f} s  ({', '.join(f'{t:.2f}' for t in found)}){ratio}")


def edits(project: Path, wheels: Path) -> None:
    """Prints how long a build after a change of code takes, and what of it is sent."""
    home = fresh("home")
    environment = environment_for(wheels, home)
    subprocess.run(
        [BIN / "xumi", "lock", project],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    xumi_build(project, wheels, home)
    with berth() as peer, counted(peer.port) as (port, received):
        login = {"BERTH_URL": f"http://127.0.0.1:{port}", "BERTH_TOKEN": peer.password or ""}
        first = push(environment | login, f"{PROJECT}/iris:1.0.0", received)
        (project / "serve.py").write_text(SERVE + "# changed\n")
        (project / "xumi.yaml").write_text(MANIFEST.format(version="1.0.1"))
        started = time.monotonic()
        xumi_build(project, wheels, home, "--locked")
        seconds = time.monotonic() - started
        again = push(environment | login, f"{PROJECT}/iris:1.0.1", received)
    print(f"  after a change of code: build {seconds:.2f} s (whole command, Python's start included)")
    print(f"  bytes at the peer's socket: first push {first:,}, after the change {again:,}")


def xumi_build(project: Path, wheels: Path, home: Path, *arguments: str) -> None:
    command = [str(BIN / "xumi"), "build", str(project), *arguments, "-o", "json"]
    subprocess.run(
        command, env=environment_for(wheels, home), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def pip_install(project: Path, wheels: Path) -> None:
    target = fresh("site-packages")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-cache-dir",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run(
        [*command, "--find-links", str(wheels), "-r", str(project / "requirements.txt")],
        check=True,
        stderr=subprocess.DEVNULL,
    )


def buildah(project: Path, wheels: Path) -> None:
    """Without layers of earlier builds, and with an own storage folder, so that nothing is there before."""
    storage = fresh("storage")
    pip = Path(
        subprocess.run(
            [sys.executable, "-c", "import pip; print(pip.__path__[0])"], check=True, capture_output=True, text=True
        ).stdout.strip()
    ).parent
    (project / "Dockerfile").write_text(DOCKERFILE)
    tool = ["buildah", "--root", str(storage / "root"), "--runroot", str(storage / "run")]
    mounts = ["-v", f"{wheels}:/wheels:ro", "-v", f"{pip}:/pip:ro"]
    bud = ["bud", "--quiet", "--isolation", "chroot", "--network", "host", *mounts, "-t", "localhost/iris"]

    def run(*arguments: str) -> str:
        # buildah names what it pulls after the path, and takes no path with a dot: so a relative one.
        done = subprocess.run([*tool, *arguments], cwd=BASE.parent, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"buildah failed: {done.stderr[-2000:]}")
        return done.stdout.strip()

    try:
        run("tag", run("pull", "--quiet", f"oci:{BASE.name}:{REF_NAME}"), "localhost/bench-base")
        run(*bud, str(project))
        # What `xumi build` has done too by now: the layers are compressed and in an OCI layout.
        run("push", "--quiet", "localhost/iris", f"oci:{storage}/out:iris")
    finally:
        (project / "Dockerfile").unlink()
        subprocess.run([*tool, "rmi", "-a", "-f"], check=False, capture_output=True)
        shutil.rmtree(storage, ignore_errors=True)


def no_buildah() -> str | None:
    if shutil.which("buildah") is None:
        return "it is not installed"
    done = subprocess.run(["buildah", "info"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()[-200:]


def download(project: Path) -> Path:
    """The wheels of the example, from the machine's package index, in a folder."""
    wheels = WORK / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "-d", str(wheels)]
    subprocess.run([*command, "-r", str(project / "requirements.txt")], check=True)
    return wheels


def environment_for(wheels: Path, home: Path) -> dict[str, str]:
    """No index and no cache but what is on this disk."""
    own = {"XUMI_HOME": str(home), "UV_CACHE_DIR": str(home / "uv"), "UV_FIND_LINKS": str(wheels), "UV_OFFLINE": "1"}
    return {**os.environ, **own, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}


def fresh(name: str) -> Path:
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def push(environment: dict[str, str], reference: str, received: list[int]) -> int:
    """Pushes a version; returns the bytes that reached the peer meanwhile."""
    before = received[0]
    subprocess.run(
        [BIN / "xumi", "push", reference],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return received[0] - before


@contextmanager
def counted(port: int) -> Iterator[tuple[int, list[int]]]:
    """A port of loopback that passes everything on to `port`, and counts what goes there."""
    received = [0]
    guard = threading.Lock()

    def copy(source: socket.socket, target: socket.socket, *, count: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                if count:
                    with guard:
                        received[0] += len(piece)
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for ends in ((client, server, True), (server, client, False)):
                    threading.Thread(target=copy, args=ends[:2], kwargs={"count": ends[2]}, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], received


if __name__ == "__main__":
    main()
