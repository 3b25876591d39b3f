"""Versions, their verdict, evidence and approval: `…/versions/{ref}…` of the REST API.

A version is given as `project/model:ref` or `project/model@digest`; `ref` is a semantic version, an alias,
`latest` or a range.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from berth.client.address import parse, parse_version
from berth.client.models import model_path
from berth.client.session import Json, Session
from berth.errors import RemoteError, Unavailable


@dataclass(frozen=True)
class Verdict:
    """What the gate says about a version right now."""

    digest: str
    verdict: str
    valid_until: str | None
    reasons: tuple[Json, ...]
    body: Json

    @property
    def allowed(self) -> bool:
        return self.verdict == "allow"

    @classmethod
    def from_json(cls, body: Json) -> Verdict:
        try:
            reasons = tuple(dict(r) for r in body.get("reasons") or ())
            return cls(body["digest"], body["verdict"], body.get("valid_until"), reasons, body)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RemoteError("The service answered something that is not a verdict.") from error


class Versions:
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

    def _path(self, version: str, *more: str) -> str:
        address, ref = parse_version(version, default="latest")
        return model_path(self._session, address, "versions", ref, *more)

    def ls(self, model: str, *, limit: int | None = None, deleted: bool = False, evidence: bool = False) -> list[Json]:
        """Highest first; with `deleted` also those whose number is all that is left.

        Args:
            evidence: each with the digests of the signatures and reports that may leave with it.
        """
        query = {name: "true" for name, asked in (("deleted", deleted), ("evidence", evidence)) if asked}
        return list(self._session.items(model_path(self._session, model, "versions"), limit=limit, **query))

    def show(self, version: str) -> Json:
        return self._session.get(self._path(version))

    def deprecate(self, version: str, *, deprecated: bool = True) -> Json:
        return self._session.patch(self._path(version), {"deprecated": deprecated})

    def set(self, version: str, **overlay: Any) -> Json:
        return self._session.patch(self._path(version), {"overlay": overlay})

    def rm(self, version: str) -> None:
        self._session.delete(self._path(version))

    def verdict(self, version: str) -> Verdict:
        return Verdict.from_json(self._session.get(self._path(version, "verdict")))

    def evidence(self, version: str) -> list[Json]:
        return list(self._session.items(self._path(version, "evidence")))

    def report(self, version: str, evidence_id: str | int) -> tuple[bytes, str]:
        """One report in full and its media type."""
        return self._session.read(self._path(version, "evidence", str(evidence_id), "report"))

    def placements(self, version: str) -> list[Json]:
        """Where a version lives besides the depot, and in what state."""
        return list(self._session.items(self._path(version, "placements")))

    def where(self, version: str) -> Json:
        """Where its bytes are: `depot`, `registries` with their health, and `next`, which would be asked first."""
        return self._session.get(self._path(version, "where"))

    def hold(self, version: str, *, registry: str | None = None) -> list[Json]:
        """Stop publishing a version, there or everywhere; where it stands then."""
        body = {} if registry is None else {"registry": registry}
        return list(self._session.post(self._path(version, "placements", "hold"), body)["items"])

    def release(self, version: str, *, registry: str | None = None) -> list[Json]:
        """Go on with what `hold` stopped."""
        body = {} if registry is None else {"registry": registry}
        return list(self._session.post(self._path(version, "placements", "release"), body)["items"])

    def signatures(self, version: str) -> list[Json]:
        return list(self._session.items(self._path(version, "signatures")))

    def scans(self, version: str) -> Json:
        """{"pending": […], "done": bool}"""
        return self._session.get(self._path(version, "scans"))

    def rescan(self, version: str) -> Json:
        return self._session.post(self._path(version, "scans"))

    def wait(self, version: str, *, timeout: float, tell: Callable[[Json], None] = lambda _: None) -> Verdict:
        """Waits until every scan of the version has ended, then returns its verdict.

        Args:
            timeout: seconds; Unavailable is raised when scans are still pending after it.
            tell: called with the state each time it changes.
        """
        deadline = self._clock() + timeout
        pause = 0.2
        before: Json | None = None
        while True:
            state = self.scans(version)
            if state != before:
                tell(state)
                before = state
            if state.get("done"):
                return self.verdict(version)
            left = deadline - self._clock()
            if left <= 0:
                pending = ", ".join(_names(state.get("pending"))) or "scans"
                raise Unavailable(
                    f"Still waiting for {pending} after {timeout:g} s.",
                    hint=f"The scans go on; look again with `xumi scans {version}`. Is a worker running?",
                )
            self._sleep(min(pause, left))
            pause = min(pause * 1.5, 3.0)

    def decide(self, version: str, decision: str, *, note: str | None = None) -> Json:
        """Records an approval decision: `approved`, `rejected` or `revoked`."""
        body: Json = {"decision": decision}
        if note:
            body["note"] = note
        return self._session.post(self._path(version, "approval"), body)

    def promote(self, ref: str, to: str, *, dry_run: bool = False) -> Json:
        """Copies versions with their signatures to another project, by digest.

        Args:
            ref: `project/model:version`, alias, digest, or a range, which means all admitted versions in it.
            to: `project/model`, or with one version `project/model:version`.
        """
        address, wanted = parse_version(ref)
        target = parse(to)
        body: Json = {"versions": wanted, "to": target.repository, "dry_run": dry_run}
        if target.ref is not None:
            body["version"] = target.ref
        return self._session.post(model_path(self._session, address, "promotions"), body)

    def approvals(self, version: str) -> list[Json]:
        return list(self._session.items(self._path(version, "approval")))


def _names(pending: Any) -> list[str]:
    if not isinstance(pending, list):
        return []
    return [str(p.get("kind", p)) if isinstance(p, dict) else str(p) for p in pending]
