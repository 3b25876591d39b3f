"""Harbor for tests: `/v2/` from oci_double.py, `/api/v2.0` with every request and response held to its description.

Behaviour is that of registries.md §4: cookies bring CSRF, names are encoded twice, v2 refuses to delete tags.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.contracts.registries.harbor_schema import HarborSchema, Mismatch
from tests.contracts.registries.oci_double import OciDouble, Quirks, Repository, error
from tests.unit.wire.peer import Answer, Asked

USER, PASSWORD = "robot$berth", "Harbor12345"
NEVER = "0001-01-01T00:00:00.000Z"
WHEN = "2026-05-04T08:00:00.000Z"


@dataclass
class Project:
    id: int
    metadata: dict[str, str]
    storage: int = -1
    # A proxy cache: what is in it comes from another registry, and nobody pushes.
    proxy: bool = False
    rules: list[dict[str, Any]] = field(default_factory=list)
    webhooks: list[dict[str, Any]] = field(default_factory=list)


class HarborDouble(OciDouble):
    def __init__(self, *projects: str) -> None:
        quirks = Quirks(bearer=f"{USER}:{PASSWORD}", catalog=False, tag_delete=400)
        super().__init__(quirks, self._rest)
        self.schema = HarborSchema()
        self.projects = {name: Project(number, {"public": "false"}) for number, name in enumerate(projects, 1)}
        self.scans: dict[str, str] = {}
        self.robots: list[dict[str, Any]] = []
        self.retentions: list[dict[str, Any]] = []
        self.executions: list[dict[str, Any]] = []
        self.collections: list[dict[str, Any]] = []
        self.too_soon = False
        # Whether our account administers the system; without, Harbor replaces a storage limit by its default.
        self.admin = True
        self.gated: dict[str, str] = {}
        self.pulls = 0
        self.read_only = False
        self.sick: str | None = None
        self.unscannable: set[str] = set()
        self.immutable: set[str] = set()
        self.mistakes: list[str] = []

    def __call__(self, asked: Asked) -> Answer:
        if "sid=" in asked.headers.get("cookie", ""):
            return error(403, "FORBIDDEN", "CSRF token not found in request")
        project = asked.path.removeprefix("/v2/").partition("/")[0]
        if asked.method == "PUT" and "/manifests/" in asked.path and project not in self.projects:
            return error(404, "NOT_FOUND", f"project {project} not found")
        refused = self._refused_here(asked, project)
        answer = super().__call__(asked) if refused is None else refused
        return Answer(answer.status, answer.body, {**answer.headers, "Set-Cookie": "sid=abc; Path=/"}, answer.cut)

    def _refused_here(self, asked: Asked, name: str) -> Answer | None:
        """What Harbor's middleware refuses before the registry sees it (registries.md §4), with a token shown."""
        project = self.projects.get(name)
        if project is None or not asked.path.startswith("/v2/") or "authorization" not in asked.headers:
            return None
        repository, _, reference = asked.path.removeprefix("/v2/").partition("/manifests/")
        held = self.repositories.get(repository, Repository())
        if asked.method in ("GET", "HEAD") and reference:
            digest = held.tags.get(reference, reference)
            if digest in self.gated:
                return error(412, "PROJECTPOLICYVIOLATION", self.gated[digest])
        if asked.method in ("PUT", "POST", "PATCH") and project.proxy:
            return error(405, "UNSUPPORTED", f"can not push artifact to a proxy project: {name}")
        if asked.method == "PUT":
            if project.storage >= 0 and self._used(name) + len(asked.body) > project.storage:
                said = f"adding {len(asked.body)} B of storage resource, which when updated to current usage of "
                return error(403, "DENIED", f"{said}{self._used(name)} B will exceed the configured upper limit")
            if reference in self.immutable and reference in held.tags:
                return error(
                    412, "PRECONDITION", f"Failed to process request due to '{reference}' configured immutable"
                )
        return None

    def _used(self, project: str) -> int:
        return sum(
            len(b) for n, r in self.repositories.items() if n.startswith(project + "/") for b in r.blobs.values()
        )

    def _rest(self, asked: Asked) -> Answer:
        if not asked.path.startswith("/api/v2.0/"):
            return error(404, "NOT_FOUND")
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if asked.path != "/api/v2.0/health" and asked.headers.get("authorization") != expected:
            return error(401, "UNAUTHORIZED")
        try:
            operation, path = self.schema.request(asked)
            answer = self._answer(operation["operationId"], path, asked)
            self.schema.response(operation, answer)
        except Mismatch as mistake:
            self.mistakes.append(str(mistake))
            return error(500, "MISMATCH", str(mistake))
        return answer

    def _answer(self, operation: str, path: dict[str, str], asked: Asked) -> Answer:
        body = json.loads(asked.body) if asked.body else {}
        project = path.get("project_name") or path.get("project_name_or_id")
        if project is not None:
            if project.isdigit() and asked.headers.get("x-is-resource-name") != "true":
                return error(404, "NOT_FOUND", "read as an id")
            if project not in self.projects:
                return error(404, "NOT_FOUND", f"project {project} not found")
        handler = getattr(self, f"_{operation}")
        found: Answer = handler(path, asked, body)
        return found

    # ---- system

    def _getHealth(self, *_: Any) -> Answer:
        core = {"name": "core", "status": "unhealthy", "error": self.sick} if self.sick else {"name": "core"}
        status = "unhealthy" if self.sick else "healthy"
        return ok({"status": status, "components": [{"status": status, **core}]})

    def _getSystemInfo(self, *_: Any) -> Answer:
        return ok({"harbor_version": "v2.15.2", "auth_mode": "db_auth", "read_only": self.read_only})

    def _createGCSchedule(self, _: Any, asked: Asked, body: dict[str, Any]) -> Answer:
        if not self.admin:
            return error(403, "FORBIDDEN")
        if body["schedule"]["type"] != "Manual":
            return error(400, "BAD_REQUEST")
        if self.too_soon:
            return error(409, "CONFLICT", "the schedule was triggered less than a minute ago")
        number = len(self.collections) + 1
        made = {"id": number, "job_name": "GARBAGE_COLLECTION", "job_kind": "MANUAL", "job_status": "Success"}
        self.collections.append({**made, "job_parameters": json.dumps(body["parameters"])})
        return Answer(201, headers={"Location": f"/api/v2.0/system/gc/{number}"})

    def _getGC(self, path: dict[str, str], *_: Any) -> Answer:
        known = int(path["gc_id"]) <= len(self.collections)
        return ok(self.collections[int(path["gc_id"]) - 1]) if known else error(404, "NOT_FOUND")

    def _getGCHistory(self, _: Any, asked: Asked, __: Any) -> Answer:
        assert asked.query["sort"] == ["-id"]
        return ok(self.collections[::-1][: int(asked.query["page_size"][0])])

    def _getGCLog(self, path: dict[str, str], *_: Any) -> Answer:
        if int(path["gc_id"]) > len(self.collections):
            return error(404, "NOT_FOUND", f"garbage collection {path['gc_id']} log is not found")
        return Answer(200, b"2 blobs eligible for deletion", {"Content-Type": "text/plain"})

    # ---- projects

    def _headProject(self, _: Any, asked: Asked, __: Any) -> Answer:
        return Answer(200 if asked.query["project_name"][0] in self.projects else 404)

    def _createProject(self, _: Any, asked: Asked, body: dict[str, Any]) -> Answer:
        if body["project_name"] in self.projects:
            return error(409, "CONFLICT")
        limit = body.get("storage_limit", -1) if self.admin else 5 * 1024**3
        made = Project(len(self.projects) + 1, dict(body["metadata"]), limit)
        self.projects[body["project_name"]] = made
        return Answer(201, headers={"Location": f"/api/v2.0/projects/{body['project_name']}"})

    def _getProject(self, path: dict[str, str], *_: Any) -> Answer:
        name = path["project_name_or_id"]
        found = self.projects[name]
        return ok({"project_id": found.id, "name": name, "metadata": found.metadata})

    def _updateProject(self, path: dict[str, str], _: Any, body: dict[str, Any]) -> Answer:
        self.projects[path["project_name_or_id"]].metadata |= body["metadata"]
        return Answer(200)

    def _getProjectSummary(self, path: dict[str, str], *_: Any) -> Answer:
        found = self.projects[path["project_name_or_id"]]
        used = self._used(path["project_name_or_id"])
        return ok({"repo_count": 1, "quota": {"hard": {"storage": found.storage}, "used": {"storage": used}}})

    def _listQuotas(self, _: Any, asked: Asked, __: Any) -> Answer:
        number = int(asked.query["reference_id"][0])
        return ok(
            [{"id": p.id + 100, "hard": {"storage": p.storage}} for p in self.projects.values() if p.id == number]
        )

    def _updateQuota(self, path: dict[str, str], _: Any, body: dict[str, Any]) -> Answer:
        if not self.admin:
            return error(403, "FORBIDDEN")
        for project in self.projects.values():
            if project.id + 100 == int(path["id"]):
                project.storage = body["hard"]["storage"]
        return Answer(200)

    # ---- repositories and artifacts

    def _listAllRepositories(self, _: Any, asked: Asked, __: Any) -> Answer:
        return self._listed(asked, sorted(n for n, r in self.repositories.items() if r.manifests))

    def _listRepositories(self, path: dict[str, str], asked: Asked, _: Any) -> Answer:
        prefix = path["project_name"] + "/"
        return self._listed(
            asked, sorted(n for n, r in self.repositories.items() if r.manifests and n.startswith(prefix))
        )

    def _listed(self, asked: Asked, names: list[str]) -> Answer:
        page, size = int(asked.query.get("page", ["1"])[0]), int(asked.query.get("page_size", ["10"])[0])
        shown = names[(page - 1) * size : page * size]
        return ok([{"id": number, "name": name} for number, name in enumerate(shown, 1)])

    def _getRepository(self, path: dict[str, str], *_: Any) -> Answer:
        name = unquote(path["repository_name"])
        if "/" in path["repository_name"] or f"{path['project_name']}/{name}" not in self.repositories:
            return error(404, "NOT_FOUND")
        return ok({"id": 1, "name": f"{path['project_name']}/{name}", "artifact_count": 1, "pull_count": self.pulls})

    def _found(self, path: dict[str, str]) -> tuple[Repository, str] | None:
        """The repository (its name comes decoded once, and must still be encoded once) and the digest."""
        name = path["repository_name"]
        if "/" in name:
            return None  # was encoded once only: Harbor's router finds no such path
        held = self.repositories.get(f"{path['project_name']}/{unquote(name)}")
        if held is None:
            return None
        digest = held.tags.get(path["reference"], path["reference"])
        return (held, digest) if digest in held.manifests else None

    def _getArtifact(self, path: dict[str, str], asked: Asked, _: Any) -> Answer:
        found = self._found(path)
        if found is None:
            return error(404, "NOT_FOUND")
        held, digest = found
        media_type, body = held.manifests[digest]
        document = json.loads(body)
        model = document.get("artifactType") == "application/vnd.cncf.model.manifest.v1+json"
        shown: dict[str, Any] = {
            "id": 1,
            "type": "CNAI" if model else "IMAGE",
            "manifest_media_type": media_type,
            "digest": digest,
            "size": len(body),
            "push_time": WHEN,
            "pull_time": WHEN if self.pulls else NEVER,
            "addition_links": {
                name: {"href": f"/additions/{name}", "absolute": False}
                for name in (("readme.md", "license", "files") if model else ("vulnerabilities",))
            },
            "tags": [{"id": n, "name": t} for n, (t, d) in enumerate(held.tags.items()) if d == digest],
        }
        if asked.query.get("with_scan_overview") == ["true"] and digest in self.scans:
            summary = {
                "report_id": "7f0f",
                "scan_status": self.scans[digest],
                "severity": "High",
                "summary": {"total": 3, "fixable": 1, "summary": {"High": 1, "Low": 2}},
                "scanner": {"name": "Trivy", "vendor": "Aqua Security", "version": "v0.76.0"},
            }
            shown["scan_overview"] = {"application/vnd.security.vulnerability.report; version=1.1": summary}
        return ok(shown)

    def _deleteArtifact(self, path: dict[str, str], *_: Any) -> Answer:
        found = self._found(path)
        return Answer(200) if found and self.forget(*found) else error(404, "NOT_FOUND")

    def _deleteTag(self, path: dict[str, str], *_: Any) -> Answer:
        found = self._found(path)
        if found is None or path["tag_name"] not in found[0].tags:
            return error(404, "NOT_FOUND")
        if path["tag_name"] in self.immutable:
            return error(412, "PRECONDITION", "matches an immutable rule")
        del found[0].tags[path["tag_name"]]
        return Answer(200)

    def _listAccessories(self, path: dict[str, str], *_: Any) -> Answer:
        found = self._found(path)
        if found is None:
            return error(404, "NOT_FOUND")
        shown = [
            {
                "id": 1,
                "subject_artifact_digest": found[1],
                "digest": digest,
                "size": len(body),
                "type": "subject.accessory",
            }
            for digest, (_, body) in found[0].manifests.items()
            if json.loads(body).get("subject", {}).get("digest") == found[1]
        ]
        return ok(shown)

    def _getAddition(self, path: dict[str, str], *_: Any) -> Answer:
        found = self._found(path)
        if found is None:
            return error(404, "NOT_FOUND")
        document = json.loads(found[0].manifests[found[1]][1])
        if "cncf.model" not in document.get("artifactType", ""):
            return error(400, "BAD_REQUEST", f"addition {path['addition']} isn't supported for IMAGE")
        return Answer(200, b"# A model", {"Content-Type": "text/markdown; charset=utf-8"})

    # ---- scans

    def _scanArtifact(self, path: dict[str, str], *_: Any) -> Answer:
        found = self._found(path)
        if found is None:
            return error(404, "NOT_FOUND")
        if found[1] in self.unscannable:
            return error(400, "BAD_REQUEST", "the configured scanner does not support this mime type")
        if self.scans.get(found[1]) == "Running":
            return error(409, "CONFLICT", "a previous scan process is running")
        self.scans[found[1]] = "Running"
        return Answer(202)

    def _getVulnerabilitiesAddition(self, path: dict[str, str], asked: Asked, _: Any) -> Answer:
        found = self._found(path)
        if found is None or "x-accept-vulnerabilities" not in asked.headers:
            return error(404, "NOT_FOUND")
        if self.scans.get(found[1]) != "Success":
            return ok({})
        kind = "application/vnd.security.vulnerability.report; version=1.1"
        return ok({kind: {"severity": "High", "vulnerabilities": [{"id": "CVE-2026-1", "package": "zlib"}]}})

    def _getReportLog(self, path: dict[str, str], *_: Any) -> Answer:
        return Answer(200, f"scan {path['report_id']}".encode(), {"Content-Type": "text/plain"})

    # ---- robots, rules, webhooks

    def _CreateRobot(self, _: Any, __: Any, body: dict[str, Any]) -> Answer:
        name = f"robot${body['permissions'][0]['namespace']}+{body['name']}"
        if any(robot["name"] == name for robot in self.robots):
            return error(409, "CONFLICT")
        self.robots.append({**body, "id": len(self.robots) + 1, "name": name})
        return ok({"id": len(self.robots), "name": name, "secret": "shown once", "expires_at": -1}, 201)

    def _ListRobot(self, _: Any, asked: Asked, __: Any) -> Answer:
        wanted = asked.query.get("q", [""])[0]
        owners = {f"Level=project,ProjectID={p.id}": name for name, p in self.projects.items()}
        owner = owners.get(wanted)
        return ok([r for r in self.robots if r["permissions"][0]["namespace"] == owner])

    def _DeleteRobot(self, path: dict[str, str], *_: Any) -> Answer:
        left = [r for r in self.robots if r["id"] != int(path["robot_id"])]
        gone, self.robots = len(left) < len(self.robots), left
        return Answer(200) if gone else error(404, "NOT_FOUND")

    def _RefreshSec(self, path: dict[str, str], _: Any, body: dict[str, Any]) -> Answer:
        if not any(robot["id"] == int(path["robot_id"]) for robot in self.robots):
            return error(404, "NOT_FOUND")
        return ok({"secret": "" if body.get("secret") else "another one"})

    def _DeleteImmuRule(self, path: dict[str, str], *_: Any) -> Answer:
        rules = self.projects[path["project_name_or_id"]].rules
        rules[:] = [rule for rule in rules if rule["id"] != int(path["immutable_rule_id"])]
        return Answer(200)

    def _ListImmuRules(self, path: dict[str, str], *_: Any) -> Answer:
        return ok(self.projects[path["project_name_or_id"]].rules)

    def _CreateImmuRule(self, path: dict[str, str], _: Any, body: dict[str, Any]) -> Answer:
        rules = self.projects[path["project_name_or_id"]].rules
        rules.append({**body, "id": len(rules) + 1})
        return Answer(201, headers={"Location": "/x/1"})

    def _createRetention(self, _: Any, __: Any, body: dict[str, Any]) -> Answer:
        self.retentions.append(body)
        for project in self.projects.values():
            if project.id == body["scope"]["ref"]:
                project.metadata["retention_id"] = str(len(self.retentions))
        return Answer(201, headers={"Location": f"/api/v2.0/retentions/{len(self.retentions)}"})

    def _updateRetention(self, path: dict[str, str], _: Any, body: dict[str, Any]) -> Answer:
        self.retentions[int(path["id"]) - 1] = body
        return Answer(200)

    def _getRetention(self, path: dict[str, str], *_: Any) -> Answer:
        return ok({"id": int(path["id"]), **self.retentions[int(path["id"]) - 1]})

    def _triggerRetentionExecution(self, path: dict[str, str], _: Any, body: dict[str, Any]) -> Answer:
        number = len(self.executions) + 1
        self.executions.append(
            {"id": number, "policy_id": int(path["id"]), "status": "Succeed", "dry_run": body["dry_run"]}
        )
        return Answer(201, headers={"Location": f"/api/v2.0/retentions/{path['id']}/executions/{number}"})

    def _listRetentionExecutions(self, path: dict[str, str], *_: Any) -> Answer:
        return ok([e for e in self.executions if e["policy_id"] == int(path["id"])])

    def _listRetentionTasks(self, path: dict[str, str], *_: Any) -> Answer:
        task = {"id": 1, "execution_id": int(path["eid"]), "status": "Success", "status_code": 3}
        return ok([{**task, "repository": "lab/demo", "total": 12, "retained": 10}])

    def _ListWebhookPoliciesOfProject(self, path: dict[str, str], *_: Any) -> Answer:
        return ok(self.projects[path["project_name_or_id"]].webhooks)

    def _CreateWebhookPolicyOfProject(self, path: dict[str, str], _: Any, body: dict[str, Any]) -> Answer:
        hooks = self.projects[path["project_name_or_id"]].webhooks
        hooks.append({**body, "id": len(hooks) + 1})
        return Answer(201, headers={"Location": "/x/1"})

    def _UpdateWebhookPolicyOfProject(self, path: dict[str, str], _: Any, body: dict[str, Any]) -> Answer:
        hooks = self.projects[path["project_name_or_id"]].webhooks
        hooks[int(path["webhook_policy_id"]) - 1] = body
        return Answer(200)


def ok(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})
