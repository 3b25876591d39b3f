"""Which layers did the same packages become before? So that a build whose packages did not change installs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from berth.authoring.locking import locked
from berth.authoring.packing import Layer
from berth.authoring.repository import LocalRepository
from berth.oci import descriptor as descriptors

# Raised when the same packages become other layers, so that what older programs made is not taken.
_FORMAT = 2
_MAX_ENTRIES = 200
_LAYERS = "packages.json"
_QUESTIONS = "questions.json"


def key_of(*parts: Any) -> str:
    """One key for everything that the layers depend on (JSON types)."""
    text = json.dumps([_FORMAT, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def find(repository: LocalRepository, key: str) -> list[Layer] | None:
    """The layers, if all of their bytes are still here."""
    layers = []
    for item in _read(repository.home, _LAYERS).get(key, [None]):
        if item is None or not repository.layout.has(item["descriptor"]["digest"]):
            return None
        layers.append(
            Layer(
                kind=item["kind"],
                descriptor=descriptors.from_json(item["descriptor"]),
                diff_id=item["diff_id"],
                tar_size=item["tar_size"],
                reused=True,
                title=item["title"],
            )
        )
    return layers


def remember(repository: LocalRepository, key: str, layers: Sequence[Layer]) -> None:
    """Notes what the key became; the oldest of too many are forgotten."""
    items = [
        {
            "kind": x.kind,
            "descriptor": x.descriptor.to_json(),
            "diff_id": x.diff_id,
            "tar_size": x.tar_size,
            "title": x.title,
        }
        for x in layers
    ]
    _put(repository.home, _LAYERS, key, items)


def note(repository: LocalRepository, question: str, at: float, key: str) -> None:
    """Notes that a question led to the layers of `key`, at `at` (seconds since 1970)."""
    _put(repository.home, _QUESTIONS, question, [at, key])


def noted(repository: LocalRepository, question: str) -> tuple[float, str] | None:
    """What `note` was told last."""
    found = _read(repository.home, _QUESTIONS).get(question)
    return (float(found[0]), str(found[1])) if isinstance(found, list) and len(found) == 2 else None


def _put(home: Path, name: str, key: str, value: Any) -> None:
    with locked(home / "lock"):
        known = {k: v for k, v in _read(home, name).items() if k != key}
        kept = dict([*known.items(), (key, value)][-_MAX_ENTRIES:])
        with tempfile.NamedTemporaryFile("w", dir=home, delete=False, encoding="utf-8") as out:
            json.dump(kept, out)
        os.replace(out.name, home / name)


def _read(home: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((home / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
