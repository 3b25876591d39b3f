"""A Docker or Podman daemon, for runnable images going in and out (moby's Engine API 1.41, which Podman speaks too).

It repacks: no manifests, no evidence, no weights beside an image. What it holds is compared by the image's config,
whose digest is the image's id. So it is never a home or a source of transparent reads (docs/decisions/0020).
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar, Final
from urllib.parse import quote

import httpx

from berth.adapters.registries import daemon_http, docker_archive
from berth.adapters.registries.contract import (
    Capabilities,
    Health,
    ImageChoice,
    Kind,
    Page,
    RegistrySettings,
    Stat,
    WholeImage,
)
from berth.adapters.registries.distribution import capabilities_of
from berth.errors import Conflict, IntegrityError, InvalidInput, NotFound, RemoteError, Unsupported
from berth.oci import digest as digests
from berth.oci import media_types as types
from berth.oci import reference as references
from berth.oci.descriptor import Descriptor
from berth.oci.documents import loads

API: Final = (1, 41)
ANSWER_LIMIT: Final = 64 << 20
_PREFIX: Final = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*(?::\d{1,5})?(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
# What Podman and Docker put before a name without a host.
_IMPLIED: Final = ("localhost/", "docker.io/")
_PROBLEM: Final = "A container daemon keeps whole images, neither manifests nor single blobs."
_NEXT: Final = "Let a sync rule or `berth sync run` bring versions in and out; take blobs from the depot."


class _Refused(RemoteError):
    """The daemon itself says no, other than a source that fails while it is read for the daemon."""


class DaemonRegistry:
    """A `Registry` (and `Repacking`) over a daemon's socket."""

    KIND: ClassVar[Kind] = Kind(
        "daemon",
        "A Docker or Podman daemon: images in and out, repacked",
        Capabilities(
            referrers=False, mount=False, repacks=True, oci_subject=False, last_tag_takes_content=True,
        ),
        {
            "prefix": "What stands before project/model in the daemon's names, e.g. berth.example:8443.",
            "bundle": "true: of a version that has one, the image that holds its weights.",
            "ca_file": "File on Berth's machine with the certificates (PEM) to trust.",
            "cert_file": "File on Berth's machine with our own certificate (PEM).",
            "key_file": "File on Berth's machine with the key of our certificate (PEM).",
            "insecure": "true: tcp:// without TLS is allowed.",
            "allow_private": "true: a name that leads to a private address is allowed.",
            "capabilities": "What it can do, over what a probe found.",
        },
    )  # fmt: skip

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self.capabilities = replace(capabilities_of(self.KIND, settings), repacks=True)
        self._prefix = settings.text("prefix") or ""
        self._http = daemon_http.client(settings)
        self._version: Mapping[str, Any] | None = None

    @classmethod
    def check(cls, settings: RegistrySettings) -> None:
        """Raises InvalidInput for settings that cannot work. Asks nobody."""
        if settings.secret is not None:
            raise InvalidInput("A daemon takes no password.", hint="Use a certificate: cert_file and key_file.")
        prefix = settings.text("prefix")
        if prefix is not None and (len(prefix) > 200 or _PREFIX.fullmatch(prefix) is None):
            raise InvalidInput(f"{prefix[:80]!r} cannot stand before a name.", hint="Write host[:port][/path].")
        if (settings.text("cert_file") is None) != (settings.text("key_file") is None):
            raise InvalidInput("A certificate needs its key.", hint="Give cert_file and key_file.")
        daemon_http.address(settings)

    # ---- lists

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        return _page(sorted({repository for repository, _ in await self._named()}), after, limit)

    async def tags(self, repository: str, *, after: str | None = None, limit: int = 100) -> Page[str]:
        return _page(sorted(tag for name, tag in await self._named() if name == repository), after, limit)

    async def stat(self, repository: str, reference: str) -> Stat | None:
        """The image that a tag means; its digest is the image's id."""
        for (name, tag), image in (await self._named()).items():
            if name == repository and reference in (tag, image["Id"]):
                return Stat(str(image["Id"]), types.OCI_CONFIG, int(image.get("Size") or 0))
        return None

    async def referrers(self, repository: str, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
        return []

    # ---- whole images

    async def choice(self) -> ImageChoice:
        version = await self._about()
        return ImageChoice(str(version["Os"]), str(version["Arch"]), bundle=self.settings.flag("bundle"))

    async def holds(self, repository: str, tag: str, config: bytes) -> bool:
        name = await self._full_name(repository, tag)
        if name is None:
            return False
        found = await self._json("GET", f"/images/{_quoted(name)}/json", absent=True)
        return isinstance(found, dict) and same_image(found, config)

    async def load(
        self, repository: str, tag: str, image: WholeImage, *, read: Callable[[Descriptor], AsyncIterator[bytes]]
    ) -> None:
        references.check_repository(repository)
        references.check_tag(tag)
        name = f"{self._prefix}/{repository}:{tag}" if self._prefix else f"{repository}:{tag}"
        async with aclosing(docker_archive.written(image, name=name, read=read)) as archive:
            headers = {"Content-Type": "application/x-tar"}
            try:
                async with self._answer("POST", "/images/load?quiet=1", content=archive, headers=headers) as answer:
                    await _read_stream(answer, name)
            except _Refused as error:
                # It has seen the whole image, or all that it wants of it: sending that again changes nothing.
                raise Unsupported(f"The daemon does not take {name}: {error.message}") from error
        if not await self.holds(repository, tag, image.config):
            await self.delete_tag(repository, tag)
            raise IntegrityError(
                f"The daemon showed {name} as another image than it was given; the name was taken away again.",
                detail={"image": digests.of_bytes(image.config)},
            )

    async def save(
        self, repository: str, tag: str, *, keep: Callable[[int, AsyncIterator[bytes]], Awaitable[str]]
    ) -> WholeImage:
        name = await self._full_name(repository, tag)
        if name is None:
            raise NotFound(f"The daemon has no image {repository}:{tag}.")
        async with self._answer("GET", f"/images/{_quoted(name)}/get") as answer:
            return await docker_archive.unpacked(_bytes_of(answer), name=name, keep=keep)

    # ---- removing

    async def delete_tag(self, repository: str, tag: str) -> bool:
        """Takes a name away; with an image's last name the image goes. Raises Conflict while a container uses it."""
        references.check_tag(tag)
        name = await self._full_name(repository, tag)
        return name is not None and await self._json("DELETE", f"/images/{_quoted(name)}", absent=True) is not None

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        """DESTRUCTIVE: take every name that this repository has for an image id."""
        tags = [
            tag for (name, tag), image in (await self._named()).items() if name == repository and image["Id"] == digest
        ]
        gone = [await self.delete_tag(repository, tag) for tag in tags]
        return any(gone)

    # ---- what a daemon does not have

    async def manifest(self, repository: str, digest: str) -> bytes:
        raise Unsupported(_PROBLEM, hint=_NEXT)

    async def blob_size(self, repository: str, digest: str) -> int | None:
        raise Unsupported(_PROBLEM, hint=_NEXT)

    def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        raise Unsupported(_PROBLEM, hint=_NEXT)

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        return False

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        raise Unsupported(_PROBLEM, hint=_NEXT)

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        raise Unsupported(_PROBLEM, hint=_NEXT)

    # ---- the rest

    async def probe(self, repository: str | None = None) -> Capabilities:
        """What answers there. Nothing is written, with a repository or without."""
        version = await self._about()
        await self._named()
        notes = (
            f"{_engine(version)}, {version['Os']}/{version['Arch']}",
            "images are repacked: signatures, reports and weights stay in the depot",
        )
        return replace(self.capabilities, notes=notes)

    async def health(self) -> Health:
        """Its version, which it tells to whoever may use it at all."""
        version = await self._about()
        return Health(healthy=True, components={"daemon": "healthy"}, version=_engine(version))

    async def close(self) -> None:
        await self._http.aclose()

    # ---- inside

    async def _named(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(repository, tag) → image, of every name that can be one of ours. A name without a host goes first."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        images = await self._json("GET", "/images/json")
        if not isinstance(images, list):
            raise RemoteError("The daemon's list of images cannot be read.")
        for image in images:
            for full in image.get("RepoTags") or []:
                name = self._inward(str(full))
                if name is not None and (name not in found or full.startswith(_IMPLIED[0])):
                    found[name] = {**image, "name": full}
        return found

    def _inward(self, full: str) -> tuple[str, str] | None:
        name, _, tag = full.rpartition(":")
        if self._prefix:
            if not name.startswith(f"{self._prefix}/"):
                return None
            name = name[len(self._prefix) + 1 :]
        else:
            for implied in _IMPLIED:
                name = name.removeprefix(implied)
        try:
            references.ModelName.parse(name)
            references.check_tag(tag)
        except InvalidInput:
            return None
        return (name, tag)

    async def _full_name(self, repository: str, tag: str) -> str | None:
        image = (await self._named()).get((repository, tag))
        return None if image is None else str(image["name"])

    async def _about(self) -> Mapping[str, Any]:
        if self._version is None:
            # The one address that needs no version of the interface.
            found = await self._json("GET", "/version", versioned=False)
            if not isinstance(found, dict) or not all(found.get(key) for key in ("ApiVersion", "Os", "Arch")):
                raise RemoteError(f"{self.settings.url} does not answer like a container daemon.")
            self._version = found
        return self._version

    async def _base(self) -> str:
        theirs = str((await self._about())["ApiVersion"])
        numbers = tuple(int(part) for part in theirs.split(".")) if re.fullmatch(r"\d+\.\d+", theirs) else API
        return f"/v{'.'.join(map(str, min(API, numbers)))}"

    async def _json(self, method: str, path: str, *, absent: bool = False, versioned: bool = True) -> Any:
        async with self._answer(method, path, absent=absent, versioned=versioned) as answer:
            if answer.status_code == 404:
                return None
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > ANSWER_LIMIT:
                    raise RemoteError("The daemon answers far too much.")
            return loads(bytes(body), max_bytes=ANSWER_LIMIT, what="The daemon's answer")

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        absent: bool = False,
        versioned: bool = True,
        content: AsyncGenerator[bytes, None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        base = await self._base() if versioned else ""
        try:
            async with self._http.stream(method, base + path, content=content, headers=headers) as answer:
                if answer.status_code >= 400 and not (absent and answer.status_code == 404):
                    raise _error(answer.status_code, await answer.aread())
                yield answer
        except (httpx.TransportError, ssl.SSLError) as error:  # of an alert httpx makes no error of its own
            raise daemon_http.failure(error, self.settings.url) from error


def _engine(version: Mapping[str, Any]) -> str:
    name = next((str(part.get("Name")) for part in version.get("Components") or [] if part.get("Name")), "daemon")
    return f"{name} {version.get('Version')}, API {version.get('ApiVersion')}"


def same_image(inspected: Mapping[str, Any], config: bytes) -> bool:
    """Whether what a daemon tells about an image is the image with this config.

    With Docker's classic store and with Podman its id is the config's digest. Docker's containerd store has ids of
    manifests that it wrote itself: there the layers and what they are run with have to agree.
    """
    if inspected.get("Id") == digests.of_bytes(config):
        return True
    document = loads(config, max_bytes=ANSWER_LIMIT, what="The image's config")
    layers = document.get("rootfs", {}).get("diff_ids") if isinstance(document, dict) else None
    if not layers or inspected.get("RootFS", {}).get("Layers") != layers or not inspected.get("Descriptor"):
        return False
    ours, theirs = document.get("config") or {}, inspected.get("Config") or {}
    keys = ("Env", "Cmd", "Entrypoint", "User", "WorkingDir", "Labels", "ExposedPorts", "Volumes", "StopSignal")
    return document.get("architecture") == inspected.get("Architecture") and all(
        (ours.get(key) or None) == (theirs.get(key) or None) for key in keys
    )


async def _read_stream(answer: httpx.Response, name: str) -> None:
    """A daemon answers 200 first and tells in the stream what went wrong."""
    async for line in answer.aiter_lines():
        try:
            said = json.loads(line) if line.strip() else {}
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("error"):
            raise _Refused(f"its answer for {name} is: {str(said['error'])[:300]}")


async def _bytes_of(answer: httpx.Response) -> AsyncIterator[bytes]:
    async for piece in answer.aiter_raw(docker_archive.READ_SIZE):
        yield piece


def _error(status: int, body: bytes) -> Conflict | RemoteError | NotFound:
    try:
        said = json.loads(body)
        text = str(said.get("message") or said) if isinstance(said, dict) else str(said)
    except ValueError:
        text = body[:200].decode("utf-8", "replace")
    text = text.strip()[:300]
    if status == 404:
        return NotFound(f"The daemon says: {text}")
    if status == 409:
        return Conflict(f"The daemon refuses: {text}", hint="End the containers that use the image first.")
    return _Refused(f"The daemon refuses ({status}): {text}", detail={"status": status})


def _quoted(name: str) -> str:
    return quote(name, safe="/:.-_")


def _page(items: list[str], after: str | None, limit: int) -> Page[str]:
    rest = [item for item in items if after is None or item > after]
    return Page(rest[:limit], rest[limit - 1] if len(rest) > limit else None)
