"""`xumi push`: a built version goes to Berth, where it waits in quarantine until it is admitted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from berth.authoring import manifest
from berth.cli.output import Format, Output, OutputOption, human_size
from berth.cli.xumi.explain import in_words
from berth.client import Berth, Verdict
from berth.errors import NameInvalid


def push(
    ref: Annotated[
        str | None, typer.Argument(help="project/model:version; default: the version that ./xumi.yaml names.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is scanned, then print the verdict.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="With --wait: seconds to wait at most.")] = 900,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=32, help="Blobs sent at the same time.")] = 4,
    output: OutputOption = Format.text,
) -> None:
    """Push a built version to Berth.

    What is there already is not sent again, so a push that broke off goes on where it stopped. Pushing never admits
    a version: that takes its scans and whatever else the project's policy asks for.

    Example: xumi push acme/file-type:1.0.0 --wait
    """
    out = Output(output)
    name = ref or named_here()
    verdict: Verdict | None = None
    with Berth.from_settings() as berth:
        with out.progress() as progress:
            pushed = berth.push(name, progress=progress, parallel=parallel)
        version = f"{pushed.repository}:{pushed.version}"
        if wait:
            verdict = berth.versions.wait(
                f"{pushed.repository}@{pushed.digest}", timeout=timeout, tell=lambda state: out.note(_state(state))
            )
    data = {**dataclasses.asdict(pushed), "blobs": {kind.value: count for kind, count in pushed.blobs.items()}}
    lines = [f"Pushed {pushed.reference}", f"  {pushed.digest}", f"  sent {human_size(pushed.uploaded_bytes)}"]
    if verdict is not None:
        data |= {"verdict": verdict.verdict, "reasons": list(verdict.reasons), "valid_until": verdict.valid_until}
        lines.append(in_words(version, verdict))
    out.result(data, "\n".join(lines))
    for step in next_steps(version, verdict):
        out.step(step)


def named_here() -> str:
    """`project/model:version` of the xumi.yaml in this folder. Raises NameInvalid when there is none."""
    file = Path(manifest.FILE_NAME)
    if not file.is_file():
        raise NameInvalid("There is no xumi.yaml here.", hint="Name the version: `xumi push project/model:1.0.0`.")
    declared = manifest.load(file).manifest
    return f"{declared.name}:{declared.version}"


def next_steps(version: str, verdict: Verdict | None) -> list[str]:
    """What to do next, from the reasons of a verdict; without one, how to learn it."""
    if verdict is None:
        return [f"xumi explain {version}   says what it still needs"]
    if verdict.allowed:
        return [f"xumi pull {version} -o DIR"]
    codes = " ".join(str(reason.get("code", "")) for reason in verdict.reasons)
    steps = []
    if "sign" in codes:
        steps.append(f"xumi sign {version} --key KEY.key")
    if "approv" in codes:
        steps.append(f"xumi approve {version}")
    return steps or [f"xumi evidence ls {version}"]


def _state(state: dict[str, object]) -> str:
    if state.get("done"):
        return "All scans are done."
    pending = state.get("pending")
    names = (
        [str(p.get("kind", p)) if isinstance(p, dict) else str(p) for p in pending or ()]
        if isinstance(pending, list)
        else []
    )
    return f"Waiting for: {', '.join(names) or 'scans'}"
