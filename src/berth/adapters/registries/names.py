"""How is `project/name:version` called at another registry, and back? Pure rules per kind (docs/guides/registries.md).

A mapping is reversible: what `outward` writes, `inward` reads back, and nothing else of that registry reads as ours.
Flat names join project and model by `__`, which cannot occur in either (their separators are single).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from berth.errors import NameInvalid, TooLarge
from berth.oci import media_types as types
from berth.oci import reference as references
from berth.oci import version as versions
from berth.oci.descriptor import Descriptor

JOINT = "__"


@dataclass(frozen=True)
class NameRules:
    """What one kind of registry asks of a repository's name.

    Attributes:
        prefix_parts: fewest and most components of the prefix.
        parts: fewest and most components in all; most None = any number.
        length: longest name.
        shape: what the whole name has to match besides the grammar of the distribution specification.
        shape_hint: what that asks, in words.
        what: what the leading components are there, for messages.
    """

    kind: str
    prefix_parts: tuple[int, int] = (0, 8)
    parts: tuple[int, int | None] = (1, None)
    length: int = 255
    shape: re.Pattern[str] | None = None
    shape_hint: str = ""
    what: str = "prefix"


@dataclass(frozen=True)
class Names:
    """The mapping of one configured registry. Raises NameInvalid when the prefix itself breaks the rules."""

    rules: NameRules
    prefix: str = ""
    flat: bool = False

    def __post_init__(self) -> None:
        fewest, most = self.rules.prefix_parts
        count = len(self.prefix.split("/")) if self.prefix else 0
        if self.prefix:
            references.check_repository(self.prefix)
        if not fewest <= count <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise NameInvalid(
                f"The prefix {self.prefix!r} has {count} components; {self.rules.kind} takes {wanted}.",
                hint=f"Set the option prefix to the {self.rules.what}.",
            )

    def outward(self, repository: str) -> str:
        """The name there of `project/name`. Raises NameInvalid when it cannot have one."""
        return _outward(self, repository)

    def inward(self, name: str) -> str | None:
        """The `project/name` that is called `name` there; None for a repository that is none of ours."""
        own = name
        if self.prefix:
            if not name.startswith(f"{self.prefix}/"):
                return None
            own = name[len(self.prefix) + 1 :]
        project, separator, model = own.partition(JOINT if self.flat else "/")
        if not separator:
            return None
        try:
            repository = f"{project}/{model}"
            return repository if self.outward(repository) == name else None
        except NameInvalid:
            return None


# Each request of a sync asks for the same few names.
@lru_cache(maxsize=1024)
def _outward(names: Names, repository: str) -> str:
    model = references.ModelName.parse(repository)
    own = f"{model.project}{JOINT}{model.name}" if names.flat else f"{model.project}/{model.name}"
    name = f"{names.prefix}/{own}" if names.prefix else own
    rules = names.rules
    count = name.count("/") + 1
    fewest, most = rules.parts
    if count < fewest or (most is not None and count > most):
        raise NameInvalid(
            f"{name} has {count} components; {rules.kind} takes {_span(fewest, most)}.",
            hint="Change the option prefix, or set flat to true: project and model become one component.",
        )
    if len(name) > rules.length:
        raise NameInvalid(f"{name[:80]}… has {len(name)} characters; {rules.kind} takes {rules.length}.")
    if rules.shape is not None and rules.shape.fullmatch(name) is None:
        raise NameInvalid(f"{name} is not a name for {rules.kind}.", hint=rules.shape_hint)
    references.check_repository(name)
    return name


@dataclass(frozen=True)
class Limits:
    """Sizes that a registry refuses; None = not known."""

    largest_blob: int | None = None
    largest_manifest: int | None = None

    def check(self, kind: str, content: Iterable[Descriptor]) -> None:
        """Raises TooLarge for the first descriptor that does not fit."""
        for item in content:
            is_manifest = item.media_type in types.MANIFEST_TYPES | types.INDEX_TYPES
            most = self.largest_manifest if is_manifest else self.largest_blob
            if most is not None and item.size > most:
                raise TooLarge(
                    f"{item.digest} has {item.size} bytes; {kind} takes at most {most}.",
                    hint="Split the weights into smaller files, or publish to another registry.",
                    detail={"digest": item.digest, "size": item.size, "largest": most},
                )


def tag_of(version: str) -> str:
    """The tag of a semantic version (`+` is no character of a tag: it becomes `_`)."""
    return versions.to_tag(version)


def version_of(tag: str) -> str | None:
    """The version that a tag stands for; None when it is not a version's tag."""
    return versions.from_tag(tag) if versions.is_version_tag(tag) else None


def _span(fewest: int, most: int | None) -> str:
    if most is None:
        return f"{fewest} or more"
    return f"exactly {fewest}" if fewest == most else f"{fewest} to {most}"


_HARBOR_PROJECT = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*(?:/.*)?")
_LETTER_FIRST = re.compile(r"[a-z].*")
_QUAY = re.compile(r"[a-z0-9][.a-z0-9_-]*(?:/[a-z0-9][.a-z0-9_-]*)*")

# Facts: docs/guides/registries.md.
PLAIN = NameRules("distribution")
RULES = {
    "distribution": PLAIN,
    "berth": NameRules("berth", prefix_parts=(0, 0), parts=(2, 2), what="nothing"),
    "harbor": NameRules(
        "harbor",
        parts=(2, None),
        shape=_HARBOR_PROJECT,
        shape_hint="A Harbor project has single . _ - between its letters and digits.",
        what="Harbor project",
    ),
    "acr": NameRules("acr"),
    "ecr": NameRules(
        "ecr",
        length=256,
        shape=_LETTER_FIRST,
        shape_hint="A name at ECR starts with a letter: set the option prefix.",
        what="leading path",
    ),
    "google": NameRules(
        "google", prefix_parts=(2, 4), parts=(3, None), what="Google project and repository, project/repository"
    ),
    "gitlab": NameRules("gitlab", prefix_parts=(2, 20), parts=(3, None), what="GitLab project with its group"),
    "ghcr": NameRules("ghcr", parts=(2, None), what="owner"),
    "hub": NameRules("hub", prefix_parts=(0, 1), parts=(2, 2), what="namespace"),
    "quay": NameRules(
        "quay",
        parts=(2, None),
        shape=_QUAY,
        shape_hint="Quay takes lower-case letters, digits and . _ -.",
        what="namespace",
    ),
    "zot": NameRules("zot"),
}

_GB = 1000**3
LIMITS = {
    "acr": Limits(200 * 2**30, 4 * 2**20),
    "ecr": Limits(52_000 * 2**20),
    "ghcr": Limits(10 * _GB),
    "quay": Limits(20 * _GB),
    "harbor": Limits(None, 4 * 2**20),
    "zot": Limits(None, 4 * 2**20),
    "distribution": Limits(None, 4 * 2**20),
    "berth": Limits(None, 4 * 2**20),
}
