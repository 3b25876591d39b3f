"""`xumi build`: a folder becomes a version in the local repository, without a Docker daemon."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from berth.authoring import build as builder
from berth.authoring.base import BaseSource
from berth.authoring.options import CompressionName, InstallerName, Options
from berth.authoring.repository import LocalRepository
from berth.cli.output import Format, Output, OutputOption, human_size
from berth.settings import ClientSettings

BaseOption = Annotated[
    str | None, typer.Option("--base", help="Base image instead of runtime.base: a reference or oci-layout:PATH.")
]
PlatformOption = Annotated[
    str | None,
    typer.Option(
        "--platform", help="Such as linux/amd64,linux/arm64; default: all of hardware.architectures, an image for each."
    ),
]
InstallerOption = Annotated[
    InstallerName, typer.Option("--installer", help="What resolves and installs the requirements.")
]
CompressionOption = Annotated[CompressionName, typer.Option("--compression", help="How layers are compressed.")]
AllowSdistOption = Annotated[
    bool,
    typer.Option("--allow-sdist", help="Build packages that have no wheel, on this machine; runs their build code."),
]
InsecureBaseOption = Annotated[
    bool, typer.Option("--insecure-base", help="Reach the registry of the base image by plain http.")
]


def reach(reference: str, *, insecure: bool) -> tuple[BaseSource, str]:
    """How base images in registries are read; loads the HTTP client only when one is."""
    from berth.authoring.registry_base import open_registry

    return open_registry(reference, insecure=insecure)


def build(
    path: Annotated[Path, typer.Argument(help="Folder with xumi.yaml.", file_okay=False)] = Path("."),
    base: BaseOption = None,
    platform: PlatformOption = None,
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse to build when xumi.lock is missing or does not fit.")
    ] = False,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Also make an image that holds the weights, one layer per file.")
    ] = False,
    compression: CompressionOption = CompressionName.gzip,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Source revision to record; default: the git commit, if clean.")
    ] = None,
    allow_secrets: Annotated[
        bool, typer.Option("--allow-secrets", help="Pack files that look like secrets (.env, private keys).")
    ] = False,
    allow_sdist: AllowSdistOption = False,
    installer: InstallerOption = InstallerName.auto,
    insecure_base: InsecureBaseOption = False,
    created: Annotated[
        int,
        typer.Option(
            "--source-date-epoch",
            envvar="SOURCE_DATE_EPOCH",
            min=0,
            help="Creation time to show, in seconds since 1970.",
        ),
    ] = 0,
    output: OutputOption = Format.text,
) -> None:
    """Build a version into the local repository (XUMI_HOME).

    Code, packages and base become an image; weights become checkpoints that are referred to where they lie, not copied.
    The same folder gives the same digest on every machine. Base and packages are those that xumi.lock names, if it is
    there and fits. A version built again replaces the local one.

    Example: xumi build ./file-type --locked
    """
    out = Output(output)
    started = time.monotonic()
    options = Options(
        base=base,
        platform=platform,
        revision=revision,
        bundle=bundle,
        allow_secrets=allow_secrets,
        created=created,
        installer=installer.value,
        compression=compression.value,
        allow_sdist=allow_sdist,
        locked=locked,
    )

    def tell(step: builder.Step) -> None:
        note = f"  {step.note}" if step.note else ""
        out.note(f"{step.name:<20} {human_size(step.size):>11} {step.seconds:>7.2f} s{note}")

    built = builder.build(
        path,
        LocalRepository(ClientSettings.model_validate({}).home),
        options=options,
        registry=partial(reach, insecure=insecure_base),
        report=tell,
    )
    for warning in built.warnings:
        out.note(f"warning: {warning}")
    seconds = time.monotonic() - started
    out.result(
        {
            "digest": built.digest,
            "reference": built.reference,
            "size": built.size,
            "seconds": round(seconds, 3),
            "layers": [
                {"kind": x.kind, "digest": x.descriptor.digest, "size": x.descriptor.size, "reused": x.reused}
                for x in built.layers
            ],
            "checkpoints": [
                {"name": c.checkpoint.name, "digest": c.descriptor.digest, "size": c.size, "files": len(c.files)}
                for c in built.checkpoints
            ],
            "platforms": list(built.platforms),
            "locked": built.locked,
            "warnings": list(built.warnings),
        },
        f"Built {built.reference} ({human_size(built.size)} in {seconds:.1f} s)\n  {built.digest}",
    )
    out.step(f"xumi push {built.reference}")
