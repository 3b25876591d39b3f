"""Other registries that the service knows: `/registries` of the REST API.

What a registry of that kind cannot do raises Unsupported, with the next step.
"""

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

    # ---- how it is, and what it knows

    def health(self, name: str) -> Json:
        return self._session.get(f"{path('registries', name)}/health")

    def usage(self, name: str, project: str) -> Json:
        """Bytes used and allowed where a project of ours lives there."""
        return self._session.get(f"{path('registries', name)}/usage", project=project)

    def check(self, name: str, reference: str) -> Json:
        """How a version is called there, and whether it fits; nothing is sent. Raises NameInvalid, TooLarge."""
        return self._session.post(f"{path('registries', name)}/check", {"reference": reference})

    def artifact(self, name: str, reference: str) -> Json:
        """What the registry knows of a version: type, pulls, accessories, the documents it shows."""
        return self._session.get(f"{path('registries', name)}/artifact", reference=reference)

    def scan(self, name: str, reference: str) -> Json:
        """Has the registry scan a version itself; verdicts here never rest on that."""
        return self._session.post(f"{path('registries', name)}/scans", {"reference": reference})

    def scan_state(self, name: str, reference: str) -> Json:
        return self._session.get(f"{path('registries', name)}/scans", reference=reference)

    def report(self, name: str, reference: str) -> Json:
        return self._session.get(f"{path('registries', name)}/scans/report", reference=reference)

    def scan_log(self, name: str, reference: str) -> str:
        return str(self._session.get(f"{path('registries', name)}/scans/log", reference=reference)["log"])

    # ---- its clean-up

    def collect(self, name: str, *, dry_run: bool = True) -> Json:
        """Starts the registry's own clean-up; a dry run unless told otherwise."""
        return self._session.post(f"{path('registries', name)}/gc", {"dry_run": dry_run})

    def collected(self, name: str, run: str) -> Json:
        return self._session.get(path("registries", name, "gc", run))

    def collected_log(self, name: str, run: str) -> str:
        return str(self._session.get(f"{path('registries', name, 'gc', run)}/log")["log"])

    # ---- its projects

    def project(self, name: str, project: str) -> Json:
        """What the place of a project of ours is like there."""
        return self._session.get(path("registries", name, "projects", project))

    def set_project(self, name: str, project: str, *, dry_run: bool = False, **plan: Any) -> Json:
        """Makes it, or brings it in line with what is given; the answer lists what was changed."""
        given = {key: value for key, value in plan.items() if value is not None}
        return self._session.put(path("registries", name, "projects", project), {**given, "dry_run": dry_run})

    def robots(self, name: str, project: str) -> list[Json]:
        found = self._session.get(f"{path('registries', name, 'projects', project)}/robots")
        return [dict(item) for item in found["items"]]

    def add_robot(
        self, name: str, project: str, robot: str, *, publishes: bool = True, days: int = -1, adopt: bool = False
    ) -> Json:
        """A robot with the least rights. Its secret is in the answer, once; with `adopt` the service keeps it."""
        body = {"name": robot, "publishes": publishes, "days": days, "adopt": adopt}
        return self._session.post(f"{path('registries', name, 'projects', project)}/robots", body)

    def renew_robot(self, name: str, project: str, robot_id: int, *, adopt: bool = False) -> Json:
        place = path("registries", name, "projects", project, "robots", str(robot_id))
        return self._session.post(f"{place}/secret", {"adopt": adopt})

    def remove_robot(self, name: str, project: str, robot_id: int) -> None:
        self._session.delete(path("registries", name, "projects", project, "robots", str(robot_id)))

    def protect(
        self, name: str, project: str, *, tags: str = "**", repositories: str = "**", dry_run: bool = False
    ) -> Json:
        body = {"tags": tags, "repositories": repositories, "dry_run": dry_run}
        return self._session.post(f"{path('registries', name, 'projects', project)}/protected-tags", body)

    def unprotect(self, name: str, project: str, rule_id: int) -> None:
        self._session.delete(path("registries", name, "projects", project, "protected-tags", str(rule_id)))

    def retained(self, name: str, project: str) -> list[Json]:
        """What the registry keeps, place by place."""
        found = self._session.get(f"{path('registries', name, 'projects', project)}/retention")
        return [dict(item) for item in found["items"]]

    def retain(
        self, name: str, project: str, *, keep_newest: int, schedule: str | None = None, dry_run: bool = False
    ) -> Json:
        body: Json = {"keep_newest": keep_newest, "dry_run": dry_run}
        if schedule is not None:
            body["schedule"] = schedule
        return self._session.put(f"{path('registries', name, 'projects', project)}/retention", body)

    def start_retention(self, name: str, project: str, *, dry_run: bool = True) -> Json:
        """Deletes what is not kept; a dry run unless told otherwise."""
        place = f"{path('registries', name, 'projects', project)}/retention/runs"
        return self._session.post(place, {"dry_run": dry_run})

    def retention(self, name: str, project: str, run: int) -> Json:
        return self._session.get(path("registries", name, "projects", project, "retention", "runs", str(run)))
