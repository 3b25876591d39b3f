"""Other registries that the service knows: `/registries` of the REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from berth.client.address import path
from berth.client.session import Json, Session


class Registries:
    def __init__(self, session: Session) -> None:
        self._session = session

    def kinds(self) -> list[Json]:
        """What `add` takes as kind, with the options of each."""
        items = self._session.get("/registry-kinds").get("items", [])
        return [dict(item) for item in items]

    def add(
        self,
        name: str,
        *,
        kind: str,
        url: str,
        username: str | None = None,
        secret: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Json:
        """Makes a registry known; its secret is stored sealed and never shown."""
        body = {
            "name": name,
            "kind": kind,
            "url": url,
            "username": username,
            "secret": secret,
            "options": dict(options or {}),
        }
        return self._session.post("/registries", {k: v for k, v in body.items() if v is not None})

    def change(
        self,
        name: str,
        *,
        url: str | None = None,
        username: str | None = None,
        secret: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Json:
        """Changes what is given; `options` replaces all of them. A new address needs the secret again."""
        body = {"url": url, "username": username, "secret": secret, "options": options}
        return self._session.patch(path("registries", name), {k: v for k, v in body.items() if v is not None})

    def ls(self, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items("/registries", limit=limit))

    def show(self, name: str) -> Json:
        return self._session.get(path("registries", name))

    def remove(self, name: str) -> None:
        self._session.delete(path("registries", name))

    def import_(
        self, name: str, *, project: str | None = None, repository: str | None = None, dry_run: bool = False
    ) -> Json:
        """Starts making known what lives in a registry; the answer's `id` is the run to wait for (`sync.wait`).

        Args:
            repository: glob over project/model.
            dry_run: find out only.
        """
        body: Json = {"dry_run": dry_run, "project": project, "repository": repository}
        return self._session.post(
            f"{path('registries', name)}/import", {k: v for k, v in body.items() if v not in (None, False)}
        )

    def probe(self, name: str, *, repository: str | None = None) -> Json:
        """Asks the registry what it can do; with `repository` small content is pushed there and removed."""
        body = {} if repository is None else {"repository": repository}
        return self._session.post(f"{path('registries', name)}/probe", body)
