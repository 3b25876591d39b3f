"""How far is a run on the service? Words for people, and waiting with them (`berth sync`, `berth registry import`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from berth.cli.output import Output, human_size
from berth.client import Berth
from berth.client.session import Json

# `counts` says of what is left to do only the action.
_LEFT: Final = {"copy": "to copy", "prune": "to prune", "import": "to import"}


def so_far(run: Mapping[str, Any], items: Iterable[Mapping[str, Any]] = ()) -> str:
    """ "running: 3 done, 7 to copy; 12.0 MiB moved"; with its items, what was skipped is no longer done."""
    found = Counter(run["counts"])
    skipped = sum(item["action"] == "skip" and item["state"] == "done" for item in items)
    found.subtract({"done": skipped, "skipped": -skipped})
    counts = ", ".join(f"{count} {_LEFT.get(word, word)}" for word, count in sorted(found.items()) if count > 0)
    if not counts:
        counts = {"queued": "not begun", "failed": "it did not come to a plan"}.get(run["state"], "nothing to do")
    return f"{run['state']}: {counts}; {human_size(int(run['bytes_transferred']))} moved"


def wait_for(berth: Berth, out: Output, run_id: int, *, timeout: float) -> Json:
    """Waits for the end of a run and tells on stderr how far it is."""
    with out.following() as tell:
        return berth.sync.wait(run_id, timeout=timeout, tell=lambda run: tell(so_far(run)))
