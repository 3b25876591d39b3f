"""Other registries that the service knows: `/registries` of the REST API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        takes_open: bool = False,
    ) -> Json:
        """Makes a registry known; its secret is stored sealed and never shown."""
        body = {
            "name": name,
            "kind": kind,
            "url": url,
            "username": username,
            "secret": secret,
            "options": dict(options or {}),
            "takes_open": takes_open,
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
        takes_open: bool | None = None,
    ) -> Json:
        """Changes what is given; `options` replaces all of them. A new address needs the secret again."""
        body = {"url": url, "username": username, "secret": secret, "options": options, "takes_open": takes_open}
        return self._session.patch(path("registries", name), {k: v for k, v in body.items() if v is not None})

    def ls(self, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items("/registries", limit=limit))

    def show(self, name: str) -> Json:
        return self._session.get(path("registries", name))

    def remove(self, name: str) -> None:
        self._session.delete(path("registries", name))

    def probe(self, name: str, *, repository: str | None = None) -> Json:
        """Asks the registry what it can do; with `repository` small content is pushed there and removed."""
        body = {} if repository is None else {"repository": repository}
        return self._session.post(f"{path('registries', name)}/probe", body)

    def hook(
        self,
        name: str,
        *,
        projects: Sequence[str] = (),
        address: str | None = None,
        pulls: bool = False,
        anew: bool = False,
    ) -> Json:
        """Has the service take the registry's webhook, and sets it up there for `projects`.

        The answer's `secret` is shown once, when it is made.
        """
        body: Json = {"projects": list(projects), "pulls": pulls, "anew": anew}
        if address is not None:
            body["address"] = address
        return self._session.post(f"{path('registries', name)}/hook", body)

    def unhook(self, name: str) -> None:
        self._session.delete(f"{path('registries', name)}/hook")

    def events(self, name: str, *, limit: int | None = None) -> list[Json]:
        """What the registry told, newest first."""
        return list(self._session.items(f"{path('registries', name)}/events", limit=limit))
