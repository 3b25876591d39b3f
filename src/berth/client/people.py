"""Users, tokens and the audit log: `/users`, `/tokens`, `/audit` of the REST API."""

from __future__ import annotations

from berth.client.address import path
from berth.client.session import Json, Session


class Users:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, name: str, *, kind: str | None = None, global_role: str | None = None) -> Json:
        body = {"name": name, "kind": kind, "global_role": global_role}
        return self._session.post("/users", {k: v for k, v in body.items() if v is not None})

    def ls(self, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items("/users", limit=limit))

    def disable(self, name: str, *, disabled: bool = True) -> Json:
        return self._session.patch(path("users", name), {"disabled": disabled})


class Tokens:
    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self,
        user: str,
        *,
        project: str | None = None,
        role: str | None = None,
        name: str | None = None,
        expires_in_days: int | None = None,
    ) -> Json:
        """Creates a token; its secret is the answer's `token` and is never shown again."""
        body = {"user": user, "project": project, "role": role, "name": name, "expires_in_days": expires_in_days}
        return self._session.post("/tokens", {k: v for k, v in body.items() if v is not None})

    def ls(self, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items("/tokens", limit=limit))

    def revoke(self, token_id: str | int) -> None:
        self._session.delete(path("tokens", str(token_id)))


class Audit:
    def __init__(self, session: Session) -> None:
        self._session = session

    def ls(self, *, project: str | None = None, limit: int | None = None) -> list[Json]:
        """Entries of the audit log, in the service's order (newest first)."""
        return list(self._session.items("/audit", limit=limit, project=project))
