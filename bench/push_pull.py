"""How long does a whole version take to Berth and back? xumi beside stock clients, the same kind of content, same run.

Each tool in each repeat moves a version with fresh random weights: one image of a few kilobytes and a checkpoint of
SIZE_MB. skopeo (and oras, if it is on PATH) copy the index with all children to and from an OCI layout; skopeo without
--preserve-digests, which Debian's 1.9 refuses for an index. It moves the weights unchanged either way.
Usage: make bench SIZE_MB=1024 REPEATS=3
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway import make_blob
from bench.peers import HOME, PROJECT, Peer, berth
from demo.base import write_layout
from demo.service import BIN

MIB = 1 << 20
WORK = HOME / "push-pull"
MANIFEST = """
xumi: 1
name: {project}/{tool}
version: {version}
entry: {{command: [/bin/true]}}
runtime: {{base: "oci-layout:../base", python: null}}
checkpoints: [{{name: main, root: weights}}]
"""


@dataclass
class Times:
    """Megabytes per second of each repeat."""

    push: list[float] = field(default_factory=list)
    pull: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Version:
    """One version in the local repository, complete as an OCI layout too."""

    home: Path
    repository: str
    version: str
    size: int

    @property
    def layout(self) -> str:
        return f"{self.home / 'oci'}:{self.repository}:{self.version}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1024, help="size of the weights in MiB")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    tools = ["xumi", *(tool for tool in ("skopeo", "oras") if shutil.which(tool))]
    times = {tool: Times() for tool in tools}
    print(f"\nwhole versions, {options.size_mb} MiB of weights, {options.repeats} repeats: {', '.join(tools)}")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    try:
        make_base(WORK / "base")
        with berth() as peer:
            for repeat in range(options.repeats):
                for tool in tools if repeat % 2 == 0 else reversed(tools):
                    version = make_version(tool, f"1.0.{repeat}", size=options.size_mb * MIB)
                    times[tool].push.append(timed(version, push_command(tool, version, peer), peer))
                    times[tool].pull.append(timed(version, pull_command(tool, version, peer), peer))
                    check(tool, version)
                    shutil.rmtree(version.home)
                    shutil.rmtree(WORK / "out")
                line = "   ".join(f"{t} push {times[t].push[-1]:.0f} pull {times[t].pull[-1]:.0f}" for t in tools)
                print(f"  repeat {repeat + 1}: {line} MB/s", flush=True)
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    print(f"\n{'median MB/s':16}{'push':>10}{'pull':>10}")
    for tool, figures in times.items():
        print(f"{tool:16}{statistics.median(figures.push):>10.0f}{statistics.median(figures.pull):>10.0f}")


def make_base(folder: Path) -> None:
    """The smallest base there is: one empty file."""
    tar = WORK / "base.tar"
    with tarfile.open(tar, "w") as out:
        out.addfile(tarfile.TarInfo("empty"))
    write_layout(tar, folder)


def make_version(tool: str, number: str, *, size: int) -> Version:
    """Fresh weights, built into a local repository of its own; weights are linked into its layout for stock clients."""
    folder, home = WORK / "model", WORK / "home"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "weights").mkdir(parents=True)
    (folder / "xumi.yaml").write_text(
        MANIFEST.format(project=PROJECT, tool=tool, version=number).lstrip(), encoding="utf-8"
    )
    digest = make_blob(folder / "weights/data.bin", size)
    subprocess.run(
        [BIN / "xumi", "build", folder], env={**os.environ, "XUMI_HOME": str(home)}, check=True, capture_output=True
    )
    blob = home / "oci/blobs/sha256" / digest.partition(":")[2]
    if not blob.exists():
        os.link(folder / "weights/data.bin", blob)
    return Version(home, f"{PROJECT}/{tool}", number, size)


def push_command(tool: str, version: Version, peer: Peer) -> list[str]:
    target = f"{peer.url.removeprefix('http://')}/{version.repository}:{version.version}"
    if tool == "xumi":
        return [str(BIN / "xumi"), "push", f"{version.repository}:{version.version}"]
    if tool == "skopeo":
        return [
            "skopeo",
            "copy",
            "--quiet",
            "--all",
            "--dest-tls-verify=false",
            "--dest-creds",
            f"{peer.user}:{peer.password}",
            f"oci:{version.layout}",
            f"docker://{target}",
        ]
    return [
        "oras",
        "cp",
        "--from-oci-layout",
        "--to-plain-http",
        "--to-username",
        str(peer.user),
        "--to-password",
        str(peer.password),
        version.layout,
        target,
    ]


def pull_command(tool: str, version: Version, peer: Peer) -> list[str]:
    source = f"{peer.url.removeprefix('http://')}/{version.repository}:{version.version}"
    out = WORK / "out"
    if tool == "xumi":
        return [str(BIN / "xumi"), "pull", f"{version.repository}:{version.version}", "-o", str(out)]
    if tool == "skopeo":
        return [
            "skopeo",
            "copy",
            "--quiet",
            "--all",
            "--src-tls-verify=false",
            "--src-creds",
            f"{peer.user}:{peer.password}",
            f"docker://{source}",
            f"oci:{out}:pulled",
        ]
    return [
        "oras",
        "cp",
        "--to-oci-layout",
        "--from-plain-http",
        "--from-username",
        str(peer.user),
        "--from-password",
        str(peer.password),
        source,
        f"{out}:pulled",
    ]


def timed(version: Version, command: Sequence[str], peer: Peer) -> float:
    """Run it; megabytes of weights per second. Ends the bench when it fails."""
    # A pull must not find what the push left on this machine.
    home = version.home if "push" in command else WORK / "elsewhere"
    shutil.rmtree(WORK / "elsewhere", ignore_errors=True)
    env = {**os.environ, "BERTH_URL": peer.url, "BERTH_TOKEN": str(peer.password), "XUMI_HOME": str(home)}
    begun = time.perf_counter()
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{ran.stdout}{ran.stderr}")
    return version.size / seconds / 1e6


def check(tool: str, version: Version) -> None:
    """The pulled weights must be the pushed ones, whatever form the tool gives them."""
    wanted = (WORK / "model/weights/data.bin").stat().st_size
    candidates = [path for path in (WORK / "out").rglob("*") if path.is_file() and path.stat().st_size == wanted]
    with (WORK / "model/weights/data.bin").open("rb") as original:
        digest = hashlib.file_digest(original, "sha256").hexdigest()
    for path in candidates:
        with path.open("rb") as copy:
            if hashlib.file_digest(copy, "sha256").hexdigest() == digest:
                return
    raise SystemExit(f"{tool}: the weights of {json.dumps(version.version)} did not come back")


if __name__ == "__main__":
    main()
