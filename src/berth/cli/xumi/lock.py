"""`xumi lock`: writes xumi.lock, the exact base, packages and hashes that builds of this folder use from now on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from berth.authoring import lockfile
from berth.authoring.options import CompressionName, InstallerName, Options
from berth.authoring.pinning import Upgrade
from berth.authoring.pinning import lock as pin
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
    installer: InstallerOption = InstallerName.auto,
    allow_sdist: AllowSdistOption = False,
    compression: CompressionOption = CompressionName.gzip,
    insecure_base: InsecureBaseOption = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", "-U", help="Keep no pin: take the newest of everything that is allowed.")
    ] = False,
    upgrade_package: Annotated[
        list[str] | None,
        typer.Option("--upgrade-package", "-P", help="Let go of the pin of this package; may be repeated."),
    ] = None,
    upgrade_base: Annotated[
        bool, typer.Option("--upgrade-base", help="Take what the base's tag means today; packages stay.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the lock would be written differently.")
    ] = False,
    output: OutputOption = Format.text,
) -> None:
    """Pin everything that a build uses: base image, Python packages, system packages, for every platform.

    The file holds digests, versions and hashes, and no addresses or credentials; keep it in version control. A build
    takes exactly what it names; `xumi build --locked` refuses to go on when it does not fit any more.

    What xumi.lock pins already stays as it is: only what a change of xumi.yaml makes impossible moves.

    Example: xumi lock ./file-type --platform linux/amd64,linux/arm64

    Example: xumi lock --upgrade-package numpy
    """
    out = Output(output)
    options = Options(
        base=base,
        platform=platform,
        installer=installer.value,
        compression=compression.value,
        allow_sdist=allow_sdist,
    )
    found = pin(
        path,
        LocalRepository(ClientSettings.model_validate({}).home),
        options=options,
        registry=partial(reach, insecure=insecure_base),
        upgrade=Upgrade.named(upgrade_package or [], everything=upgrade, base=upgrade_base or upgrade),
        report=lambda step: out.note(f"{step.name:<20} {step.seconds:>7.2f} s  {step.note}".rstrip()),
    )
    before = _before(path, damaged=upgrade)
    changed = before is None or before.text() != found.text()
    if check and changed:
        raise InvalidInput(
            f"{path / lockfile.FILE_NAME} is not what `xumi lock` would write now.",
            hint="Run `xumi lock` without --check.",
            detail={"changes": lockfile.changes(before, found)},
        )
    if not check:
        lockfile.write(path, found)
    moved = lockfile.changes(before, found)
    out.result(
        {
            "path": str(path / lockfile.FILE_NAME),
            "changed": changed,
            "changes": moved,
            "platforms": {
                name: {"python_packages": len(p.python_packages), "system_packages": len(p.system_packages)}
                for name, p in found.platforms.items()
            },
        },
        f"{'Wrote' if changed else 'Unchanged:'} {path / lockfile.FILE_NAME}",
    )
    for line in () if out.json else moved:
        out.note(line)
    out.step("xumi build --locked" + ("" if compression == "gzip" else f" --compression {compression.value}"))


def _before(path: Path, *, damaged: bool) -> lockfile.Lock | None:
    """The lock that is there; with `damaged`, none where it cannot be read."""
    try:
        return lockfile.read(path)
    except InvalidInput:
        if damaged:
            return None
        raise
