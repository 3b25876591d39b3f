"""`xumi fit`: has this machine, or one that is described, what a model needs? And which models fit it?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from berth.authoring import fit as fitting
from berth.authoring.fit import Fit, Machine
from berth.authoring.fit_described import MAX_DEVICES, described
from berth.authoring.fit_machine import read_machine
from berth.authoring.running_targets import Target, architecture, find
from berth.cli.output import Format, Output, OutputOption
from berth.client.credentials import environment
from berth.errors import InvalidInput
from berth.oci.version import sort_key


def fit(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A folder, or project/model[:version] of the local repository; default: this folder.",
            metavar="[PATH|REF]",
        ),
    ] = None,
    models: Annotated[
        bool, typer.Option("--models", help="Ask the service which models fit, instead of looking at one.")
    ] = False,
    nearly: Annotated[
        bool, typer.Option("--nearly", help="With --models: also what needs up to twice as much, and what is missing.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="With --models: all versions, not the highest release of each model.")
    ] = False,
    refused: Annotated[
        bool, typer.Option("--refused", help="With --models: also versions that may not be pulled now.")
    ] = False,
    project: Annotated[str | None, typer.Option("--project", help="With --models: only this project.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="With --models: so many at most.")] = 100,
    arch: Annotated[str | None, typer.Option("--arch", help="Describe a machine: amd64, arm64, … [this one's]")] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", min=0, help="Describe a machine: cores.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Describe a machine: such as 64GiB.")] = None,
    disk: Annotated[str | None, typer.Option("--disk", help="Describe a machine: free space.")] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, max=MAX_DEVICES, help="Describe a machine: number of GPUs. [0]")
    ] = None,
    gpu_memory: Annotated[str | None, typer.Option("--gpu-memory", help="Memory of each GPU.")] = None,
    gpu_vendor: Annotated[str, typer.Option("--gpu-vendor", help="nvidia, amd or intel.")] = "nvidia",
    gpu_model: Annotated[str, typer.Option("--gpu-model", help="Name of the GPUs, such as 'NVIDIA A10'.")] = "",
    compute_capability: Annotated[
        str, typer.Option("--compute-capability", help="CUDA compute capability, such as 8.6.")
    ] = "",
    cuda: Annotated[str | None, typer.Option("--cuda", help="CUDA version of the driver.")] = None,
    rocm: Annotated[str | None, typer.Option("--rocm", help="ROCm version.")] = None,
    output: OutputOption = Format.text,
) -> int:
    """Compare a machine with the hardware that a model declares, or list the models of the service that fit it.

    The machine is this one, with the limits of its container or control group. With any option that describes a machine
    it is that one instead: without --gpus it has none, and what else is left out is not held against a model.
    Exits 0 when nothing of the minimum is missing (--models: when any model fits), else 1.

    Example: xumi fit acme/chat:2.1.0

    Example: xumi fit --models --gpus 1 --gpu-memory 24GiB --memory 64GiB
    """
    out = Output(output)
    if models and target is not None:
        raise InvalidInput(f"--models looks at all models, not at {target}.", hint="Leave one of the two out.")
    if not models and (nearly or every or refused or project):
        raise InvalidInput("--nearly, --all, --refused and --project go with --models.", hint="xumi fit --models …")
    model = None if models else find(target or ".", environment().home)
    words = (arch, cpus, memory, disk, gpus, gpu_memory, gpu_model or None, compute_capability or None, cuda, rocm)
    if all(word is None for word in words):
        machine = read_machine((model and model.folder) or environment().home)
    else:
        if gpus is None and (gpu_memory or gpu_model or compute_capability):
            gpus = 1
        machine = described(
            architecture=arch or architecture(),
            cpus=cpus,
            memory=memory,
            disk=disk,
            gpus=[":".join((gpu_vendor, gpu_memory or "", compute_capability, gpu_model))] * (gpus or 0),
            runtimes={name: text for name, text in (("cuda", cuda), ("rocm", rocm)) if text},
        )
    if model is not None:
        return _compared(out, model, machine)
    return _listed(out, machine, project=project, nearly=nearly, every=every, refused=refused, limit=limit)


def _listed(
    out: Output, machine: Machine, *, project: str | None, nearly: bool, every: bool, refused: bool, limit: int
) -> int:
    from berth.client.berth import Berth

    with Berth.from_settings() as berth:
        ask = berth.models.fitting
        found = ask(machine, project=project, every=every, refused=refused, limit=limit)
        near = ask(machine, project=project, every=every, refused=refused, nearly=True, limit=limit) if nearly else []
    if not every:
        # Of a model that fits, what is older and needs more is no news.
        highest = {item["model"]: sort_key(item["version"]) for item in found}
        near = [item for item in near if sort_key(item["version"]) > highest.get(item["model"], "")]
    if out.json:
        out.result({"machine": _shown(machine), "items": found, "nearly": near if nearly else None})
    else:
        out.note(f"machine: {_sentence(machine)}")
        rows = [
            {
                "model": item["model"],
                "version": item["version"],
                "fits": "nearly" if not item["fits"] else "yes" if item["fits_recommended"] is not False else "minimum",
                "missing": "; ".join(item["missing"]) or None,
                "title": item["title"],
            }
            for item in sorted([*found, *near], key=lambda item: item["model"])
        ]
        out.table(
            rows,
            ["model", "version", "fits", *(["missing"] if nearly else []), "title"],
            empty="No model that you may see fits this machine."
            + ("" if nearly else " --nearly shows what comes close."),
        )
        for note in machine.notes:
            out.note(note)
        if len(found) == limit:
            out.note(f"These are the first {limit}; --limit shows more.")
    return 0 if found else 1


def _compared(out: Output, model: Target, machine: Machine) -> int:
    found = fitting.compare(model.manifest.hardware, machine)
    code = 0 if found.runs else 1
    if out.json:
        out.result(
            {
                "version": model.version,
                "fits": found.runs,
                "fits_recommended": found.runs_well,
                "requirements": _rows(found),
                "machine": _shown(machine),
                "notes": machine.notes,
            }
        )
        return code
    out.table(_rows(found), ["result", "level", "what", "needed", "here"])
    for note in machine.notes:
        out.note(note)
    if not found.runs:
        verdict = "does not fit this machine"
    elif found.runs_well:
        verdict = "fits this machine"
    else:
        verdict = "fits this machine, below what is recommended"
    out.result({}, f"{model.version} {verdict}.")
    return code


def _rows(found: Fit) -> list[dict[str, Any]]:
    return [
        {
            "level": row.level,
            "what": row.what,
            "result": row.result,
            "needed": row.needed,
            "here": row.found,
            "needed_value": row.needed_value,
            "here_value": row.found_value,
        }
        for row in found.rows
    ]


def _shown(machine: Machine) -> dict[str, Any]:
    return {
        "architecture": machine.architecture,
        "cpus": machine.cpus,
        "cpu_model": machine.cpu_model,
        "memory": machine.memory,
        "memory_free": machine.memory_free,
        "disk": machine.disk,
        "gpus": [vars(gpu) for gpu in machine.gpus],
        "runtimes": machine.runtimes,
    }


def _sentence(machine: Machine) -> str:
    said = [machine.architecture]
    if machine.cpus is not None:
        said.append(f"{machine.cpus:g} cores")
    said += [f"{fitting.size(n)} {what}" for n, what in ((machine.memory, "memory"), (machine.disk, "disk")) if n]
    for gpu in dict.fromkeys(machine.gpus):
        memory = f" of {fitting.size(gpu.memory)}" if gpu.memory else ""
        said.append(f"{machine.gpus.count(gpu)} × {gpu.name or gpu.vendor}{memory}")
    return ", ".join(said if machine.gpus else [*said, "no GPU"])
