"""How is a thing named? Repositories, projects, models, tags and whole references (OCI distribution-spec "Pull")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from berth.errors import BerthError, NameInvalid
from berth.oci import digest as digests
from berth.oci import version as versions

MAX_REPOSITORY = 255
MAX_NAME = 128

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_FORM = "Write [registry/]project/name[:version][@digest]."


def check_repository(name: str) -> None:
    """Check a repository path by the grammar of the distribution specification.

    Raises:
        NameInvalid: malformed or longer than 255 characters.
    """
    if len(name) > MAX_REPOSITORY or _REPOSITORY.fullmatch(name) is None:
        raise NameInvalid(
            f"{name[:80]!r} is not a repository name.",
            hint="Use lower-case letters, digits and single . _ - between them; parts are separated by /.",
        )


def check_project(name: str) -> None:
    """Check the name of a project; raises NameInvalid."""
    _check_name(name, "project")


def check_model(name: str) -> None:
    """Check the name of a model within its project; raises NameInvalid."""
    _check_name(name, "model")


def check_tag(tag: str) -> None:
    """Check a tag by the grammar of the distribution specification.

    Raises:
        NameInvalid: with the mapped tag as hint when a version's `+` was written.
    """
    if _TAG.fullmatch(tag) is None:
        raise NameInvalid(
            f"{tag[:140]!r} is not a tag.",
            hint="Use 1 to 128 letters, digits, . _ - (a version's + is written _ in a tag).",
        )


@dataclass(frozen=True, slots=True)
class ModelName:
    """`project/name`, both checked."""

    project: str
    name: str

    def __post_init__(self) -> None:
        check_project(self.project)
        check_model(self.name)

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read `project/name`; raises NameInvalid."""
        project, slash, name = text.partition("/")
        if not slash or "/" in name:
            raise NameInvalid(f"{text[:80]!r} is not the name of a model.", hint="Write project/name.")
        return cls(project, name)

    def __str__(self) -> str:
        return f"{self.project}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """Where something is: `registry` is a host or the name of a configured registry, `tag` is in its wire form."""

    registry: str | None
    project: str
    name: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `[registry/]project/name[:version|:tag][@digest]`; a version's `+` becomes `_` in `tag`.

        Raises:
            NameInvalid: the form, a name or the tag is wrong.
            DigestInvalid: the digest is.
        """
        rest, at, digest = text.partition("@")
        head, slash, last = rest.rpartition("/")
        name, colon, tag = last.partition(":")
        parts = head.split("/")
        if not slash or len(parts) > 2:
            raise NameInvalid(f"{text[:300]!r} does not name a model.", hint=_FORM)
        registry = parts[0] if len(parts) == 2 else None
        if registry is not None and _REGISTRY.fullmatch(registry) is None:
            raise NameInvalid(f"{registry[:80]!r} is not a registry.", hint=_FORM)
        check_project(parts[-1])
        check_model(name)
        if at:
            digests.parse(digest)
        return cls(registry, parts[-1], name, _wire_tag(tag) if colon else None, digest if at else None)

    @property
    def repository(self) -> str:
        """`project/name`."""
        return f"{self.project}/{self.name}"

    @property
    def model(self) -> ModelName:
        """Project and name as a value of their own."""
        return ModelName(self.project, self.name)

    @property
    def version(self) -> str | None:
        """The semantic version the tag stands for, or None."""
        if self.tag is None or not versions.is_version_tag(self.tag):
            return None
        return versions.from_tag(self.tag)

    def __str__(self) -> str:
        text = f"{self.registry}/{self.repository}" if self.registry else self.repository
        if self.tag is not None:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest is not None else text


def _check_name(name: str, what: str) -> None:
    if len(name) > MAX_NAME or _NAME.fullmatch(name) is None:
        raise NameInvalid(
            f"{name[:80]!r} is not the name of a {what}.",
            hint=f"Use at most {MAX_NAME} lower-case letters and digits, with single . _ - between them.",
        )


def _wire_tag(text: str) -> str:
    if "+" in text:
        try:
            return versions.to_tag(text)
        except BerthError as error:
            raise NameInvalid(f"{text[:140]!r} is neither a tag nor a version.", hint=error.hint) from None
    check_tag(text)
    return text
