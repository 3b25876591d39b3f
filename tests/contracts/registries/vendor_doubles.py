"""Vendors for tests: a registry in memory with the quirks each one documents, and the part of its own interface we use.

AWS is spoken to by boto3 itself; its answers are checked against botocore's model of the service. The others are
scripted from their documentation, refusals included.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.contracts.registries.oci_double import OciDouble, Quirks, Repository, error, sha256
from tests.unit.wire.peer import Answer, Asked

USER, PASSWORD = "robot", "pass word"
PAIR = f"{USER}:{PASSWORD}"


def found(value: Any, **headers: str) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def jwt(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{body}.c2ln"


class Acr(OciDouble):
    """v2 refuses to delete tags; `/acr/v1/<n>/_tags/<t>` untags with a Bearer token for `delete`."""

    def __init__(self, *, refresh: str | None = None) -> None:
        null = "00000000-0000-0000-0000-000000000000"
        super().__init__(Quirks(bearer=PAIR if refresh is None else f"{null}:{refresh}", tag_delete=405), self._acr)
        self.refresh = refresh
        self.exchanges: list[dict[str, list[str]]] = []
        self.locked: set[str] = set()

    def _acr(self, asked: Asked) -> Answer:
        if asked.path == "/oauth2/exchange" and asked.method == "POST":
            form = parse_qs(asked.body.decode())
            self.exchanges.append(form)
            if form.get("grant_type") != ["access_token"] or form.get("access_token") != ["entra"]:
                return error(401, "UNAUTHORIZED")
            return found({"refresh_token": self.refresh})
        match = re.fullmatch(r"/acr/v1/(.+)/_tags/([^/]+)", asked.path)
        if match is None or asked.method != "DELETE":
            return error(404, "NOT_FOUND")
        refused = self._refused(asked, match[1])
        if refused is not None:
            return refused
        if match[2] in self.locked:
            # Attribute deleteEnabled=false; Azure's FAQ "disallowed operation".
            return error(405, "UNSUPPORTED", "The operation is disallowed on this registry, repository or image.")
        tags = self.repositories.get(match[1], Repository()).tags
        return Answer(202) if tags.pop(match[2], None) else error(404, "TAG_UNKNOWN")


class Google(OciDouble):
    """A digest with tags is not deleted; tags/list tells the tags of each digest; packages are listed elsewhere."""

    def __init__(self) -> None:
        super().__init__(
            Quirks(bearer="oauth2accesstoken:ya29.token", catalog=False, content_delete="tagged"), self._api
        )

    def _tags(self, asked: Asked, name: str, _: str) -> Answer:
        held = self.repositories.get(name)
        if held is None:
            return error(404, "NAME_UNKNOWN")
        digests = {d: {"tag": [t for t, at in held.tags.items() if at == d]} for d in held.manifests}
        return self._page(asked, sorted(held.tags), "tags", name=name, manifest=digests, child=[])

    def _api(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization") != "Bearer ya29.token":
            return error(401, "UNAUTHENTICATED")
        parent = "/v1/projects/acme/locations/europe/repositories/models/packages"
        if asked.path != parent:
            return error(404, "NOT_FOUND")
        names = sorted(n.removeprefix("acme/models/") for n, r in self.repositories.items() if r.manifests)
        return found({"packages": [{"name": parent[4:] + "/" + n.replace("/", "%2F")} for n in names]})


class GitLab(OciDouble):
    """At most two levels below the project; referrers are taken but not listed; tags go by REST."""

    PROJECT = "group/project"

    def __init__(self, *, deploys_only: bool = False) -> None:
        # A deploy token reads and writes, but GitLab's own interface is closed to it.
        self.deploys_only = deploys_only
        # Sizes are known where the metadata database is switched on (gitlab.com, and self-managed by choice).
        self.metadata = True
        # A new project's policy (GitLab: app/models/container_expiration_policy.rb and its defaults).
        self.policy: dict[str, Any] = {
            "cadence": "1d",
            "enabled": False,
            "keep_n": 10,
            "older_than": "90d",
            "name_regex": ".*",
            "name_regex_keep": None,
            "next_run_at": "2026-11-27T00:00:00.000Z",
        }
        name = re.escape(self.PROJECT) + r"(/[^/]+){0,2}"
        super().__init__(
            Quirks(bearer=PAIR, catalog=False, referrers=False, subject=False, tag_delete=400, name=name), self._api
        )

    def _api(self, asked: Asked) -> Answer:
        if asked.headers.get("private-token") != PASSWORD or self.deploys_only:
            return Answer(401, b'{"message":"401 Unauthorized"}')
        base = "/api/v4/projects/group%2Fproject/registry/repositories"
        raw = asked.target.partition("?")[0]
        names = sorted(n for n, r in self.repositories.items() if r.blobs)
        if raw == base:
            page, size = int(asked.query["page"][0]), int(asked.query["per_page"][0])
            shown = names[(page - 1) * size : page * size]
            following = str(page + 1) if len(names) > page * size else ""
            return found([{"id": names.index(n) + 1, "path": n} for n in shown], **{"X-Next-Page": following})
        if raw == "/api/v4/projects/group%2Fproject":
            return self._project(asked)
        if match := re.fullmatch(r"/api/v4/registry/repositories/(\d+)", raw):
            held = self.repositories[names[int(match[1]) - 1]]
            shown: dict[str, Any] = {"id": int(match[1]), "path": names[int(match[1]) - 1], "project_id": 9}
            if asked.query.get("tags_count") == ["true"]:
                shown["tags_count"] = len(held.tags)
            if asked.query.get("size") == ["true"] and self.metadata:
                shown["size"] = sum(len(blob) for blob in held.blobs.values())
            return found(shown)
        match = re.fullmatch(re.escape(base) + r"/(\d+)/tags/([^/]+)", raw)
        if match is None or asked.method != "DELETE":
            return error(404, "NOT_FOUND")
        gone = self.repositories[names[int(match[1]) - 1]].tags.pop(unquote(match[2]), None)
        return Answer(200, b"200") if gone else Answer(404, b'{"message":"404 Tag Not Found"}')

    def _project(self, asked: Asked) -> Answer:
        if asked.method == "PUT":
            wanted = json.loads(asked.body)["container_expiration_policy_attributes"]
            mistakes = [
                wanted["cadence"] not in ("1d", "7d", "14d", "1month", "3month"),
                wanted["keep_n"] not in (None, 1, 5, 10, 25, 50, 100),
                wanted.keys() - self.policy.keys(),
            ]
            if any(mistakes):
                return Answer(400, b'{"message":{"container_expiration_policy":["is invalid"]}}')
            self.policy |= wanted
        return found({"id": 9, "path_with_namespace": self.PROJECT, "container_expiration_policy": self.policy})


class Ghcr(OciDouble):
    """No catalogue, no referrers, no deletion at /v2/; versions go by GitHub's interface, with all their tags."""

    def __init__(self) -> None:
        quirks = Quirks(
            bearer=PAIR,
            catalog=False,
            referrers=False,
            subject=False,
            tag_delete=405,
            content_delete=405,
            patch=416,
        )
        super().__init__(quirks, self._api)

    def _api(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization") != f"Bearer {PASSWORD}":
            return error(401, "UNAUTHORIZED")
        raw = asked.target.partition("?")[0]
        names = sorted(n.partition("/")[2] for n, r in self.repositories.items() if r.manifests)
        if raw == "/orgs/acme/packages":
            assert asked.query["package_type"] == ["container"]
            page, size = int(asked.query["page"][0]), int(asked.query["per_page"][0])
            return found([{"name": name} for name in names[(page - 1) * size : page * size]])
        match = re.fullmatch(r"/orgs/acme/packages/container/([^/]+)/versions(?:/(\d+))?", raw)
        held = self.repositories.get(f"acme/{unquote(match[1])}") if match else None
        if match is None or held is None:
            return Answer(404, b'{"message":"Package not found."}')
        digests = sorted(held.manifests)
        if match[2] is None:
            shown = [
                {"id": n, "name": d, "metadata": {"container": {"tags": [t for t, at in held.tags.items() if at == d]}}}
                for n, d in enumerate(digests)
            ]
            return found(shown if asked.query["page"] == ["1"] else [])
        self.forget(held, digests[int(match[2])])
        return Answer(204)


class Hub(OciDouble):
    """Exactly two components; no catalogue, referrers or deletion at /v2/; tags go by Hub's interface."""

    def __init__(self, *, busy: int = 0) -> None:
        quirks = Quirks(
            bearer=PAIR,
            catalog=False,
            referrers=False,
            subject=False,
            tag_delete=405,
            content_delete=405,
            name=r"[^/]+/[^/]+",
            busy=busy,
        )
        super().__init__(quirks, self._api)

    def _api(self, asked: Asked) -> Answer:
        if asked.path == "/v2api/auth/token":
            good = json.loads(asked.body) == {"identifier": USER, "secret": PASSWORD}
            return found({"access_token": "hub-token"}) if good else error(401, "UNAUTHORIZED")
        if asked.headers.get("authorization") != "Bearer hub-token":
            return error(401, "UNAUTHORIZED")
        if match := re.fullmatch(r"/v2api/namespaces/([^/]+)/repositories", asked.path):
            names = sorted(n for n, r in self.repositories.items() if r.manifests and n.startswith(match[1] + "/"))
            return found({"results": [{"name": n.partition("/")[2]} for n in names], "next": None})
        match = re.fullmatch(r"/v2api/repositories/([^/]+)/([^/]+)/tags/([^/]+)/", asked.path)
        if match is None or asked.method != "DELETE":
            return error(404, "NOT_FOUND")
        held = self.repositories.get(f"{match[1]}/{match[2]}", Repository())
        return Answer(204) if held.tags.pop(match[3], None) else error(404, "NOT_FOUND")

    def __call__(self, asked: Asked) -> Answer:
        # Hub's interface has /v2/ in its paths too, on another host; here it is the host's other half.
        if asked.path.startswith("/hub/v2/"):
            return self._api(
                Asked(asked.method, asked.target.replace("/hub/v2/", "/v2api/", 1), asked.headers, asked.body)
            )
        return super().__call__(asked)


def quay() -> OciDouble:
    return OciDouble(Quirks(bearer=PAIR, refuse_scope="delete", subject=False, missing_subject=400))


def zot() -> OciDouble:
    return OciDouble(Quirks(basic=PAIR))


class Ecr(OciDouble):
    """The registry with Basic and no deletion, and AWS's calls, answered inside boto3's own client."""

    def __init__(self) -> None:
        quirks = Quirks(basic="AWS:secret", tag_delete=404, content_delete=404, mount=False, patch=201)
        super().__init__(quirks)
        self.made: set[str] = set()
        self.calls: list[str] = []
        self.scans: dict[str, str] = {}
        self.immutable = False
        # Lifecycle policies and their previews by repository; a preview is ready after so many looks.
        self.policies: dict[str, str] = {}
        self.previews: dict[str, str] = {}
        self.looks = 2
        self._looked: dict[str, int] = {}
        # Requests that one password of AWS is good for; None = 12 hours' worth.
        self.password_requests: int | None = None
        self.answered = 0

    def __call__(self, asked: Asked) -> Answer:
        self.answered += 1
        if self.password_requests is not None:
            self.quirks.basic = f"AWS:secret {self.answered // self.password_requests}"
        name = asked.path.removeprefix("/v2/").partition("/blobs/")[0].partition("/manifests/")[0]
        if asked.method in ("POST", "PUT") and name not in self.made and asked.headers.get("authorization"):
            return error(404, "NAME_UNKNOWN")
        self.quirks.immutable = self.immutable
        return super().__call__(asked)

    def client(self) -> Any:
        """boto3's client, whose requests are answered here instead of by AWS."""
        import boto3

        client = boto3.client("ecr", region_name="eu-central-1", aws_access_key_id="AKIA", aws_secret_access_key="x")
        client.meta.events.register("before-send.ecr", lambda request, **_: self._sent(client, request))
        return client

    def _sent(self, client: Any, request: Any) -> Any:
        from botocore.awsrequest import AWSResponse
        from botocore.validate import ParamValidator

        operation = request.headers["X-Amz-Target"]
        operation = (operation.decode() if isinstance(operation, bytes) else operation).rpartition(".")[2]
        self.calls.append(operation)
        status, answer = getattr(self, f"_{operation}")(json.loads(request.body))
        if status == 200:
            model = client.meta.service_model.operation_model(operation)
            report = ParamValidator().validate(answer, model.output_shape)
            assert not report.has_errors(), report.generate_report()
        text = json.dumps(answer, default=lambda when: when.timestamp())
        return AWSResponse(request.url, status, {"content-type": "application/x-amz-json-1.1"}, _Raw(text.encode()))

    def _GetAuthorizationToken(self, _: Any) -> tuple[int, Any]:
        token = base64.b64encode((self.quirks.basic or "").encode()).decode()
        ends = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 12 * 3600, UTC)
        return 200, {"authorizationData": [{"authorizationToken": token, "expiresAt": ends}]}

    def _CreateRepository(self, asked: Any) -> tuple[int, Any]:
        name = asked["repositoryName"]
        if name in self.made:
            return failure("RepositoryAlreadyExistsException")
        self.made.add(name)
        return 200, {"repository": {"repositoryName": name}}

    def _DescribeRepositories(self, asked: Any) -> tuple[int, Any]:
        assert asked["registryId"] == "123456789012"
        return 200, {"repositories": [{"repositoryName": name} for name in sorted(self.made)]}

    def _BatchDeleteImage(self, asked: Any) -> tuple[int, Any]:
        if asked["repositoryName"] not in self.made:
            return failure("RepositoryNotFoundException")
        held = self.repositories.get(asked["repositoryName"], Repository())
        [image] = asked["imageIds"]
        digest = image.get("imageDigest") or held.tags.pop(image["imageTag"], None)
        if digest not in held.manifests:
            return 200, {"failures": [{"imageId": image, "failureCode": "ImageNotFound", "failureReason": "none"}]}
        if "imageDigest" in image or digest not in held.tags.values():
            self.forget(held, digest)
        return 200, {"imageIds": [image], "failures": []}

    def _described(self, name: str) -> list[dict[str, Any]]:
        """Images in the order of their push, as DescribeImages has them."""
        held = self.repositories.get(name, Repository())
        found: list[dict[str, Any]] = []
        for number, (digest, (kind, body)) in enumerate(held.manifests.items()):
            parsed = json.loads(body)
            parts = [parsed["config"], *parsed["layers"]] if "layers" in parsed else []
            # Of an index: the size of its largest image (botocore: ImageDetail).
            size = sum(part["size"] for part in parts) if parts else 100
            found.append(
                {
                    "registryId": "123456789012",
                    "repositoryName": name,
                    "imageDigest": digest,
                    "imageTags": sorted(tag for tag, at in held.tags.items() if at == digest),
                    "imageSizeInBytes": size,
                    "imagePushedAt": datetime.fromtimestamp(1_780_000_000 + number, UTC),
                    "imageManifestMediaType": kind,
                }
            )
        return found

    def _DescribeImages(self, asked: Any) -> tuple[int, Any]:
        if asked["repositoryName"] not in self.made:
            return failure("RepositoryNotFoundException")
        found, start = self._described(asked["repositoryName"]), int(asked.get("nextToken", 0))
        page = {"imageDetails": found[start : start + 2]}  # AWS may answer fewer than maxResults
        return 200, page | ({"nextToken": str(start + 2)} if start + 2 < len(found) else {})

    def _GetLifecyclePolicy(self, asked: Any) -> tuple[int, Any]:
        text = self.policies.get(asked["repositoryName"])
        if text is None:
            return failure("LifecyclePolicyNotFoundException")
        return 200, {"repositoryName": asked["repositoryName"], "lifecyclePolicyText": text}

    def _PutLifecyclePolicy(self, asked: Any) -> tuple[int, Any]:
        lifecycle_mistakes(asked["lifecyclePolicyText"])
        self.policies[asked["repositoryName"]] = asked["lifecyclePolicyText"]
        return 200, {"lifecyclePolicyText": asked["lifecyclePolicyText"]}

    def _StartLifecyclePolicyPreview(self, asked: Any) -> tuple[int, Any]:
        name, text = asked["repositoryName"], asked["lifecyclePolicyText"]
        lifecycle_mistakes(text)
        if 0 < self._looked.get(name, 0) < self.looks:
            return failure("LifecyclePolicyPreviewInProgressException")
        self.previews[name], self._looked[name] = text, 0
        return 200, {"repositoryName": name, "lifecyclePolicyText": text, "status": "IN_PROGRESS"}

    def _GetLifecyclePolicyPreview(self, asked: Any) -> tuple[int, Any]:
        name = asked["repositoryName"]
        text = self.previews[name]
        self._looked[name] += 1
        if self._looked[name] < self.looks:
            return 200, {"lifecyclePolicyText": text, "status": "IN_PROGRESS"}
        gone = expired(json.loads(text)["rules"], self._described(name))
        results = [
            {
                "imageTags": image["imageTags"],
                "imageDigest": image["imageDigest"],
                "imagePushedAt": image["imagePushedAt"],
                "action": {"type": "EXPIRE"},
                "appliedRulePriority": priority,
            }
            for priority, image in gone
        ]
        summary = {"expiringImageTotalCount": len(gone)}
        return 200, {
            "lifecyclePolicyText": text,
            "status": "COMPLETE",
            "previewResults": results[: asked["maxResults"]],
            "summary": summary,
        }

    def _StartImageScan(self, asked: Any) -> tuple[int, Any]:
        digest = asked["imageId"]["imageDigest"]
        if digest in self.scans:
            return failure("LimitExceededException")
        self.scans[digest] = "IN_PROGRESS"
        return 200, {"imageScanStatus": {"status": "IN_PROGRESS"}}

    def _DescribeImageScanFindings(self, asked: Any) -> tuple[int, Any]:
        status = self.scans.get(asked["imageId"]["imageDigest"])
        if status is None:
            return failure("ScanNotFoundException")
        counts = {"HIGH": 2, "LOW": 1} if status == "COMPLETE" else {}
        return 200, {"imageScanStatus": {"status": status}, "imageScanFindings": {"findingSeverityCounts": counts}}


class _Raw(io.BytesIO):
    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def lifecycle_mistakes(text: str) -> None:
    """What AWS refuses (user guide, "Lifecycle policy properties in Amazon ECR")."""
    rules = json.loads(text)["rules"]
    priorities = [rule["rulePriority"] for rule in rules]
    assert len(set(priorities)) == len(priorities)
    assert all(isinstance(number, int) and number > 0 for number in priorities)
    for rule in rules:
        selection = rule["selection"]
        status = selection["tagStatus"]
        patterns = selection.get("tagPatternList", [])
        assert status in ("tagged", "untagged", "any")
        assert (status == "tagged") == bool(patterns or selection.get("tagPrefixList"))
        assert all(pattern.count("*") <= 4 for pattern in patterns)
        assert selection["countType"] in ("imageCountMoreThan", "sinceImagePushed")
        assert ("countUnit" in selection) == (selection["countType"] == "sinceImagePushed")
        assert status != "any" or rule["rulePriority"] == max(priorities)


def expired(rules: list[dict[str, Any]], images: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """What a policy of rules that count removes. A rule of a higher number never sees what a lower one has marked."""
    gone: dict[str, tuple[int, dict[str, Any]]] = {}
    for rule in sorted(rules, key=lambda rule: rule["rulePriority"]):
        selection = rule["selection"]
        if selection["countType"] != "imageCountMoreThan":
            continue
        tags = {"tagged": lambda t: bool(t), "untagged": lambda t: not t, "any": lambda t: True}[selection["tagStatus"]]
        patterns = [re.escape(p).replace(r"\*", ".*") for p in selection.get("tagPatternList", [])]
        chosen = [
            image
            for image in images
            if tags(image["imageTags"])
            and all(any(re.fullmatch(p, tag) for tag in image["imageTags"]) for p in patterns)
            and image["imageDigest"] not in gone
        ]
        chosen.sort(key=lambda image: image["imagePushedAt"], reverse=True)
        for image in chosen[selection["countNumber"] :]:
            gone[image["imageDigest"]] = (rule["rulePriority"], image)
    return list(gone.values())


def failure(code: str) -> tuple[int, Any]:
    return 400, {"__type": code, "message": code}


__all__ = ["Acr", "Ecr", "Ghcr", "GitLab", "Google", "Hub", "jwt", "quay", "sha256", "zot"]
