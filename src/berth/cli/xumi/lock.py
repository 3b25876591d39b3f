"""`xumi lock`: writes xumi.lock, the exact base, packages and hashes that builds of this folder use from now on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from berth.authoring import build as builder
from berth.authoring import lockfile
from berth.authoring.repository import LocalRepository
from berth.cli.output import Format, Output, OutputOption
from berth.cli.xumi.build import (
    AllowSdistOption,
    BaseOption,
    CompressionOption,
    InsecureBaseOption,
    InstallerOption,
    PlatformOption,
    reach,
)
from berth.errors import InvalidInput
from berth.settings import ClientSettings


def lock(
    path: Annotated[Path, typer.Argument(help="Folder with xumi.yaml.", file_okay=False)] = Path("."),
    base: BaseOption = None,
    platform: PlatformOption = None,
    installer: InstallerOption = builder.InstallerName.auto,
    allow_sdist: AllowSdistOption = False,
    compression: CompressionOption = builder.CompressionName.gzip,
    insecure_base: InsecureBaseOption = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the lock would be written differently.")
    ] = False,
    output: OutputOption = Format.text,
) -> None:
    """Pin everything that a build uses: base image, Python packages, system packages, for every platform.

    The file holds digests, versions and hashes, and no addresses or credentials; keep it in version control. A build
    takes exactly what it names; `xumi build --locked` refuses to go on when it does not fit any more.

    Example: xumi lock ./file-type --platform linux/amd64,linux/arm64
    """
    out = Output(output)
    options = builder.Options(
        base=base,
        platform=platform,
        installer=installer.value,
        compression=compression.value,
        allow_sdist=allow_sdist,
    )
    found = builder.lock(
        path,
        LocalRepository(ClientSettings.model_validate({}).home),
        options=options,
        registry=partial(reach, insecure=insecure_base),
        report=lambda step: out.note(f"{step.name:<20} {step.seconds:>7.2f} s  {step.note}".rstrip()),
    )
    before = lockfile.read(path)
    changed = before is None or before.text() != found.text()
    if check and changed:
        raise InvalidInput(f"{path / lockfile.FILE_NAME} is not what `xumi lock` would write now.")
    if not check:
        lockfile.write(path, found)
    out.result(
        {
            "path": str(path / lockfile.FILE_NAME),
            "changed": changed,
            "platforms": {
                name: {"python_packages": len(p.python_packages), "system_packages": len(p.system_packages)}
                for name, p in found.platforms.items()
            },
        },
        f"{'Wrote' if changed else 'Unchanged:'} {path / lockfile.FILE_NAME}",
    )
    out.step("xumi build --locked")
