"""Projects, their members and the keys they trust: `/projects…` of the REST API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from berth.client.address import path
from berth.client.session import Json, Session


class Projects:
    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, name: str, *, policy: str | None = None, description: str | None = None) -> Json:
        """Creates a project; `policy` is a preset (`open`, `scanned`, `strict`), the service's default without it."""
        body = {"name": name, "policy": policy, "description": description}
        return self._session.post("/projects", {k: v for k, v in body.items() if v is not None})

    def ls(self, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items("/projects", limit=limit))

    def show(self, name: str) -> Json:
        return self._session.get(path("projects", name))

    def set(self, name: str, **changes: Any) -> Json:
        """Changes the named settings only, e.g. `policy="scanned"` or `description="…"`."""
        return self._session.patch(path("projects", name), changes)

    def rm(self, name: str) -> None:
        self._session.delete(path("projects", name))


class Members:
    def __init__(self, session: Session) -> None:
        self._session = session

    def set(self, project: str, user: str, role: str) -> Json:
        return self._session.put(path("projects", project, "members", user), {"role": role})

    def ls(self, project: str, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items(path("projects", project, "members"), limit=limit))

    def rm(self, project: str, user: str) -> None:
        self._session.delete(path("projects", project, "members", user))


class Keys:
    """Public keys a project trusts; signing with a key adds no trust by itself."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def trust(self, project: str, name: str, public_key: str, *, predicates: Sequence[str] | None = None) -> Json:
        """Trusts the PEM `public_key` for `predicates` (default: signatures)."""
        body: Json = {"name": name, "public_key": public_key}
        if predicates is not None:
            body["predicates"] = list(predicates)
        return self._session.post(path("projects", project, "keys"), body)

    def ls(self, project: str, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items(path("projects", project, "keys"), limit=limit))

    def untrust(self, project: str, name: str) -> None:
        self._session.delete(path("projects", project, "keys", name))
