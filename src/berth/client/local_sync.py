"""How is a laptop kept in step with a service? One round over its rules: plan, then what is missing, name by name.

The plan is the one of the service's own rules (wire/plan.py). Nothing is overwritten or deleted on either side; what
the gate does not let out is skipped with its reasons. Blobs that are there are not sent again, in the next round, after
a broken connection or a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from berth.authoring.locking import locked
from berth.authoring.repository import LocalRepository
from berth.client.berth import Berth
from berth.client.running import run
from berth.client.sync_places import FolderPlace, LocalPlace, Place, RegistryPlace
from berth.client.sync_rules import FOLDER, LOCAL, SyncRule
from berth.errors import BerthError, Conflict, NameUnknown
from berth.oci.version import from_tag, to_tag
from berth.wire.auth import ANONYMOUS, Credential
from berth.wire.client import RegistryClient
from berth.wire.plan import Item, Listed, in_scope, plan
from berth.wire.transfer import Progress

# How many refused versions are asked about one by one in a round.
EXPLAINED = 20


@dataclass
class Outcome:
    """What was decided about one version, and what became of it: planned, done, skipped, conflict, failed."""

    rule: SyncRule
    item: Item
    state: str
    bytes: int = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule.models,
            "to": "service" if self.rule.push else self.rule.to,
            "model": self.item.source_repository,
            "version": from_tag(self.item.tag),
            "digest": self.item.digest,
            "action": self.item.action,
            "code": self.item.code,
            "reason": self.item.reason,
            "state": self.state,
            "bytes": self.bytes,
            "error": self.error,
        }


@dataclass
class Round:
    """One round over all rules."""

    outcomes: list[Outcome] = field(default_factory=list)
    # Rules that could not be planned at all: models → why.
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def bytes_transferred(self) -> int:
        return sum(outcome.bytes for outcome in self.outcomes)

    @property
    def failed(self) -> bool:
        return bool(self.broken) or any(outcome.state == "failed" for outcome in self.outcomes)

    def of(self, *states: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state in states]

    def to_json(self) -> dict[str, Any]:
        return {
            "items": [outcome.to_json() for outcome in self.outcomes],
            "broken": dict(self.broken),
            "bytes_transferred": self.bytes_transferred,
            "failed": self.failed,
        }


@contextmanager
def alone(home: Path, rules: Sequence[SyncRule]) -> Iterator[None]:
    """Hold every place on this disk that the rules write to. Raises Conflict when another sync has one of them."""
    files = {home / "sync.lock"}
    files |= {Path(rule.to.removeprefix(FOLDER)) / ".sync.lock" for rule in rules if rule.to.startswith(FOLDER)}
    with _held(sorted(files)):
        yield


@contextmanager
def _held(files: list[Path]) -> Iterator[None]:
    if not files:
        yield
        return
    files[0].parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(files[0], wait=False), _held(files[1:]):
            yield
    except BlockingIOError as error:
        raise Conflict(
            f"Another sync is at work on {files[0].parent}.", hint="Wait for it, or stop it; one at a time is enough."
        ) from error


class LocalSync:
    """Carries out rules between a service and places of this machine.

    Args:
        home: XUMI_HOME.
        credential: for rules that go to a registry.
        now: only the window of a rule asks for it, and these rules have none.
    """

    def __init__(
        self,
        berth: Berth,
        home: Path,
        *,
        credential: Credential = ANONYMOUS,
        progress: Progress | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._berth = berth
        self._home = home
        self._credential = credential
        self._progress = progress
        self._now = now

    def round(self, rules: Sequence[SyncRule], *, dry_run: bool = False) -> Round:
        """Go over all rules once; a rule or version that fails leaves the others alone."""
        found = Round()
        for rule in rules:
            try:
                outcomes = self._push(rule, dry_run) if rule.push else self._pull(rule, dry_run)
            except BerthError as error:
                found.broken[rule.models] = str(error)
            else:
                found.outcomes += outcomes
        return found

    # -- from the service

    def _pull(self, rule: SyncRule, dry_run: bool) -> list[Outcome]:
        ours = self._on_service(rule, self._models(rule))

        async def work() -> list[Outcome]:
            async with self._berth.registry() as source, self._registry(rule) as other:
                place = self._place(rule, other)
                theirs = await self._with_evidence(
                    place, ours, await place.listed({listed.repository for listed in ours})
                )
                outcomes = self._planned(rule, ours, theirs, self._now())
                if not dry_run:
                    await self._bring(place, source, outcomes)
                return outcomes

        outcomes = run(work())
        self._explain(outcomes)
        return outcomes

    def _planned(
        self, rule: SyncRule, source: Sequence[Listed], target: Sequence[Listed], now: datetime
    ) -> list[Outcome]:
        states = {"copy": "planned", "conflict": "conflict", "skip": "skipped"}
        return [Outcome(rule, item, states[item.action]) for item in plan(rule.terms(), source, target, now)]

    async def _with_evidence(self, place: Place, ours: Sequence[Listed], theirs: Sequence[Listed]) -> list[Listed]:
        """What the place holds of our signatures and reports, where it holds the version."""
        about = {(listed.repository, listed.tag, listed.digest): listed.evidence for listed in ours}
        wanted: dict[str, set[str]] = {}
        for held in theirs:
            pieces = about.get((held.repository, held.tag, held.digest))
            if pieces:
                wanted.setdefault(held.repository, set()).update(pieces)
        # Once a repository: versions may share evidence, and a folder is read to answer.
        there = {repository: await place.holds(repository, pieces) for repository, pieces in wanted.items()}
        return [replace(held, evidence=there.get(held.repository, frozenset())) for held in theirs]

    async def _bring(self, place: Place, source: RegistryClient, outcomes: list[Outcome]) -> None:
        broken: set[str] = set()
        for outcome in outcomes:
            if outcome.state != "planned":
                continue
            item = outcome.item
            if item.source_repository in broken and not outcome.rule.all:
                # Were it to arrive, the one that failed would never be higher again.
                outcome.state, outcome.error = "failed", "An earlier version failed; both come with the next round."
                continue
            try:
                outcome.bytes = await place.bring(
                    source, item.source_repository, item.tag, item.digest or "", self._progress
                )
            except Conflict as error:
                outcome.state, outcome.error = "conflict", str(error)
            except BerthError as error:
                outcome.state, outcome.error = "failed", str(error)
                broken.add(item.source_repository)
            else:
                outcome.state = "done"

    def _explain(self, outcomes: Sequence[Outcome]) -> None:
        """What the gate asks for, in the reason of what it does not let out."""
        refused = [outcome for outcome in outcomes if outcome.item.code == "denied"]
        for outcome in refused[:EXPLAINED]:
            try:
                verdict = self._berth.versions.verdict(f"{outcome.item.source_repository}@{outcome.item.digest}")
            except BerthError:
                continue
            codes = ", ".join(str(reason.get("code")) for reason in verdict.reasons)
            if codes:
                outcome.error = f"The gate asks for: {codes}."

    # -- to the service

    def _push(self, rule: SyncRule, dry_run: bool) -> list[Outcome]:
        local = LocalRepository(self._home)
        terms = rule.terms()
        ours = [
            Listed(version.name, to_tag(version.version), version.descriptor.digest)
            for version in local.versions()
            if in_scope(terms, version.name)
        ]
        theirs = self._on_service(rule, {listed.repository for listed in ours}, deleted=True)
        # At the target the gate's answer does not matter: what waits in quarantine is there.
        outcomes = self._planned(rule, ours, theirs, self._now())
        for outcome in outcomes:
            if outcome.state != "planned" or dry_run:
                continue
            item = outcome.item
            try:
                pushed = self._berth.push(
                    f"{item.source_repository}:{from_tag(item.tag)}", home=self._home, progress=self._progress
                )
            except Conflict as error:
                outcome.state, outcome.error = "conflict", str(error)
            except BerthError as error:
                outcome.state, outcome.error = "failed", str(error)
            else:
                outcome.state, outcome.bytes = "done", pushed.uploaded_bytes
        return outcomes

    # -- listings

    def _models(self, rule: SyncRule) -> list[str]:
        project, _, model = rule.models.partition("/")
        if not any(sign in model for sign in "*?["):
            return [rule.models]
        # Checkpoints come with the versions that need them.
        return [
            str(found["name"])
            for found in self._berth.models.ls(project)
            if found.get("kind") != "checkpoint" and fnmatchcase(str(found["name"]).partition("/")[2], model)
        ]

    def _on_service(self, rule: SyncRule, models: Collection[str], *, deleted: bool = False) -> list[Listed]:
        found: list[Listed] = []
        for model in sorted(models):
            try:
                rows = self._berth.versions.ls(model, deleted=deleted, evidence=not rule.push)
            except NameUnknown:
                if rule.push:
                    continue  # the first version makes it
                raise
            found += [_listed(model, row) for row in rows]
        return found

    def _place(self, rule: SyncRule, other: RegistryClient | None) -> Place:
        if other is not None:
            return RegistryPlace(other)
        if rule.to.startswith(FOLDER):
            return FolderPlace(Path(rule.to.removeprefix(FOLDER)))
        return LocalPlace(self._home)

    def _registry(self, rule: SyncRule) -> Any:
        if rule.to == LOCAL or rule.to.startswith(FOLDER):
            return _NoRegistry()
        return RegistryClient(
            rule.to.rstrip("/"),
            credential=self._credential,
            # Whoever wrote the rule named this host.
            insecure=rule.to.startswith("http://"),
            private_hosts=(urlsplit(rule.to).hostname or "",),
        )


class _NoRegistry:
    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


def _listed(model: str, row: Mapping[str, Any]) -> Listed:
    gone = row.get("state") == "deleted"
    return Listed(
        model,
        to_tag(str(row["version"])),
        str(row["digest"]),
        admitted=row.get("verdict") == "allow",
        deleted=gone,
        evidence=frozenset(map(str, row.get("evidence") or ())),
    )
