"""What is the digest of a file or a stream? Read in large pieces; big sets of files in parallel threads.

hashlib releases the interpreter lock, so threads use the cores; memory stays at one buffer per thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Protocol

from berth.oci import digest as digests

BUFFER_BYTES = 4 * 1024 * 1024


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


def hash_stream(stream: BinaryIO, algorithm: str = "sha256", *, sink: Sink | None = None) -> tuple[str, int]:
    """Reads to the end; returns (digest, size in bytes). Every piece is also written to `sink`."""
    hasher = digests.new_hasher(algorithm)
    size = 0
    while piece := stream.read(BUFFER_BYTES):
        hasher.update(piece)
        size += len(piece)
        if sink is not None:
            sink.write(piece)
    return f"{algorithm}:{hasher.hexdigest()}", size


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a file's content."""
    hasher = digests.new_hasher(algorithm)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            hasher.update(buffer[:count])
    return f"{algorithm}:{hasher.hexdigest()}"


def worker_count(files: int) -> int:
    """Threads worth starting for so many files."""
    return max(1, min(files, os.cpu_count() or 1, 8))


def hash_files(paths: Sequence[Path]) -> list[str]:
    """Digests in the order of `paths`."""
    with ThreadPoolExecutor(worker_count(len(paths))) as pool:
        return list(pool.map(hash_file, paths))
