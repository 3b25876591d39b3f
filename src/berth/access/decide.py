"""May this actor do that? A pure decision: facts in, answer with its reason out (design §2, §6 "Tokens").

Nothing here reads a clock or a database. Whoever builds an `Actor` has checked that its token is neither revoked nor
expired and that its principal is not disabled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from berth.access.roles import (
    ACTIONS,
    GLOBAL_ACTIONS,
    KIND_ACTIONS,
    PROJECT_ACTIONS,
    ROLE_ACTIONS,
    SELF_ACTIONS,
)
from berth.errors import SetupError

_NOTHING: Final[frozenset[str]] = frozenset()
_NO_ROLES: Final[Mapping[str, str]] = MappingProxyType({})

# What a short-lived bearer token may do on the REST API within the repositories it names: read, nothing else.
CLAIM_ACTIONS: Final[frozenset[str]] = frozenset(
    {"project.read", "model.read", "version.pull", "evidence.read", "quarantine.manifest.read"}
)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, with the facts that decide what they may do.

    `roles` maps project names to roles. With `token_project` and `token_role` set, the token holds exactly that role
    in that project: neither `roles` nor `global_role` count. `repositories` is set for actors that came with a
    short-lived bearer token: the wire actions it was issued for, by repository name.
    """

    name: str | None
    principal_id: int | None
    kind: str
    global_role: str | None
    roles: Mapping[str, str] = field(default_factory=lambda: _NO_ROLES)
    token_project: str | None = None
    token_role: str | None = None
    epoch: int = 0
    token_id: int | None = None
    token_expires_at: datetime | None = None
    repositories: Mapping[str, tuple[str, ...]] | None = None

    @property
    def anonymous(self) -> bool:
        return self.principal_id is None

    @property
    def scoped(self) -> bool:
        """True when the token is limited to one role in one project."""
        return self.token_project is not None or self.token_role is not None


ANONYMOUS: Final = Actor(name=None, principal_id=None, kind="user", global_role=None)


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. `visible`: the actor may know that the project exists (always true where no project is meant)."""

    allowed: bool
    reason: str
    visible: bool


def role_in(actor: Actor, project: str) -> str | None:
    """The project role with which the actor acts in `project`, or None."""
    if actor.anonymous:
        return None
    if actor.scoped:
        return actor.token_role if actor.token_project == project else None
    return actor.roles.get(project)


def held_in(actor: Actor, project: str) -> frozenset[str]:
    """Every project action that the actor holds in `project`."""
    if actor.anonymous:
        return _NOTHING
    role = role_in(actor, project)
    held = _NOTHING
    if role is not None and role in ROLE_ACTIONS:
        held = ROLE_ACTIONS[role] | KIND_ACTIONS.get(actor.kind, _NOTHING)
    return held | (_held_globally(actor) & PROJECT_ACTIONS)


def decide(actor: Actor, action: str, project: str | None) -> Decision:
    """May `actor` do `action` in `project` (None: on the service itself, or in all projects at once)?

    Raises:
        SetupError: no such action exists. A misspelt action must never become an answer.
    """
    if action not in ACTIONS:
        raise SetupError(f"There is no action '{action}'.", hint="The actions are listed in access/roles.py.")
    if actor.anonymous:
        return Decision(False, "Nobody is signed in.", visible=project is None)
    if action in SELF_ACTIONS:
        return Decision(True, f"'{actor.name}' is signed in.", visible=True)
    if project is None or action not in PROJECT_ACTIONS:
        return _decide_globally(actor, action)
    held = held_in(actor, project)
    visible = "project.read" in held
    role = role_in(actor, project)
    if action in held:
        granted = f"role '{role}' in project '{project}'" if role else f"the global role '{actor.global_role}'"
        return Decision(True, f"'{actor.name}' has {granted}.", visible=visible)
    if role is None:
        return Decision(False, f"'{actor.name}' has no role in project '{project}'.", visible=visible)
    return Decision(
        False,
        f"'{actor.name}' has role '{role}' in project '{project}', which does not include '{action}'.",
        visible=visible,
    )


def within_claims(actor: Actor, action: str, repository: str | None) -> bool:
    """Does the bearer token behind `actor` cover `action` on `repository`? Always true for actors without claims.

    Such a token was issued for reading or writing named repositories through the registry protocol; elsewhere it may
    only read about repositories for which it may pull.
    """
    if actor.repositories is None or action == "self.read":
        return True
    if repository is None or action not in CLAIM_ACTIONS:
        return False
    return "pull" in actor.repositories.get(repository, ())


def may_grant(actor: Actor, *, role: str, project: str) -> bool:
    """May the actor hand `role` in `project` to someone? Nobody gives away more than they hold themselves."""
    granted = ROLE_ACTIONS.get(role)
    return granted is not None and granted <= held_in(actor, project)


def _held_globally(actor: Actor) -> frozenset[str]:
    if actor.scoped or actor.global_role is None:
        return _NOTHING
    return GLOBAL_ACTIONS.get(actor.global_role, _NOTHING)


def _decide_globally(actor: Actor, action: str) -> Decision:
    if action in _held_globally(actor):
        return Decision(True, f"'{actor.name}' has the global role '{actor.global_role}'.", visible=True)
    if actor.scoped:
        return Decision(False, f"This token holds a role in project '{actor.token_project}' only.", visible=True)
    return Decision(False, f"'{actor.name}' has no global role that includes '{action}'.", visible=True)
