"""A registry in memory with the quirks of vendors, for what cannot run here. Behaviour: distribution-spec 1.1 and what
each vendor documents differently (see `Quirks`); nothing here is taken from the adapters."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.unit.wire.peer import Answer, Asked

INDEX = "application/vnd.oci.image.index.v1+json"
_PATH = re.compile(
    r"/v2/(?P<name>.+?)/(?P<what>blobs/uploads/|blobs/uploads/[^/]+|blobs/[^/]+|manifests/[^/]+|tags/list|referrers/[^/]+)"
)


@dataclass
class Quirks:
    """What a vendor does differently.

    Attributes:
        basic: the "user:password" asked for on every call.
        bearer: the "user:password" asked for at the token endpoint `/token` of this host.
        refuse_scope: an action whose scope the token endpoint answers 400 to (Quay: `delete`).
        catalog: `_catalog` answers; else 404.
        referrers: the referrers API answers; else 404.
        subject: `OCI-Subject` is sent.
        missing_subject: status of the referrers API for a subject that is not there (Quay: 400).
        tag_delete: 202, or the status (with UNSUPPORTED) of the refusal.
        content_delete: the same; `tagged` refuses a digest with tags (Google).
        mount: a mount is done; else 202, an ordinary session.
        immutable: a second PUT of a tag is refused, whatever it brings (ECR).
        patch: status that answers PATCH (ECR 201, GHCR 416).
        name: what a repository's name has to match.
        busy: manifest GETs to answer 429 before the first that works (Docker Hub).
        token_requests: how many requests a token is good for before it has ended, whatever it promised.
    """

    basic: str | None = None
    bearer: str | None = None
    refuse_scope: str | None = None
    catalog: bool = True
    referrers: bool = True
    subject: bool = True
    missing_subject: int = 200
    tag_delete: int = 202
    content_delete: int | str = 202
    mount: bool = True
    immutable: bool = False
    patch: int = 500
    name: str = r".+"
    busy: int = 0
    token_requests: int | None = None


@dataclass
class Repository:
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class OciDouble:
    """Answers `/v2/`; `extra` answers the rest (vendor interfaces)."""

    def __init__(self, quirks: Quirks, extra: Callable[[Asked], Answer] | None = None) -> None:
        self.quirks = quirks
        self.extra = extra
        self.repositories: dict[str, Repository] = {}
        self.sessions = 0
        self.asked: list[Asked] = []
        self.scopes: list[str] = []
        self.tokens: dict[str, int] = {}
        self.issued = 0

    def __call__(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        if asked.path == "/token" and self.quirks.bearer is not None:
            return self._token(asked)
        if not asked.path.startswith("/v2/"):
            return self.extra(asked) if self.extra else error(404, "NOT_FOUND")
        found = _PATH.fullmatch(asked.path)
        name = found["name"] if found else ""
        refused = self._refused(asked, name)
        if refused is not None:
            return refused
        if asked.path == "/v2/":
            return Answer(200, b"{}")
        if asked.path == "/v2/_catalog":
            names = sorted(n for n, r in self.repositories.items() if r.manifests)
            return self._page(asked, names, "repositories") if self.quirks.catalog else error(404, "NOT_FOUND")
        if found is None:
            return error(404, "NOT_FOUND")
        if re.fullmatch(self.quirks.name, name) is None:
            return error(400, "NAME_INVALID")
        what, _, last = found["what"].partition("/")
        handler = {"blobs": self._blobs, "manifests": self._manifests, "tags": self._tags, "referrers": self._referrers}
        return handler[what](asked, name, last)

    # ---- signing in

    def _refused(self, asked: Asked, name: str) -> Answer | None:
        given = asked.headers.get("authorization", "")
        if self.quirks.basic is not None:
            expected = "Basic " + base64.b64encode(self.quirks.basic.encode()).decode()
            if given != expected:
                return error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="test"'})
        if self.quirks.bearer is None:
            return None
        action = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(asked.method, "push")
        if self.quirks.refuse_scope == "delete" and action == "delete":
            action = "push"
        needed = "registry:catalog:*" if asked.path == "/v2/_catalog" else f"repository:{name}:{action}" if name else ""
        if given.startswith("Bearer "):
            held = json.loads(base64.b64decode(given[7:]))
            self.tokens[given] = self.tokens.get(given, 0) + 1
            ended = self.quirks.token_requests is not None and self.tokens[given] > self.quirks.token_requests
            if not ended and (not needed or needed in held):
                return None
        asking = {"push": "pull,push"}.get(action, action)
        scope = needed if not name else f"repository:{name}:{asking}"
        challenge = f'Bearer realm="http://{asked.headers["host"]}/token",service="test"'
        return error(
            401, "UNAUTHORIZED", headers={"WWW-Authenticate": challenge + (f',scope="{scope}"' if scope else "")}
        )

    def _token(self, asked: Asked) -> Answer:
        expected = "Basic " + base64.b64encode((self.quirks.bearer or "").encode()).decode()
        if asked.headers.get("authorization") != expected:
            return error(401, "UNAUTHORIZED")
        held = []
        for text in asked.query.get("scope", []):
            for scope in text.split(" "):
                kind, _, rest = scope.partition(":")
                name, _, actions = rest.rpartition(":")
                if self.quirks.refuse_scope in actions.split(","):
                    return Answer(400, b'{"error":"Unable to decode scope"}')
                self.scopes.append(scope)
                held += [f"{kind}:{name}:{action}" for action in actions.split(",")]
        self.issued += 1
        token = base64.b64encode(json.dumps([*held, f"token {self.issued}"]).encode()).decode()
        return Answer(200, json.dumps({"token": token, "expires_in": 300}).encode())

    # ---- lists

    def _page(self, asked: Asked, names: list[str], key: str, **more: object) -> Answer:
        last, limit = asked.query.get("last", [""])[0], int(asked.query.get("n", ["100"])[0])
        rest = [n for n in names if n > last]
        headers = {}
        if len(rest) > limit:
            headers["Link"] = f'<{asked.path}?n={limit}&last={rest[limit - 1]}>; rel="next"'
        return Answer(200, json.dumps({key: rest[:limit], **more}).encode(), headers)

    def _tags(self, asked: Asked, name: str, _: str) -> Answer:
        if name not in self.repositories:
            return error(404, "NAME_UNKNOWN")
        return self._page(asked, sorted(self.repositories[name].tags), "tags", name=name)

    def _referrers(self, asked: Asked, name: str, digest: str) -> Answer:
        if not self.quirks.referrers:
            return error(404, "NOT_FOUND")
        held = self.repositories.get(name, Repository()).manifests
        if digest not in held and self.quirks.missing_subject != 200:
            return error(self.quirks.missing_subject, "MANIFEST_INVALID")
        entries = []
        for own, (media_type, body) in held.items():
            document = json.loads(body)
            if document.get("subject", {}).get("digest") == digest:
                kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
                entries.append({"mediaType": media_type, "digest": own, "size": len(body), "artifactType": kind})
        answer = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        return Answer(200, json.dumps(answer).encode(), {"Content-Type": INDEX})

    # ---- blobs

    def _blobs(self, asked: Asked, name: str, last: str) -> Answer:
        if last.startswith("uploads/"):
            return self._upload(asked, name, last.removeprefix("uploads/"))
        content = self.repositories.get(name, Repository()).blobs.get(last)
        if content is None:
            return error(404, "BLOB_UNKNOWN")
        if asked.method == "DELETE":
            return error(405, "UNSUPPORTED")
        if (start := asked.headers.get("range", "").removeprefix("bytes=").rstrip("-")) and asked.method == "GET":
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            return Answer(206, content[int(start) :], headers)
        return Answer(200, content, {"Docker-Content-Digest": last})

    def _upload(self, asked: Asked, name: str, session: str) -> Answer:
        place = f"/v2/{name}/blobs/uploads/"
        if asked.method == "POST":
            mount, origin = asked.query.get("mount"), asked.query.get("from")
            if mount and origin and self.quirks.mount:
                content = self.repositories.get(origin[0], Repository()).blobs.get(mount[0])
                if content is not None:
                    self.repositories.setdefault(name, Repository()).blobs[mount[0]] = content
                    return Answer(201, headers={"Location": f"/v2/{name}/blobs/{mount[0]}"})
            self.sessions += 1
            return Answer(202, headers={"Location": f"{place}{self.sessions}?_state=a%3Db"})
        if asked.method == "PATCH":
            return error(self.quirks.patch, "BLOB_UPLOAD_INVALID")
        if asked.method == "DELETE":
            return Answer(204)
        if asked.method != "PUT" or "_state=a%3Db" not in asked.target:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        digest = asked.query["digest"][0]
        if sha256(asked.body) != digest:
            return error(400, "DIGEST_INVALID")
        self.repositories.setdefault(name, Repository()).blobs[digest] = asked.body
        return Answer(201, headers={"Location": f"/v2/{name}/blobs/{digest}"})

    # ---- manifests

    def _manifests(self, asked: Asked, name: str, reference: str) -> Answer:
        reference = unquote(reference)
        held = self.repositories.get(name, Repository())
        digest = reference if ":" in reference else held.tags.get(reference, "")
        if asked.method == "PUT":
            return self._put(asked, name, reference)
        if asked.method == "DELETE":
            return self._delete(held, reference)
        if asked.method == "GET" and self.quirks.busy > 0:
            self.quirks.busy -= 1
            return Answer(429, b"You have reached your pull rate limit.", {"Retry-After": "0"})
        if digest not in held.manifests:
            return error(404, "MANIFEST_UNKNOWN")
        media_type, body = held.manifests[digest]
        limits = (
            {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "98;w=21600"} if self.quirks.busy == 0 else {}
        )
        return Answer(200, body, {"Content-Type": media_type, "Docker-Content-Digest": digest, **limits})

    def _put(self, asked: Asked, name: str, reference: str) -> Answer:
        held = self.repositories.setdefault(name, Repository())
        document, digest = json.loads(asked.body), sha256(asked.body)
        needed = [item["digest"] for item in [document.get("config"), *document.get("layers", [])] if item]
        children = [item["digest"] for item in document.get("manifests", [])]
        if [d for d in needed if d not in held.blobs] + [d for d in children if d not in held.manifests]:
            return error(404, "MANIFEST_BLOB_UNKNOWN")
        if ":" not in reference and self.quirks.immutable and reference in held.tags:
            return error(400, "TAG_INVALID", "The image tag already exists and cannot be overwritten: it is immutable.")
        held.manifests[digest] = (asked.headers["content-type"], asked.body)
        if ":" not in reference:
            held.tags[reference] = digest
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        subject = document.get("subject", {}).get("digest")
        if subject and self.quirks.subject:
            headers["OCI-Subject"] = subject
        return Answer(201, headers=headers)

    def _delete(self, held: Repository, reference: str) -> Answer:
        if ":" not in reference:
            if self.quirks.tag_delete != 202:
                return error(self.quirks.tag_delete, "UNSUPPORTED")
            return Answer(202) if held.tags.pop(reference, None) else error(404, "MANIFEST_UNKNOWN")
        tagged = [tag for tag, digest in held.tags.items() if digest == reference]
        if self.quirks.content_delete == "tagged":
            if tagged:
                return error(400, "GOOGLE_MANIFEST_DANGLING_TAG")
        elif self.quirks.content_delete != 202:
            return error(int(self.quirks.content_delete), "UNSUPPORTED")
        return Answer(202) if self.forget(held, reference) else error(404, "MANIFEST_UNKNOWN")

    def forget(self, held: Repository, digest: str) -> bool:
        """Remove a manifest with its tags."""
        for tag in [tag for tag, found in held.tags.items() if found == digest]:
            del held.tags[tag]
        return held.manifests.pop(digest, None) is not None


def error(status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message or code.lower()}]}).encode()
    return Answer(status, body, {"Content-Type": "application/json", **(headers or {})})


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
