"""How fast is the gateway, and how much memory does it take? Beside Debian's docker-registry, same disk, same run.

Prints medians of alternating repeats: PUT and GET of one incompressible blob; resident memory with eight transfers
at once; p99 of a small GET beside four big transfers. Berth hashes and fsyncs before it answers; docker-registry
hashes and does not fsync.
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
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import HOME, Peer, berth, docker_registry, listener, resident

MIB = 1 << 20


@dataclass
class Figures:
    """What was measured of one peer."""

    put: list[float] = field(default_factory=list)
    get: list[float] = field(default_factory=list)
    idle: int = 0
    peak: int = 0
    small: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1024, help="size of the blob in MiB")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    HOME.mkdir(exist_ok=True)
    with ExitStack() as stack:
        peers = [peer for peer in (stack.enter_context(berth()), stack.enter_context(docker_registry())) if peer]
        figures = {peer.name: Figures() for peer in peers}
        print(f"{options.size_mb} MiB, {options.repeats} repeats, {os.cpu_count()} cores, peers: {', '.join(figures)}")
        if os.getloadavg()[0] > 1:
            print(f"  this machine is busy (load {os.getloadavg()[0]:.1f}); the figures will be lower than it can do")
        throughput(peers, figures, size=options.size_mb * MIB, repeats=options.repeats)
        for peer in peers:
            together(peer, figures[peer.name], size=max(options.size_mb // 4, 1) * MIB)
            beside(peer, figures[peer.name], size=options.size_mb * MIB)
    show(figures, size=options.size_mb * MIB)


def throughput(peers: Sequence[Peer], figures: dict[str, Figures], *, size: int, repeats: int) -> None:
    """One transfer at a time, the peers in turn, each repeat with bytes nobody has seen."""
    for repeat in range(repeats):
        order = peers if repeat % 2 == 0 else list(reversed(peers))
        file = HOME / "blob"
        digest = make_blob(file, size)
        for peer in order:
            seconds = finish(start(peer, "put", digest, file))
            figures[peer.name].put.append(size / seconds / 1e6)
        for peer in order:
            seconds = finish(start(peer, "get", digest))
            figures[peer.name].get.append(size / seconds / 1e6)
        file.unlink()
        line = "   ".join(
            f"{p.name} PUT {figures[p.name].put[-1]:.0f} GET {figures[p.name].get[-1]:.0f}" for p in order
        )
        print(f"  repeat {repeat + 1}: {line} MB/s", flush=True)


def together(peer: Peer, figures: Figures, *, size: int) -> None:
    """Four uploads and four downloads at once: the highest resident memory of the process that serves."""
    files = [HOME / f"blob-{number}" for number in range(4)]
    digests = [make_blob(file, size) for file in files]
    known = make_blob(HOME / "known", size)
    finish(start(peer, "put", known, HOME / "known"))
    server = listener(peer.port)
    figures.idle = resident(server)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            figures.peak = max(figures.peak, resident(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    running = [start(peer, "put", digest, file) for digest, file in zip(digests, files, strict=True)]
    running += [start(peer, "get", known) for _ in range(4)]
    for transfer in running:
        finish(transfer)
    done.set()
    watcher.join()
    for file in (*files, HOME / "known"):
        file.unlink()


def beside(peer: Peer, figures: Figures, *, size: int) -> None:
    """A GET of one kilobyte, again and again, while two big uploads and two big downloads run."""
    file = HOME / "small"
    digest = make_blob(file, 1024)
    finish(start(peer, "put", digest, file))
    bigs = [HOME / f"big-{number}" for number in range(2)]
    names = [make_blob(big, size) for big in bigs]
    known = make_blob(HOME / "known", size)
    finish(start(peer, "put", known, HOME / "known"))
    registry = peer.open()
    running = [start(peer, "put", name, big) for name, big in zip(names, bigs, strict=True)]
    running += [start(peer, "get", known) for _ in range(2)]
    while all(transfer.poll() is None for transfer in running):
        begun = time.perf_counter()
        registry.expect(200, "GET", f"/v2/{peer.repository}/blobs/{digest}")
        figures.small.append(time.perf_counter() - begun)
        time.sleep(0.002)
    for transfer in running:
        finish(transfer)
    for path in (file, *bigs, HOME / "known"):
        path.unlink()


def make_blob(file: Path, size: int) -> str:
    """A file of random bytes; its digest."""
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for offset in range(0, size, 8 * MIB):
            piece = os.urandom(min(8 * MIB, size - offset))
            digest.update(piece)
            out.write(piece)
    return f"sha256:{digest.hexdigest()}"


def start(peer: Peer, verb: str, digest: str, file: Path | None = None) -> subprocess.Popen[str]:
    """One transfer in a process of its own, so that the clients do not wait for one another."""
    command = [sys.executable, "-m", "bench.transfer", verb, peer.url, peer.repository, digest]
    if file is not None:
        command.append(str(file))
    return subprocess.Popen(command, env={**os.environ, **peer.env}, stdout=subprocess.PIPE, text=True)


def finish(transfer: subprocess.Popen[str]) -> float:
    """Seconds that the transfer took. Ends the bench when it failed."""
    out, _ = transfer.communicate()
    if transfer.returncode != 0:
        raise SystemExit("a transfer failed, see above")
    return float(json.loads(out)["seconds"])


def show(figures: dict[str, Figures], *, size: int) -> None:
    ours, theirs = figures["berth"], figures.get("docker-registry")
    rows = [
        ("PUT MB/s, median", [statistics.median(f.put) for f in figures.values()], "{:.0f}"),
        ("GET MB/s, median", [statistics.median(f.get) for f in figures.values()], "{:.0f}"),
        ("resident memory idle, MiB", [f.idle / MIB for f in figures.values()], "{:.0f}"),
        ("… peak in eight transfers, MiB", [f.peak / MIB for f in figures.values()], "{:.0f}"),
        ("1 KiB GET beside four, p50 ms", [quantile(f.small, 0.50) * 1e3 for f in figures.values()], "{:.1f}"),
        ("… p99 ms", [quantile(f.small, 0.99) * 1e3 for f in figures.values()], "{:.1f}"),
    ]
    print(f"\n{'':34}" + "".join(f"{name:>18}" for name in figures) + (f"{'ratio':>9}" if theirs else ""))
    for title, values, form in rows:
        ratio = f"{values[0] / values[1]:>9.2f}" if theirs and values[1] else ""
        print(f"{title:34}" + "".join(f"{form.format(value):>18}" for value in values) + ratio)
    counts = ", ".join(f"{name} {len(f.small)}" for name, f in figures.items())
    print(f"small GETs measured: {counts}; blob {size // MIB} MiB")
    if not ours.small:
        print("the big transfers ended before a small GET: use a larger SIZE_MB")


def quantile(values: Sequence[float], share: float) -> float:
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


if __name__ == "__main__":
    try:
        main()
    finally:
        for left in HOME.glob("b*lob*"):
            if left.is_file():
                left.unlink()
        shutil.rmtree(HOME / "berth", ignore_errors=True)
