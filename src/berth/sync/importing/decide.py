"""Which tags of a registry become versions here? Facts in, items with reasons out; nothing known is ever changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from berth.oci import referrers
from berth.oci.version import from_tag, is_version_tag
from berth.wire.plan import Item


@dataclass(frozen=True)
class Known:
    """A version number that was received here.

    Attributes:
        deleted: it was removed on purpose; its number stays taken.
        placed: it is known to be at this registry too.
    """

    digest: str
    deleted: bool
    placed: bool


@dataclass(frozen=True)
class Scope:
    """What an import looks through. `repository` is a glob over project/name."""

    project: str | None = None
    repository: str = "*"

    def holds(self, name: str) -> bool:
        """Whether it is about this repository."""
        if name.count("/") != 1 or not fnmatchcase(name, self.repository):
            return False
        return self.project is None or name.startswith(f"{self.project}/")


def is_of_interest(tag: str) -> bool:
    """Signatures and lists of referrers come along with what they are about."""
    return referrers.subject_of_tag(tag) is None and not tag.startswith("sha256-")


def without_project(repository: str) -> Item:
    """The repository belongs to no project of ours."""
    project = repository.partition("/")[0]
    return _item(
        "skip", repository, "*", None, None, "no_project", f"There is no project '{project}' here: create it first."
    )


def decide(repository: str, tag: str, digest: str | None, known: Mapping[str, Known], aliases: frozenset[str]) -> Item:
    """What becomes of one tag. `known` is by version number, `digest` what the tag means there."""
    if not is_version_tag(tag):
        return _item("skip", repository, tag, digest, None, "not_a_version", "The tag is no semantic version.")
    if tag in aliases:
        return _item("skip", repository, tag, digest, None, "alias", "An alias here is called so.")
    if digest is None:
        return _item("skip", repository, tag, None, None, "gone", "The tag has just gone.")
    ours = known.get(from_tag(tag))
    if ours is None:
        return _item("import", repository, tag, digest, None, "new", "It is not known here yet.")
    if ours.digest != digest:
        reason = f"It is {ours.digest} here; a version never changes, so the one there is left alone."
        return _item("conflict", repository, tag, digest, ours.digest, "other_digest", reason)
    if ours.deleted:
        return _item("skip", repository, tag, digest, digest, "deleted", "It was deleted here and does not come back.")
    if ours.placed:
        return _item("skip", repository, tag, digest, digest, "known", "It is known to be there.")
    return _item("import", repository, tag, digest, digest, "also_there", "It is here, and will be known to be there.")


def _item(action: str, repository: str, tag: str, digest: str | None, ours: str | None, code: str, reason: str) -> Item:
    return Item(action, repository, repository, tag, digest, ours, code, reason)  # type: ignore[arg-type]
