"""How fast does a version move from one registry to another? Berth's sync beside `skopeo copy --all`, the same bytes.

Two of Debian's docker-registries on loopback and the same disk; an index of images with fresh random layers, BLOBS in
all, SIZE_MB together. Each copy has content of its own: skopeo remembers which blobs a registry has, and would mount
them. A second sync of the same content must move nothing, and how long it takes to find that out for TAGS tags is
measured too: between the two, where `skopeo sync` stands beside it, and by a rule of a running Berth. Both ways run on
uvloop, as the worker does. Processor seconds stand beside the time: they stay the same on a busy machine, and on a
small one they are the limit, since the target hashes whatever it gets.
Usage: python -m bench.sync --size-mb 1024 --blobs 200 --repeats 3
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from bench.peers import HOME, Peer, berth, docker_registry, listener
from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Registry, RegistrySettings
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.sync.copy import copy_version
from berth.sync.flow import Flow, Limits
from berth.sync.listing import Remembered, all_tags, compared
from berth.wire.parallel import each
from berth.wire.plan import Terms, plan
from demo.service import BIN

MIB = 1 << 20
IMAGES = 10
IN_STEP_REPEATS = 5
PROJECT = "bench"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1024, help="bytes of all layers together, in MiB")
    parser.add_argument("--blobs", type=int, default=200, help="how many layers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=Limits.blobs, help="blobs that Berth moves at once")
    parser.add_argument("--tags", type=int, default=1000, help="tags of the model that is found to be in step")
    parser.add_argument("--registry", default="docker-registry", help="the registry's program (default: Debian's)")
    options = parser.parse_args()
    with ExitStack() as running:
        peers = [
            running.enter_context(docker_registry(HOME / f"sync-{name}", program=options.registry))
            for name in ("source", "target")
        ]
        if peers[0] is None or peers[1] is None:
            raise SystemExit("docker-registry is not installed (apt-get install docker-registry)")
        urls = (peers[0].url, peers[1].url)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(urls, options))
        with berth() as service:
            through_the_service(service, urls[1], tags=options.tags)


async def measure(urls: tuple[str, str], options: argparse.Namespace) -> None:
    source, target = (opened(name, url) for name, url in zip(("source", "target"), urls, strict=True))
    print(
        f"\nsync of {options.size_mb} MiB in {options.blobs} blobs, {options.repeats} repeats, between two registries"
    )
    seconds: dict[str, list[float]] = {"berth": [], "skopeo": []}
    used: dict[str, list[tuple[float, float]]] = {"berth": [], "skopeo": []}
    pids = [listener(int(url.rpartition(":")[2])) for url in urls]
    try:
        for repeat in range(options.repeats):
            for tool in ("berth", "skopeo") if repeat % 2 == 0 else ("skopeo", "berth"):
                model = f"{tool}{repeat}"
                await make_version(source, model, size=options.size_mb * MIB, blobs=options.blobs)
                begun, before = time.perf_counter(), spent(pids)
                if tool == "berth":
                    moved = await sync(source, target, model, parallel=options.parallel)
                    seconds[tool].append(time.perf_counter() - begun)
                    used[tool].append(difference(before, spent(pids)))
                    again = await sync(source, target, model, parallel=options.parallel)
                    if moved < options.size_mb * MIB or again != 0:
                        raise SystemExit(f"{moved} bytes moved first and {again} after that")
                elif shutil.which("skopeo"):
                    await asyncio.to_thread(skopeo, urls, model)
                    seconds[tool].append(time.perf_counter() - begun)
                    used[tool].append(difference(before, spent(pids)))
        report(seconds, used, options)
        await in_step(source, target, pids, tags=options.tags)
        if shutil.which("skopeo"):
            await asyncio.to_thread(skopeo_in_step, urls, pids)
    finally:
        await source.close()
        await target.close()


def opened(name: str, url: str) -> Registry:
    return Registries().open(RegistrySettings(name, "distribution", url))


async def sync(source: Registry, target: Registry, model: str, *, parallel: int) -> int:
    """List, compare and copy, as a run of a rule does; the bytes that moved."""
    terms = Terms(PROJECT, model=model)
    ours, theirs = await compared(terms, source, target)
    flow = Flow(Limits(blobs=parallel))
    tags = await all_tags(source, f"{PROJECT}/{model}")
    moved = 0
    for item in plan(terms, ours, theirs, datetime.now(UTC)):
        if item.action == "copy":
            copied = await copy_version(
                source,
                target,
                item.source_repository,
                item.target_repository,
                item.digest or "",
                item.tag,
                flow=flow,
                known_tags=tags,
            )
            moved += copied.bytes_sent
    return moved


def skopeo(urls: tuple[str, str], model: str) -> None:
    first, second = (url.removeprefix("http://") for url in urls)
    command = ["skopeo", "copy", "--quiet", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"]
    places = [f"docker://{first}/{PROJECT}/{model}:1.0.0", f"docker://{second}/{PROJECT}/{model}:1.0.0"]
    run([*command, *places])


def run(command: list[str]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(f"skopeo failed:\n{ran.stderr}")


def spent(pids: list[int]) -> tuple[float, float]:
    """Processor seconds until now: of this process and the children it has waited for; of the registries."""
    own = sum(
        getattr(resource.getrusage(who), field)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for field in ("ru_utime", "ru_stime")
    )
    registries = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        registries += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own, registries


def difference(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
    return after[0] - before[0], after[1] - before[1]


def report(
    seconds: dict[str, list[float]], used: dict[str, list[tuple[float, float]]], options: argparse.Namespace
) -> None:
    medians = {tool: statistics.median(figures) for tool, figures in seconds.items() if figures}
    alone: dict[str, float] = {}
    everything: dict[str, float] = {}
    for tool, figures in seconds.items():
        if figures:
            rate = options.size_mb * MIB / medians[tool] / 1e6
            runs = ", ".join(f"{figure:.2f}" for figure in figures)
            alone[tool] = statistics.median(own for own, _ in used[tool])
            everything[tool] = statistics.median(own + registries for own, registries in used[tool])
            print(f"  {tool:8} {medians[tool]:7.2f} s  {rate:7.0f} MB/s   ({runs})")
            print(f"           {alone[tool]:7.2f} s of processor, {everything[tool]:.2f} with both registries")
    if len(medians) == 2:
        print(f"  berth is {medians['skopeo'] / medians['berth']:.2f} times as fast as skopeo copy --all")
        own, whole = alone["skopeo"] / alone["berth"], everything["skopeo"] / everything["berth"]
        print(f"  skopeo needs {own:.1f} times as much of the processor, {whole:.2f} times with the registries")
    print(f"  memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


async def in_step(source: Registry, target: Registry, pids: list[int], *, tags: int) -> None:
    """How long it takes to find out that nothing is to be done."""
    digest, body = await make_image(source, "steps", [100])
    await put(source, "steps", digest, types.OCI_MANIFEST, body)
    await copy_version(source, target, f"{PROJECT}/steps", f"{PROJECT}/steps", digest, None)
    for registry in (source, target):
        await asyncio.gather(*(put(registry, "steps", f"1.0.{n}", types.OCI_MANIFEST, body) for n in range(tags)))
    terms = Terms(PROJECT, model="steps")
    first, _ = await compared(terms, source, target)
    # A run knows what the last one found (sync/journal).
    remembered = Remembered({(listed.repository, listed.tag): listed.digest for listed in first})
    seconds, used = [], []
    for _ in range(IN_STEP_REPEATS):
        begun, before = time.perf_counter(), spent(pids)
        ours, theirs = await compared(terms, source, target, remembered=remembered)
        items = plan(terms, ours, theirs, datetime.now(UTC))
        seconds.append(time.perf_counter() - begun)
        used.append(difference(before, spent(pids)))
        if {item.code for item in items} != {"same"} or len(items) != tags:
            raise SystemExit("two registries with the same tags are not in step")
    own, registries = (statistics.median(figures) for figures in zip(*used, strict=True))
    runs = ", ".join(f"{figure:.2f}" for figure in seconds)
    print(f"  {tags} tags in step: 0 bytes in {statistics.median(seconds):.2f} s   ({runs})")
    print(f"           {own:7.2f} s of processor, the registries {registries:.2f}")


def skopeo_in_step(urls: tuple[str, str], pids: list[int]) -> None:
    """The same tags by `skopeo sync`, which copies what is there already to find that out."""
    first, second = (url.removeprefix("http://") for url in urls)
    command = ["skopeo", "sync", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"]
    begun, before = time.perf_counter(), spent(pids)
    run([*command, "--src", "docker", "--dest", "docker", f"{first}/{PROJECT}/steps", f"{second}/{PROJECT}"])
    took = time.perf_counter() - begun
    own, registries = difference(before, spent(pids))
    print(f"  skopeo sync of them: {took:.2f} s; {own:.2f} s of processor, the registries {registries:.2f}")


def through_the_service(service: Peer, target: str, *, tags: int) -> None:
    """The same as people do it: a rule from the depot to a registry is run again when nothing has changed."""
    environment = {**os.environ, "BERTH_URL": service.url, "BERTH_TOKEN": service.password or ""}

    def say(*arguments: str) -> dict[str, Any]:
        command = [str(BIN / "berth"), *arguments, "-o", "json"]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    async def fill() -> None:
        settings = RegistrySettings("depot", "berth", service.url, username=service.user, secret=service.password)
        depot = Registries().open(settings)
        try:
            digest, body = await make_image(depot, "depot-steps", [100])
            await put(depot, "depot-steps", digest, types.OCI_MANIFEST, body)
            names = [f"1.0.{number}" for number in range(tags)]
            await each(names, lambda name: put(depot, "depot-steps", name, types.OCI_MANIFEST, body))
        finally:
            await depot.close()

    asyncio.run(fill())
    say("registry", "add", "mirror", "--kind", "distribution", "--url", target, "--takes-open")
    say("sync", "rule", "add", "steps", "--source", "depot", "--target", "mirror", "--project", PROJECT)
    first = say("sync", "run", "steps", "--wait")
    begun = time.perf_counter()
    again = say("sync", "run", "steps", "--wait")
    took = time.perf_counter() - begun
    if first["bytes_transferred"] == 0 or again["bytes_transferred"] != 0:
        raise SystemExit(f"the runs moved {first['bytes_transferred']} and {again['bytes_transferred']} bytes")
    begun_at, ended_at = (datetime.fromisoformat(again[field]) for field in ("started_at", "finished_at"))
    own = (ended_at - begun_at).total_seconds()
    print(f"  {tags} tags in step, depot to registry: 0 bytes in {own:.2f} s, and {took:.2f} s with command and queue")


async def make_version(registry: Registry, model: str, *, size: int, blobs: int) -> None:
    children = []
    each = max(1, size // blobs)
    for number in range(IMAGES):
        share = blobs // IMAGES + (number < blobs % IMAGES)
        if share:
            digest, body = await make_image(registry, model, [each] * share, architecture=f"arch{number}")
            await put(registry, model, digest, types.OCI_MANIFEST, body)
            platform = {"os": "linux", "architecture": f"arch{number}"}
            children.append(Descriptor(types.OCI_MANIFEST, digest, len(body), platform=platform))
    await put(registry, model, "1.0.0", types.OCI_INDEX, manifests.index(children))


async def make_image(
    registry: Registry, model: str, sizes: list[int], *, architecture: str = "amd64"
) -> tuple[str, bytes]:
    """An image with random layers of these sizes; its digest and manifest."""
    named = []
    for size in sizes:
        # Stored, not compressed, in a gzip: random bytes gain nothing, and skopeo leaves gzip alone.
        layer = gzip.compress(os.urandom(size), compresslevel=0)
        named.append(Descriptor(LAYER, await push(registry, model, layer), len(layer)))
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [item.digest for item in named]},
        }
    ).encode()
    await push(registry, model, config)
    body = manifests.image(config=Descriptor(types.OCI_CONFIG, digests.of_bytes(config), len(config)), layers=named)
    return digests.of_bytes(body), body


async def push(registry: Registry, model: str, data: bytes) -> str:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), MIB):
            yield data[start : start + MIB]

    digest = digests.of_bytes(data)
    await registry.push_blob(f"{PROJECT}/{model}", digest, size=len(data), chunks=pieces())
    return digest


async def put(registry: Registry, model: str, reference: str, media_type: str, body: bytes) -> None:
    await registry.push_manifest(f"{PROJECT}/{model}", reference, media_type=media_type, body=body)


if __name__ == "__main__":
    HOME.mkdir(exist_ok=True)
    main()
