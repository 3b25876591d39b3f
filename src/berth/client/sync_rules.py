"""What does a laptop keep in step? A rule in one line, on the command line or in `XUMI_HOME/sync.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from berth.errors import BerthError, InvalidInput
from berth.oci.reference import check_project
from berth.oci.version import SemVer, matches
from berth.wire.plan import Terms

FILE: Final = "sync.yaml"
LOCAL: Final = "local"
FOLDER: Final = "folder:"
_FIELDS: Final = ("models", "range", "to", "push", "all")
_FORM: Final = "Write PROJECT/MODEL [RANGE] [local | folder:/PATH | http(s)://HOST] [push] [all], e.g. 'ml/* ^1'."


@dataclass(frozen=True)
class SyncRule:
    """One line.

    Attributes:
        models: `project/model`; the model may be a glob.
        range: only versions in it.
        to: `local`, `folder:/path`, or http(s)://host[:port] of a registry.
        push: the reverse: own builds of the local repository that the service lacks.
        all: also versions below the highest one that is there.
    """

    models: str
    range: str | None = None
    to: str = LOCAL
    push: bool = False
    all: bool = False

    def terms(self) -> Terms:
        """The same in the words of the plan."""
        project, _, model = self.models.partition("/")
        return Terms(
            project,
            model=model,
            range=self.range,
            direction="push" if self.push else "pull",
            only_higher=not self.all,
            only_admitted=not self.push,
        )


def check(rule: SyncRule) -> SyncRule:
    """The rule if it can be carried out. Raises InvalidInput or NameInvalid."""
    project, slash, model = rule.models.partition("/")
    if not slash or not model or "/" in model:
        raise InvalidInput(f"{rule.models[:200]!r} names no models.", hint=_FORM)
    check_project(project)
    if rule.range is not None:
        try:
            matches(rule.range, SemVer(1, 0, 0))
        except BerthError as error:
            raise InvalidInput(f"{rule.range[:100]!r} is neither a range nor a place.", hint=_FORM) from error
    if rule.to.startswith(FOLDER):
        if not Path(rule.to.removeprefix(FOLDER)).is_absolute():
            raise InvalidInput(f"{rule.to[:200]!r} does not name an absolute path.", hint="Write folder:/some/path.")
    elif rule.to != LOCAL:
        parts = urlsplit(rule.to)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise InvalidInput(
                f"{rule.to[:200]!r} is no place.", hint="Use local, folder:/path or https://host[:port]."
            )
    if rule.push and rule.to != LOCAL:
        raise InvalidInput("A push goes from the local repository to the service.", hint="Leave out where it goes to.")
    return rule


def read_line(line: str) -> SyncRule:
    """A rule from one line. Raises InvalidInput."""
    first, *words = line.split()
    found: dict[str, Any] = {"models": first}
    for word in words:
        name: str = (
            "to"
            if word == LOCAL or word.startswith((FOLDER, "http://", "https://"))
            else word
            if word in ("push", "all")
            else "range"
        )
        if name in found:
            raise InvalidInput(f"{line[:200]!r} says `{name}` twice.", hint=_FORM)
        found[name] = True if name in ("push", "all") else word
    return check(SyncRule(**found))


def read_file(home: Path) -> list[SyncRule]:
    """The rules of `XUMI_HOME/sync.yaml`, a list of lines or mappings; none when there is no such file.

    Raises:
        InvalidInput: naming the entry that cannot be understood.
    """
    path = home / FILE
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read: {str(error)[:300]}") from error
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidInput(f"{path} is not a list of rules.", hint=f"One a line: - ml/demo ^1. {_FORM}")
    rules = []
    for number, item in enumerate(value, start=1):
        try:
            rules.append(_read(item))
        except BerthError as error:
            raise InvalidInput(f"{path}, rule {number}: {error.message}", hint=error.hint) from error
    return rules


def _read(item: Any) -> SyncRule:
    if isinstance(item, str) and item.strip():
        return read_line(item)
    if not isinstance(item, Mapping) or not isinstance(item.get("models"), str):
        raise InvalidInput("It is neither a line nor a mapping with `models`.", hint=_FORM)
    unknown = [str(key) for key in item if key not in _FIELDS]
    if unknown:
        raise InvalidInput(f"It has no field {unknown[0]!r}.", hint=f"Fields are: {', '.join(_FIELDS)}.")
    for key, kind in (("range", str), ("to", str), ("push", bool), ("all", bool)):
        if key in item and not isinstance(item[key], kind):
            raise InvalidInput(f"`{key}` is not {'true or false' if kind is bool else 'text'}.", hint=_FORM)
    return check(SyncRule(**dict(item)))
