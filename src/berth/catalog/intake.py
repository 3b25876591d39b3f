"""What does a manifest PUT mean? Pure: the reference and what is known → one `Intake`, or the error to answer with.

Rules of design §6 "Names and versions": only a PUT under a semver tag creates a version; a version number is burnt
once received; aliases cannot be pushed; other tags exist only in `open` projects or belong to evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from berth.errors import Conflict, ManifestInvalid, VersionInvalid, VersionTaken
from berth.oci import referrers
from berth.oci.version import SemVer, from_tag, is_version_tag

Action = Literal["child", "tag", "version", "repeat"]


@dataclass(frozen=True)
class IntakeFacts:
    """What is known before a manifest is recorded.

    Attributes:
        repository: 'project/name'.
        tag: tag of the PUT, None for a PUT by digest.
        digest: digest of the pushed bytes.
        open_project: the project's policy admits everything.
        role: role of the manifest (catalog/classify.py).
        kind: 'model' | 'checkpoint' once fixed, else None.
        version_digest: digest that holds this version number, if it was ever received.
        aliases: names of the repository's aliases.
    """

    repository: str
    tag: str | None
    digest: str
    open_project: bool
    role: str
    kind: str | None
    version_digest: str | None
    aliases: frozenset[str]


@dataclass(frozen=True)
class Intake:
    """What to record. `version` is set for version and repeat; `kind` when this PUT fixes the repository's kind."""

    action: Action
    version: str | None = None
    kind: str | None = None


def decide(facts: IntakeFacts) -> Intake:
    """Say what a manifest PUT does.

    Raises:
        VersionInvalid: the tag is not a semantic version where one is needed.
        VersionTaken: the version was received before with other bytes.
        Conflict: the tag is the name of an alias.
        ManifestInvalid: a checkpoint pushed to a model's repository or the reverse.
    """
    tag = facts.tag
    if tag is None:
        return Intake("child")
    if tag in facts.aliases:
        raise Conflict(
            f"'{tag}' is an alias of {facts.repository}; aliases cannot be pushed.",
            hint=f"Push a version, then move the alias: berth alias set {facts.repository} {tag} VERSION.",
        )
    if referrers.subject_of_tag(tag) is not None:
        return Intake("tag")
    if not is_version_tag(tag):
        if facts.open_project:
            return Intake("tag")
        raise _not_a_version(facts.repository, tag)
    version = from_tag(tag)
    if facts.version_digest is not None:
        if facts.version_digest == facts.digest:
            return Intake("repeat", version=version)
        raise VersionTaken(
            f"{facts.repository}:{version} was received before with other content ({facts.version_digest}); "
            "a version never changes.",
            hint="Push this content under a new version number, for example with 'xumi bump patch'.",
        )
    kind = "checkpoint" if facts.role == "checkpoint" else "model"
    if facts.kind is not None and facts.kind != kind:
        raise ManifestInvalid(
            f"{facts.repository} holds {facts.kind}s; this manifest is a {kind}.",
            hint="Use a repository of its own for checkpoints and for models.",
        )
    return Intake("version", version=version, kind=kind if facts.kind is None else None)


def _not_a_version(repository: str, tag: str) -> VersionInvalid:
    message = f"'{tag}' cannot be a tag of {repository}: versions are semantic versions such as 1.2.0."
    try:
        SemVer.parse(from_tag(tag))
    except VersionInvalid as error:
        return VersionInvalid(message, hint=error.hint or "Push under a tag such as 1.0.0.")
    return VersionInvalid(message, hint="Push under a tag such as 1.0.0.")
