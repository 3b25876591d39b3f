"""What may people edit about a model or version? The overlay: description, labels, links. No policy reads it.

What the manifest declares is inside the digest and cannot be edited (design §6 "Names and versions").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from berth.server.api.operations import Text

Label = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
# http(s) only: links are shown as links.
Link = Annotated[Text, StringConstraints(max_length=2000, pattern=r"^https?://[^\s<>\"]+$")]


class Overlay(BaseModel):
    """Fields that are given replace what was there; null removes."""

    model_config = ConfigDict(extra="forbid")

    description: Text | None = Field(None, max_length=20_000)
    labels: dict[Label, Annotated[Text, StringConstraints(max_length=1000)]] | None = Field(None, max_length=100)
    links: dict[Label, Link] | None = Field(None, max_length=50, description="Title to http(s) address.")


def merged(before: Mapping[str, Any], change: Overlay) -> dict[str, Any]:
    """The overlay after a change."""
    after = {**before, **change.model_dump(exclude_unset=True)}
    return {key: value for key, value in after.items() if value is not None}
