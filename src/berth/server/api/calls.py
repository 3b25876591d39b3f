"""One request: who sends it, may they, and in which transaction does it run? Every endpoint starts with `acting`.

The transaction is opened and committed inside the endpoint, so an answer is sent only after its commit. A route says
which action it needs (`operations.operation`); project and model come from its path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from fastapi import Request

from berth.access import audit
from berth.access import queries as access_queries
from berth.access.authenticate import actor_of_header
from berth.access.decide import Actor, decide, within_claims
from berth.access.queries import ProjectRow
from berth.catalog import queries as catalog_queries
from berth.catalog.queries import RepositoryRow
from berth.errors import BerthError, Forbidden, InvalidInput, NameUnknown, Unauthenticated
from berth.server.api.operations import action_of
from berth.server.api.queries import AsyncConnection
from berth.server.services import Services


@dataclass(slots=True)
class Call:
    """What an endpoint works with, from its first line to the commit."""

    request: Request
    services: Services
    conn: AsyncConnection
    actor: Actor
    now: datetime
    action: str
    project_name: str | None = None
    _project: ProjectRow | None = None
    # True once a check said no; such a try is audited.
    refused: bool = field(default=False)

    @property
    def who(self) -> str:
        """Name of the principal, for rows that say who did something."""
        return self.actor.name or "anonymous"

    @property
    def project(self) -> ProjectRow:
        """The project of the path, which the caller may see."""
        if self._project is None:
            raise NameUnknown("This address names no project.")
        return self._project

    async def enter(self, project: str, action: str) -> ProjectRow:
        """Load `project` and check `action` in it.

        Raises:
            Unauthenticated: nobody is signed in. NameUnknown: no such project, or no right to know of it (the same
            answer, byte for byte). Forbidden: visible, but the action is not allowed.
        """
        self.project_name = project
        self._signed_in()
        row = await access_queries.project_by_name(self.conn, project)
        decision = decide(self.actor, action, project)
        if row is None or not decision.visible:
            self.refused = not decision.visible
            raise NameUnknown(
                f"There is no project '{project}'.", hint="Check the name, or ask its maintainer for a role in it."
            )
        self._project = row
        self._check(action, allowed=decision.allowed, reason=decision.reason)
        return row

    def require(self, action: str) -> None:
        """Check a further action, in the project of the path if there is one, else on the service.

        Raises:
            Unauthenticated, Forbidden.
        """
        self._signed_in()
        decision = decide(self.actor, action, None if self._project is None else self._project.name)
        self._check(action, allowed=decision.allowed, reason=decision.reason)

    async def repository(self) -> RepositoryRow:
        """The model (or checkpoint) of the path.

        Raises:
            NameUnknown: the project has none of that name.
        """
        name = f"{self.project.name}/{self.request.path_params['model']}"
        row = await catalog_queries.repository(self.conn, name)
        if row is None:
            raise NameUnknown(f"There is no model '{name}'.", hint="Push a version to create it.")
        return row

    def _signed_in(self) -> None:
        if self.actor.anonymous:
            raise Unauthenticated("Sign in to do this.", hint="Send `Authorization: Bearer TOKEN`.")

    def _check(self, action: str, *, allowed: bool, reason: str) -> None:
        model = self.request.path_params.get("model")
        repository = None if model is None or self._project is None else f"{self._project.name}/{model}"
        if not within_claims(self.actor, action, repository):
            allowed = False
            reason = "A short-lived registry token only reads about the repositories it names."
        if not allowed:
            self.refused = True
            self.action = action
            whom = "a global admin" if self._project is None else "a maintainer of the project"
            raise Forbidden(reason, hint=f"Ask {whom} for a role that includes it.")


@asynccontextmanager
async def acting(request: Request, *, project: str | None = None) -> AsyncIterator[Call]:
    """The call of this request, allowed to do what its route declares; commits when the block ends.

    `project` is for routes that name it outside their path. A refused try leaves an audit row of its own when the
    caller is known; anonymous ones leave none, or anybody could fill the disk.
    """
    services: Services = request.app.state.services
    action = action_of(request)
    _check_text(request)
    call: Call | None = None
    try:
        async with services.db.transaction() as conn:
            now = services.clock()
            actor = await actor_of_header(
                conn, request.headers.get("authorization"), secret=services.bearer_secret, now=now
            )
            call = Call(request, services, conn, actor, now, action)
            name = request.path_params.get("project", project)
            if name is None:
                call.require(action)
            else:
                await call.enter(name, action)
            yield call
    except BerthError as error:
        if call is not None and not call.actor.anonymous and (call.refused or isinstance(error, Forbidden)):
            await _record_refusal(call)
        raise


async def _record_refusal(call: Call) -> None:
    async with call.services.db.transaction() as conn:
        await audit.record(
            conn,
            actor=call.actor,
            action=call.action,
            project=None if call.project_name is None else call.project_name[:200],
            object=f"{call.request.method} {call.request.url.path}"[:500],
            outcome=audit.DENIED,
        )


def _check_text(request: Request) -> None:
    """PostgreSQL stores no NUL characters; no name or cursor holds one."""
    values = [str(value) for value in request.path_params.values()]
    values += [value for _, value in request.query_params.multi_items()]
    if any("\0" in value for value in values):
        raise InvalidInput("An address must not contain NUL characters.")
