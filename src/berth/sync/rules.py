"""How is a rule written and read? Its terms as JSON, checked; its schedule as cron in UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any, Final, cast

from croniter import CroniterError, croniter  # type: ignore[import-untyped]

from berth.errors import InvalidInput, NameInvalid
from berth.oci.reference import check_project
from berth.oci.version import SemVer, matches
from berth.sync.flow import Limits
from berth.wire.plan import DELETE_POLICIES, DIRECTIONS, DeletePolicy, Direction, Terms, Window

# Names of places that no table holds: our own store, and (for the machine's administrator) a folder.
DEPOT: Final = "depot"
FOLDER: Final = "folder:"

_RULE_NAME: Final = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_FIELDS: Final = frozenset(
    {"model", "target_project", "labels", "range", "alias", "direction", "only_higher", "only_admitted"}
    | {"all_tags", "delete", "window", "parallel_blobs", "bytes_per_second"}
)
MAX_PARALLEL: Final = 32


@dataclass(frozen=True)
class Rule:
    """One rule as it is stored; `terms` is what `read_terms` reads.

    Attributes:
        project: what is copied, by its name at the source.
        owner: the project of this service on either side, whose maintainers may change the rule; None = only admins.
    """

    id: int
    name: str
    project: str
    project_id: int | None
    owner: str | None
    source: str
    target: str
    terms: Mapping[str, Any]
    schedule: str | None
    next_run_at: datetime | None
    on_admission: bool
    enabled: bool
    created_by: str
    created_at: datetime
    on_event: bool = False


def check_name(name: str) -> None:
    """Raises NameInvalid unless a rule may be called so."""
    if len(name) > 128 or _RULE_NAME.fullmatch(name) is None:
        raise NameInvalid(f"'{name[:128]}' is no name for a rule.", hint="Use a-z, 0-9 and single . _ - inside.")


def normal_terms(terms: Mapping[str, Any], *, source: str, target: str) -> dict[str, Any]:
    """The terms of a new rule, complete and checked: what is said plus what follows from source and target.

    Raises:
        InvalidInput: an unknown field, a wrong value, or a combination without meaning.
    """
    unknown = sorted(set(terms) - _FIELDS)
    if unknown:
        raise InvalidInput(f"A rule has no field {unknown[0]!r}.", hint=f"Fields are: {', '.join(sorted(_FIELDS))}.")
    if source == target and not terms.get("target_project"):
        raise InvalidInput("Source and target are the same place.", hint="Name another registry or target project.")
    for place in (source, target):
        if place.startswith(FOLDER):
            raise InvalidInput("A rule names registries, not folders.", hint="berth registry add NAME --kind folder")
    direction = terms.get("direction") or ("push" if source == DEPOT else "pull" if target == DEPOT else "mirror")
    if direction == "push" and source != DEPOT:
        raise InvalidInput("A push starts from the depot.", hint="Use --direction mirror between two registries.")
    if direction == "pull" and target != DEPOT:
        raise InvalidInput("A pull ends in the depot.", hint="Use --direction mirror between two registries.")
    given = {key: value for key, value in terms.items() if value is not None and value not in ("", {}, False)}
    document = {**given, "direction": direction}
    read = read_terms(document, project="any")
    if read.delete != "never" and read.direction != "mirror":
        raise InvalidInput("Only a mirror removes what its source no longer has.", hint="Add --direction mirror.")
    if read.all_tags and (read.range or read.only_higher):
        raise InvalidInput(
            "Tags that are no versions have no order and lie in no range.", hint="Leave one of them out."
        )
    limits_of(document)
    return document


def read_terms(document: Mapping[str, Any], *, project: str) -> Terms:
    """What a stored rule asks for. Raises InvalidInput where it cannot be understood."""
    target_project = _text(document, "target_project")
    if target_project is not None:
        check_project(target_project)
    labels = document.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in labels.items()):
        raise InvalidInput("Labels are names with text values.")
    wanted = _text(document, "range")
    if wanted is not None:
        matches(wanted, SemVer(0, 0, 0))  # says what is wrong with it
    return Terms(
        project=project,
        target_project=target_project,
        model=_text(document, "model") or "*",
        labels=labels,
        range=wanted,
        alias=_text(document, "alias"),
        direction=cast(Direction, _choice(document, "direction", DIRECTIONS, "mirror")),
        only_higher=bool(document.get("only_higher")),
        only_admitted=bool(document.get("only_admitted")),
        all_tags=bool(document.get("all_tags")),
        delete=cast(DeletePolicy, _choice(document, "delete", DELETE_POLICIES, "never")),
        window=_window(_text(document, "window")),
    )


def limits_of(document: Mapping[str, Any]) -> Limits:
    """How much a rule may move at once. Raises InvalidInput."""
    parallel = document.get("parallel_blobs") or Limits.blobs
    rate = document.get("bytes_per_second")
    if not isinstance(parallel, int) or not 1 <= parallel <= MAX_PARALLEL:
        raise InvalidInput(f"Between 1 and {MAX_PARALLEL} blobs move at once.")
    if rate is not None and (not isinstance(rate, int) or rate < 1):
        raise InvalidInput("A bandwidth is a whole number of bytes per second, at least 1.")
    return Limits(blobs=parallel, bytes_per_second=rate)


def next_time(schedule: str, now: datetime) -> datetime:
    """When a schedule is due next after `now`, in UTC.

    Raises:
        InvalidInput: it is not five fields of cron.
    """
    if len(schedule.split()) != 5 or not croniter.is_valid(schedule):
        raise InvalidInput(
            f"'{schedule[:100]}' is no schedule.", hint="Write minute hour day month weekday, e.g. '0 3 * * *'."
        )
    try:
        due: datetime = croniter(schedule, now.astimezone(UTC)).get_next(datetime)
    except CroniterError as error:
        raise InvalidInput(f"The schedule '{schedule[:100]}' is never due.") from error
    return due


def _window(text: str | None) -> Window | None:
    if text is None:
        return None
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise InvalidInput(f"'{text[:50]}' is no window.", hint="Write it as 22:00-06:00 (UTC).")
    hours = [int(part) for part in match.groups()]
    return Window(time(hours[0], hours[1]), time(hours[2], hours[3]))


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"'{name}' is text.")
    return value or None


def _choice(document: Mapping[str, Any], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = document.get(name) or default
    if value not in allowed:
        raise InvalidInput(f"'{name}' is one of {', '.join(allowed)}, not {str(value)[:50]!r}.")
    return str(value)
