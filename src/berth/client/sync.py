"""Sync rules, plans and runs: `/sync…` of the REST API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from berth.client.address import path
from berth.client.session import Json, Session
from berth.errors import Unavailable

ENDED = ("succeeded", "failed", "cancelled")


class Sync:
    def __init__(
        self,
        session: Session,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._sleep = sleep
        self._clock = clock

    def add(
        self,
        name: str,
        *,
        source: str,
        target: str,
        project: str,
        schedule: str | None = None,
        on_admission: bool = False,
        on_event: bool = False,
        terms: Mapping[str, Any] | None = None,
    ) -> Json:
        """Adds a rule; `depot` is the service's own store, other places are known registries.

        Args:
            terms: filters and policies, e.g. {"range": "^1", "only_higher": True}.
        """
        body: Json = {"name": name, "source": source, "target": target, "project": project}
        if schedule is not None:
            body["schedule"] = schedule
        if on_admission:
            body["on_admission"] = True
        if on_event:
            body["on_event"] = True
        if terms:
            body["terms"] = dict(terms)
        return self._session.post("/sync/rules", body)

    def ls(self, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items("/sync/rules", limit=limit))

    def show(self, name: str) -> Json:
        return self._session.get(path("sync", "rules", name))

    def enable(self, name: str, *, enabled: bool = True) -> Json:
        return self._session.patch(path("sync", "rules", name), {"enabled": enabled})

    def rm(self, name: str) -> None:
        self._session.delete(path("sync", "rules", name))

    def plan(self, name: str) -> Json:
        """Starts finding out what a rule would do now; the answer's `id` is the run to wait for."""
        return self._session.post(path("sync", "rules", name, "plan"))

    def run(self, name: str) -> Json:
        """Starts a run of a rule."""
        return self._session.post(path("sync", "rules", name, "runs"))

    def runs(self, name: str, *, limit: int | None = None) -> list[Json]:
        """Runs and plans of a rule, newest first."""
        return list(self._session.items(path("sync", "rules", name, "runs"), limit=limit))

    def status(self, run_id: int) -> Json:
        return self._session.get(path("sync", "runs", str(run_id)))

    def items(self, run_id: int, *, drift: bool = False, limit: int | None = None) -> list[Json]:
        """What a run or a plan consists of; with `drift` only where source and target differ."""
        query = {"drift": "true"} if drift else {}
        return list(self._session.items(path("sync", "runs", str(run_id), "items"), limit=limit, **query))

    def drift(self, rule: str | None = None, *, registry: str | None = None) -> Json:
        """What differs, per model and registry: {"rules": […], "models": […], "published": […]}."""
        whole: Json | None = None
        after: str | None = None
        while True:
            page = self._session.get("/sync/drift", rule=rule, registry=registry, after=after, limit=500)
            if whole is None:
                whole = page
            else:
                whole["models"] += page["models"]
            after = page.pop("next")
            if not after:
                whole.pop("next", None)
                return whole

    def drifted(self, rule: str, *, model: str | None = None) -> list[Json]:
        """The versions that differ, of one rule."""
        return list(self._session.items(path("sync", "rules", rule, "drift"), model=model))

    def cancel(self, run_id: int) -> Json:
        return self._session.post(path("sync", "runs", str(run_id), "cancel"))

    def wait(self, run_id: int, *, timeout: float, tell: Callable[[Json], None] = lambda _: None) -> Json:
        """Waits until a run has ended and returns it, whatever its outcome.

        Args:
            timeout: seconds; Unavailable is raised when it is still under way after it.
            tell: called with the run each time it changes.
        """
        deadline = self._clock() + timeout
        pause = 0.1
        before: Json | None = None
        while True:
            run = self.status(run_id)
            if run != before:
                tell(run)
                before = run
            if run.get("state") in ENDED:
                return run
            left = deadline - self._clock()
            if left <= 0:
                raise Unavailable(
                    f"Run {run_id} is still {run.get('state')} after {timeout:g} s.",
                    hint=f"It goes on; look again with `berth sync status --run {run_id}`. Is a worker running?",
                )
            self._sleep(min(pause, left))
            pause = min(pause * 1.2, 2.0)  # nobody waits for more than a fifth of the time in vain
