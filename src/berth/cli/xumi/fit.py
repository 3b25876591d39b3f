"""`xumi fit`: has this machine what a model needs?"""

from __future__ import annotations

from berth.authoring import fit as fitting
from berth.authoring.fit_machine import read_machine
from berth.authoring.running_targets import find
from berth.cli.output import Format, Output, OutputOption
from berth.cli.xumi import _starting as starting
from berth.client.credentials import environment


def fit(target: starting.TargetArgument = ".", output: OutputOption = Format.text) -> int:
    """Compare this machine with the hardware that a model declares: minimum and recommended.

    Limits of a container or control group count. Exits 0 when nothing of the minimum is missing, else 1.

    Example: xumi fit acme/chat:2.1.0
    """
    out = Output(output)
    home = environment().home
    model = find(target, home)
    machine = read_machine(model.folder or home)
    found = fitting.compare(model.manifest.hardware, machine)
    code = 0 if found.runs else 1
    rows = [
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
    if out.json:
        out.result(
            {
                "version": model.version,
                "fits": found.runs,
                "fits_recommended": found.runs_well,
                "requirements": rows,
                "machine": {
                    "architecture": machine.architecture,
                    "cpus": machine.cpus,
                    "cpu_model": machine.cpu_model,
                    "memory": machine.memory,
                    "memory_free": machine.memory_free,
                    "disk": machine.disk,
                    "gpus": [vars(gpu) for gpu in machine.gpus],
                    "runtimes": machine.runtimes,
                },
                "notes": machine.notes,
            }
        )
        return code
    out.table(rows, ["result", "level", "what", "needed", "here"])
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
