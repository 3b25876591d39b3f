"""Which version does a person mean? Reads `[registry/]project/model[:ref][@digest]` as typed in the programs.

`ref` is what the REST API takes: a semantic version, an alias, `latest`, or a range such as `^1.2` (design §6).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from berth.errors import NameInvalid
from berth.oci import digest as digests
from berth.oci.reference import ModelName, check_model, check_project


@dataclass(frozen=True)
class Address:
    """A model on a service and, perhaps, one of its versions."""

    project: str
    model: str
    ref: str | None = None
    registry: str | None = None

    @property
    def name(self) -> ModelName:
        return ModelName(self.project, self.model)

    @property
    def repository(self) -> str:
        return f"{self.project}/{self.model}"

    def __str__(self) -> str:
        if self.ref is None:
            return self.repository
        return f"{self.repository}{'@' if digests.is_digest(self.ref) else ':'}{self.ref}"


def parse(text: str) -> Address:
    """Reads a reference; a digest wins over a version.

    Raises NameInvalid (naming what to change) or DigestInvalid.
    """
    rest, at, digest = text.partition("@")
    if at:
        digests.parse(digest)
    head, slash, last = rest.rpartition("/")
    last, colon, ref = last.partition(":")
    parts = [*head.split("/"), last] if slash else [last]
    if len(parts) not in (2, 3) or not all(parts) or (colon and not ref):
        raise NameInvalid(
            f"{text!r} does not name a model.", hint="Write project/model or project/model:version, e.g. ml/demo:1.0.0."
        )
    registry = parts[0] if len(parts) == 3 else None
    check_project(parts[-2])
    check_model(parts[-1])
    return Address(project=parts[-2], model=parts[-1], ref=(digest or ref) or None, registry=registry)


def parse_version(text: str, *, default: str | None = None) -> tuple[Address, str]:
    """Like `parse`, for commands that need one version; returns it too. Without one, `default` or NameInvalid."""
    address = parse(text)
    ref = address.ref or default
    if ref is None:
        raise NameInvalid(f"{text!r} names no version.", hint=f"Write {text}:1.0.0, {text}:latest or {text}@sha256:….")
    return Address(address.project, address.model, ref, address.registry), ref


def path(*segments: str) -> str:
    """A path below /api/v1 from segments that may hold any character."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)
