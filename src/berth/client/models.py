"""Models and their aliases: `/projects/{p}/models…` of the REST API."""

from __future__ import annotations

from typing import Any

from berth.authoring.fit import Machine
from berth.authoring.fit_described import written
from berth.client.address import Address, parse, path
from berth.client.session import Json, Session
from berth.errors import NameInvalid


def model_path(session: Session, model: Address | str, *more: str) -> str:
    """Where a model is below /api/v1. Raises NameInvalid for a model of another registry."""
    address = parse(model) if isinstance(model, str) else model
    if address.registry not in (None, session.host):
        raise NameInvalid(
            f"{address.registry} is not the service in use, which is {session.host}.",
            hint=f"Leave the registry out ({address.repository}), or set BERTH_URL.",
        )
    return path("projects", address.project, "models", address.model, *more)


class Models:
    def __init__(self, session: Session) -> None:
        self._session = session

    def ls(self, project: str, *, limit: int | None = None) -> list[Json]:
        return list(self._session.items(path("projects", project, "models"), limit=limit))

    def fitting(
        self,
        machine: Machine,
        *,
        project: str | None = None,
        every: bool = False,
        nearly: bool = False,
        refused: bool = False,
        limit: int | None = None,
    ) -> list[Json]:
        """The highest admitted version of each model that fits a machine, in all projects that the token may see.

        Args:
            every: all versions that fit, pre-releases and deprecated ones too.
            nearly: instead those that need up to twice of what the machine has, with what is missing.
            refused: those that the gate refuses, too.
        """
        asked = {"every": every, "nearly": nearly, "refused": refused}
        return list(
            self._session.items(
                path("models", "fitting"),
                limit=limit,
                project=project,
                **{name: "true" for name, said in asked.items() if said},
                **written(machine),
            )
        )

    def show(self, model: Address | str) -> Json:
        return self._session.get(model_path(self._session, model))

    def set(self, model: Address | str, **overlay: Any) -> Json:
        """Changes the editable overlay (description, labels, links), never what the manifest declares."""
        return self._session.patch(model_path(self._session, model), overlay)


class Aliases:
    """Movable names; they resolve to admitted versions only."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def ls(self, model: Address | str) -> list[Json]:
        return list(self._session.items(model_path(self._session, model, "aliases")))

    def set(self, model: Address | str, alias: str, version: str, *, reason: str | None = None) -> Json:
        body = {"version": version} | ({"reason": reason} if reason else {})
        return self._session.put(model_path(self._session, model, "aliases", alias), body)

    def rm(self, model: Address | str, alias: str) -> None:
        self._session.delete(model_path(self._session, model, "aliases", alias))

    def history(self, model: Address | str, alias: str, *, at: str | None = None) -> list[Json]:
        """Where the alias pointed, newest first; with `at` (ISO 8601) only what held at that moment."""
        return list(self._session.items(model_path(self._session, model, "aliases", alias, "history"), at=at))

    def rollback(self, model: Address | str, alias: str) -> Json:
        return self._session.post(model_path(self._session, model, "aliases", alias, "rollback"))
