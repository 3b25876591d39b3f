"""`xumi test`: start a model, call it with the samples of its manifest, say what differs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from berth.authoring.running import Options
from berth.authoring.testing import Check, Report, run_samples
from berth.cli.output import Format, Output, OutputOption, human_size
from berth.cli.xumi import _starting as starting


def run_tests(
    target: starting.TargetArgument = ".",
    sample: Annotated[
        list[str] | None, typer.Option("--sample", "-s", help="Only this sample; may be given several times.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that one call may take.")] = 60.0,
    python: starting.PythonOption = None,
    trust_code: starting.TrustOption = False,
    engine: starting.EngineOption = "auto",
    image: starting.ImageOption = None,
    bundle: starting.BundleOption = False,
    network: starting.NetworkOption = False,
    force: starting.ForceOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the model writes.")] = False,
    output: OutputOption = Format.text,
) -> int:
    """Start a model, call it with every sample of its manifest, and compare the answers.

    Your own folder runs in a child process; a version of the local repository or a pulled folder in a container with
    the limits of its manifest and without a network. Exits 1 when anything differs.

    Example: xumi test ./file-type
    """
    out = Output(output)
    found = starting.open_target(target, force=force, out=out)
    options = Options(
        python=python, trust_code=trust_code, engine=engine, image=image, bundle=bundle, network=network
    )  # fmt: skip

    def tell(line: str) -> None:
        if verbose:
            out.note(f"  | {line}")

    def show(check: Check) -> None:
        if not out.json:
            print(_text(check), flush=True)

    if not found.manifest.samples:
        out.note("The manifest declares no samples; only whether the model starts is tried.")
    only = frozenset(sample or ())
    with starting.ended_in_order():
        report = run_samples(found, options, only=only, timeout=timeout, report=show, tell=tell)
    out.result(_data(found.version, report), _summary(report))
    return 0 if report.ok else 1


def _text(check: Check) -> str:
    name = f"sample {check.name}" if check.kind == "sample" else check.name
    head = f"{'ok  ' if check.ok else 'FAIL'}  {name}  ({check.seconds:.3f} s)"
    return "\n".join([head, *(f"      {line}" for problem in check.problems for line in problem.splitlines())])


def _summary(report: Report) -> str:
    failed = sum(not check.ok for check in report.checks)
    peak = f", {human_size(report.peak_memory)} of memory at most" if report.peak_memory else ""
    return f"{len(report.checks) - failed} passed, {failed} failed in a {report.how}{peak}."


def _data(version: str, report: Report) -> dict[str, Any]:
    return {
        "version": version,
        "how": report.how,
        "passed": report.ok,
        "peak_memory": report.peak_memory,
        "checks": [
            {"kind": c.kind, "name": c.name, "passed": c.ok, "seconds": round(c.seconds, 6), "problems": c.problems}
            for c in report.checks
        ],
    }
