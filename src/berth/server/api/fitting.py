"""/models/fitting: which models run on a machine that looks like this, in all projects that the caller may see?"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Request
from pydantic import BaseModel, Field

from berth.access.decide import Actor, decide
from berth.authoring import fit as fitting
from berth.authoring.fit import Machine
from berth.authoring.fit_described import DEVICE, MAX_DEVICES, described
from berth.catalog.fitting import needs, queries
from berth.catalog.fitting.queries import Found, Place, Wanted
from berth.errors import PaginationInvalid
from berth.server.api.addressed import admitted
from berth.server.api.calls import Call, acting
from berth.server.api.operations import PAGE, Limit, operation, resource

router = resource("models")
# So many verdicts are decided in one request; then the page is handed over shorter than asked for.
MOST_DECISIONS: Final = 200
_CURSOR: Final = re.compile(r"^([a-z0-9._/-]{1,255})(?::([0-9]{1,9}))?$")

Size = Annotated[str | None, Query(max_length=40, description="Bytes, or a size such as 24GiB.", examples=["24GiB"])]
Version = Annotated[str | None, Query(max_length=40, description="Such as 12.4; 0: there is none.")]


class FittingItem(BaseModel):
    """A version and whether it fits. `hardware` is what it declares; sizes in bytes."""

    model: str = Field(examples=["vision/detector"])
    version: str = Field(examples=["1.2.0"])
    digest: str
    number: int
    title: str | None
    verdict: Literal["allow", "deny"]
    fits: bool
    fits_recommended: bool | None = Field(description="Null when the version recommends nothing beyond its minimum.")
    missing: list[str] = Field(description="What the machine lacks of the minimum.")
    hardware: dict[str, Any]
    created_at: datetime


class FittingPage(BaseModel):
    """A page may hold fewer items than asked for; there are more while `next` is not null."""

    items: list[FittingItem]
    next: str | None


@router.get("/models/fitting", **operation("self.browse", "listFittingModels", "List the models that fit a machine"))
async def index(
    request: Request,
    architecture: Annotated[str, Query(max_length=20, description="As OCI writes it.")] = "amd64",
    cpus: Annotated[float | None, Query(gt=0, le=65536, description="Cores that may be used.")] = None,
    cpu_features: Annotated[
        str | None, Query(max_length=8000, description="As /proc/cpuinfo has them, with commas between.")
    ] = None,
    memory: Size = None,
    disk: Size = None,
    gpu: Annotated[
        list[Annotated[str, Field(pattern=DEVICE, max_length=200)]],
        Query(
            max_length=MAX_DEVICES,
            description="VENDOR[:MEMORY[:CAPABILITY[:NAME]]], once for each device; none: it has none.",
            examples=[["nvidia:24GiB:8.6:NVIDIA A10"]],
        ),
    ] = [],  # noqa: B006 - FastAPI copies defaults
    cuda: Version = None,
    rocm: Version = None,
    project: Annotated[str | None, Query(max_length=200, description="Only this project.")] = None,
    every: Annotated[
        bool, Query(description="All versions, not only the highest release of each model that fits.")
    ] = False,
    nearly: Annotated[
        bool,
        Query(
            description="Instead, what does not fit but would with twice the cores, memory, disk, devices and device "
            "memory, and any accelerator runtime."
        ),
    ] = False,
    refused: Annotated[bool, Query(description="Also versions that the gate refuses now.")] = False,
    limit: Limit = PAGE,
    after: Annotated[str | None, Query(max_length=300, description="`next` of the page before.")] = None,
) -> FittingPage:
    """What is left out of the description is not held against a model, except devices: without `gpu` there are none.

    Versions that declare no hardware are not listed. Only admitted versions are, unless `refused` is set.
    """
    runtimes = {name: text for name, text in (("cuda", cuda), ("rocm", rocm)) if text is not None}
    machine = described(
        architecture=architecture,
        cpus=cpus,
        cpu_features=cpu_features,
        memory=memory,
        disk=disk,
        gpus=gpu,
        runtimes=runtimes,
    )
    async with acting(request) as call:
        wanted = Wanted(
            machine,
            nearly=nearly,
            every=every,
            refused=refused,
            project_names=_projects(call.actor, project),
        )
        rows, further = await _page(call, wanted, after=_place(after), limit=limit)
        return FittingPage(items=[_shown(row, machine, fits=not nearly) for row in rows], next=further)


async def _page(call: Call, wanted: Wanted, *, after: Place | None, limit: int) -> tuple[list[Found], str | None]:
    """One page, with every verdict in it decided as of now, and where the next one starts.

    A verdict that no longer counts is decided here. Where that refuses the version of a model that was to be shown, a
    lower one may take its place, so the page is read again from behind it.
    """
    done: list[Found] = []
    decided = 0
    further: Place | None = None
    while True:
        rows, further = await queries.find(call.conn, wanted, now=call.now, after=after, limit=limit - len(done))
        for row in rows:
            let_out = row.admitted
            if let_out is None:
                decided += 1
                let_out = await admitted(call, row.repository_id, row.digest)
            if not let_out and not wanted.refused:
                further = Place(row.model, row.number)
                break
            done.append(replace(row, admitted=let_out))
        if further is None or len(done) == limit or decided >= MOST_DECISIONS or not rows:
            return done, None if further is None else _written(further)
        after = further


def _written(place: Place) -> str:
    return place.model if place.number is None else f"{place.model}:{place.number}"


def _place(after: str | None) -> Place | None:
    if after is None:
        return None
    found = _CURSOR.match(after)
    if found is None:
        raise PaginationInvalid("The cursor `after` is not one that a list answered.", hint="Start without `after`.")
    return Place(found[1], None if found[2] is None else int(found[2]))


def _projects(actor: Actor, project: str | None) -> list[str] | None:
    """Names of the projects whose models the caller may read; None: all. Others are as if unknown."""
    if decide(actor, "model.read", None).allowed:
        return None if project is None else [project]
    held = [actor.token_project] if actor.scoped else list(actor.roles)
    return [
        name
        for name in held
        if name is not None and project in (None, name) and decide(actor, "model.read", name).allowed
    ]


def _shown(row: Found, machine: Machine, *, fits: bool) -> FittingItem:
    hardware = needs.hardware_of(row.declared)
    found = None if hardware is None else fitting.compare(hardware, machine)
    xumi = row.declared.get("xumi", {})
    return FittingItem(
        model=row.model,
        version=row.version,
        digest=row.digest,
        number=row.number,
        title=xumi.get("title") or row.declared.get("title"),
        verdict="allow" if row.admitted else "deny",
        fits=fits,
        fits_recommended=None if found is None or hardware is None or hardware.recommended is None else found.runs_well,
        missing=[] if found is None else found.missing(),
        hardware=xumi.get("hardware", {}),
        created_at=row.created_at,
    )
