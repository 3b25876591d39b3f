"""/registries/{name}/import: what already lives in a registry becomes known here; its bytes stay where they are."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.access.registries import registry_named
from berth.errors import NotFound
from berth.oci.reference import check_project
from berth.server.api.calls import acting
from berth.server.api.operations import Text, operation, resource
from berth.server.api.sync import SyncRun, run_shown
from berth.sync.importing import run as imports
from berth.sync.importing.decide import Scope
from berth.sync.journal import queries

router = resource("sync")


class NewImport(BaseModel):
    """Without a project it looks through the whole registry, which only global admins may ask for."""

    model_config = ConfigDict(extra="forbid")

    project: Text | None = Field(None, max_length=128, examples=["vision"], description="Only this project.")
    repository: Text = Field("*", max_length=300, examples=["vision/det*"], description="Glob over project/model.")
    dry_run: bool = Field(False, description="Find out what would become known, and change nothing.")


@router.post(
    "/registries/{name}/import",
    status_code=202,
    **operation("self.browse", "importFromRegistry", "Catalogue what already lives in a registry", conflict=True),
)
async def start(request: Request, name: str, body: NewImport) -> SyncRun:
    """The answer's run has an item for each tag that was found, with what became of it. No layer is moved.

    What becomes known has no evidence, whatever lies beside it: it is scanned here, and refused until then.
    """
    async with acting(request) as call:
        project_id = None
        if body.project is None:
            call.require("registry.manage")
        else:
            check_project(body.project)
            project_id = (await call.enter(body.project, "project.configure")).id
        await registry_named(call.conn, name)
        run_id = await imports.start(
            call.conn,
            registry=name,
            project_id=project_id,
            scope=Scope(body.project, body.repository),
            dry_run=body.dry_run,
            by=call.who,
        )
        await audit.record(
            call.conn,
            actor=call.actor,
            action="project.configure" if body.project else "registry.manage",
            project=body.project,
            object=f"import from {name}",
            detail={"run": run_id, **body.model_dump(exclude_defaults=True)},
        )
        run = await queries.run_by_id(call.conn, run_id)
        if run is None:
            raise NotFound(f"There is no run {run_id}.")
        return run_shown(run)
