"""How far is a build? One `Step` per finished part, for the person who waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from berth.authoring.packing import Layer


@dataclass(frozen=True)
class Step:
    """One finished part of a build. `note` says when nothing had to be done."""

    name: str
    size: int
    seconds: float
    digest: str = ""
    note: str = ""


Report = Callable[[Step], None]


@contextmanager
def timed(report: Report, layers: Sequence[Layer], name: str | None = None) -> Iterator[None]:
    """Reports the layers that the block appends, with the time the block took."""
    started, before = time.monotonic(), len(layers)
    yield
    seconds = time.monotonic() - started
    for layer in layers[before:]:
        report(
            Step(
                name=" ".join([name or layer.kind, *([layer.title] if layer.title else [])]),
                size=layer.descriptor.size,
                seconds=seconds,
                digest=layer.descriptor.digest,
                note="unchanged" if layer.reused else "",
            )
        )
        seconds = 0.0
