"""What stays in a repository of Amazon ECR, and what goes? Its lifecycle policies, and previews of them.

A policy belongs to one repository, and ECR carries it out by itself, within 24 hours. ECR counts signatures and the
children of an index as images too, so our rule looks at tags that are versions only (`*.*.*`); rules of others stay.
https://docs.aws.amazon.com/AmazonECR/latest/userguide/lifecycle_policy_parameters.html
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from berth.adapters.registries.contract import Expiring, Retained
from berth.errors import Conflict, RemoteError
from berth.wire.parallel import each

OURS: Final = "berth: the newest versions stay"
VERSIONS: Final = "*.*.*"
PREVIEW_SECONDS: Final = 45.0
_EVERY_SECONDS: Final = 1.0
_AT_ONCE: Final = 4

Rule = Mapping[str, Any]


def rules_of(text: str | None) -> list[Rule]:
    """The rules of a policy in their order. Raises RemoteError when it is unreadable."""
    if text is None:
        return []
    try:
        rules = json.loads(text)["rules"]
        return sorted((dict(rule) for rule in rules), key=lambda rule: int(rule["rulePriority"]))
    except (ValueError, TypeError, KeyError) as error:
        raise RemoteError("A lifecycle policy of ECR is unreadable.") from error


def newest_of(rules: Sequence[Rule]) -> int | None:
    """How many of the newest versions our own rule keeps, None without one."""
    selection = next((rule.get("selection") for rule in rules if rule.get("description") == OURS), None)
    count = selection.get("countNumber") if isinstance(selection, Mapping) else None
    return count if isinstance(count, int) else None


def with_newest(rules: Sequence[Rule], count: int) -> str:
    """A policy in which the newest `count` versions stay. Our rule comes first: one for any tag has to be the last."""
    ours = {
        "description": OURS,
        "selection": {
            "tagStatus": "tagged",
            "tagPatternList": [VERSIONS],
            "countType": "imageCountMoreThan",
            "countNumber": count,
        },
        "action": {"type": "expire"},
    }
    ordered = [ours, *(rule for rule in rules if rule.get("description") != OURS)]
    return json.dumps({"rules": [{**rule, "rulePriority": number} for number, rule in enumerate(ordered, 1)]})


def in_words(rule: Rule) -> str:
    """A rule in a line."""
    selection = rule.get("selection") or {}
    tags = selection.get("tagPatternList") or selection.get("tagPrefixList") or []
    what = " ".join([str(selection.get("tagStatus")), *map(str, tags)])
    unit = f" {selection['countUnit']}" if selection.get("countUnit") else ""
    action = (rule.get("action") or {}).get("type")
    return f"{action} {what}: {selection.get('countType')} {selection.get('countNumber')}{unit}"


class EcrRetention:
    """Lifecycle policies of single repositories, by their names there.

    Args:
        call: one call of AWS's API, as `EcrRegistry` makes it.
    """

    def __init__(
        self,
        call: Callable[..., Awaitable[dict[str, Any]]],
        *,
        patience: float = PREVIEW_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._call = call
        self._patience = patience
        self._sleep = sleep

    async def policy(self, name: str) -> list[Rule]:
        try:
            found = await self._call("get_lifecycle_policy", repositoryName=name)
        except RemoteError as error:
            if error.detail.get("code") == "LifecyclePolicyNotFoundException":
                return []
            raise
        return rules_of(found.get("lifecyclePolicyText"))

    async def shown(self, name: str) -> Retained:
        rules = await self.policy(name)
        words = tuple(in_words(rule) for rule in rules)
        return Retained(name, newest_of(rules), "within 24 hours" if rules else None, words)

    async def retain(self, names: Sequence[str], count: int, *, dry_run: bool) -> tuple[list[str], list[Expiring]]:
        """What was changed, and what each new policy removes; AWS is asked for all of that before one is set."""
        deadline = time.monotonic() + self._patience

        async def looked(name: str) -> tuple[str | None, str, Expiring]:
            rules = await self.policy(name)
            before, text = newest_of(rules), with_newest(rules, count)
            kept = before if before is not None else "by other rules" if rules else "everything"
            change = f"{name}: kept: {kept} → {count}" if before != count else None
            return change, text, await self._preview(name, text, deadline)

        found = await each(names, looked, at_once=_AT_ONCE)
        if not dry_run:
            for name, (change, text, _) in zip(names, found, strict=True):
                if change is not None:
                    await self._call("put_lifecycle_policy", repositoryName=name, lifecyclePolicyText=text)
        return [change for change, _, _ in found if change is not None], [expiring for _, _, expiring in found]

    async def _preview(self, name: str, text: str, deadline: float) -> Expiring:
        """What a policy would remove; `count` None while AWS is not ready."""
        try:
            await self._call("start_lifecycle_policy_preview", repositoryName=name, lifecyclePolicyText=text)
        except RemoteError as error:
            if error.detail.get("code") != "LifecyclePolicyPreviewInProgressException":
                raise
        while True:
            found = await self._call("get_lifecycle_policy_preview", repositoryName=name, maxResults=100)
            if rules_of(found.get("lifecyclePolicyText")) != rules_of(text):
                raise Conflict(f"AWS previews another policy of {name} just now.", hint="Try again in a minute.")
            status = found.get("status")
            if status == "COMPLETE":
                break
            if status != "IN_PROGRESS":
                raise RemoteError(f"AWS could not preview the lifecycle policy of {name} ({status}).")
            if time.monotonic() >= deadline:
                return Expiring(name, None)
            await self._sleep(_EVERY_SECONDS)
        total = (found.get("summary") or {}).get("expiringImageTotalCount")
        first = found.get("previewResults") or []
        tags = sorted(tag for image in first for tag in image.get("imageTags") or [])
        return Expiring(name, int(total) if total is not None else len(first), tuple(tags))
