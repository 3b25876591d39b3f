"""What may a build be told, and for which platforms is it? What `xumi build` and `xumi lock` share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from berth.authoring import packages
from berth.authoring.base import BaseImage, Platform
from berth.authoring.compression import Compression
from berth.authoring.installers import Installer
from berth.authoring.manifest import ManifestFile, load
from berth.authoring.project import check_entry
from berth.errors import InvalidInput, ManifestFileInvalid


class InstallerName(StrEnum):
    """Names of `Installer`, as programs offer them."""

    auto = "auto"
    pip = "pip"
    uv = "uv"


class CompressionName(StrEnum):
    """Names of `Compression`, as programs offer them."""

    gzip = "gzip"
    zstd = "zstd"
    none = "none"


@dataclass(frozen=True)
class Options:
    """What a build may be told.

    Attributes:
        base: instead of `runtime.base`.
        platform: "linux/amd64", or several with commas; default: every one of hardware.architectures.
        revision: source revision to record; default: the git commit when the folder is clean, else none.
        bundle: also make an image that holds the weights.
        allow_secrets: pack files that look like secrets.
        created: seconds since 1970 that the image shows (SOURCE_DATE_EPOCH).
        installer: which program installs the requirements.
        compression: of the layers that are made here.
        allow_sdist: build wheels on this machine where there are none.
        locked: refuse to build when xumi.lock is missing or does not fit.
    """

    base: str | None = None
    platform: str | None = None
    revision: str | None = None
    bundle: bool = False
    allow_secrets: bool = False
    created: int = 0
    installer: Installer = "auto"
    compression: Compression = "gzip"
    allow_sdist: bool = False
    locked: bool = False


def platforms_of(file: ManifestFile, wanted: str | None) -> list[Platform]:
    """The platforms to build for, in the order given: "linux/amd64,linux/arm64", or all that the manifest names.

    Raises:
        InvalidInput: malformed, or an architecture that the manifest does not name.
    """
    architectures = file.manifest.hardware.architectures
    texts = [t.strip() for t in wanted.split(",")] if wanted else [f"linux/{a}" for a in architectures]
    found = []
    for platform in (Platform.parse(text) for text in texts):
        if platform.architecture not in architectures:
            raise InvalidInput(
                f"The manifest does not name the architecture {platform.architecture}.",
                hint=f"Add it to hardware.architectures, or build for {', '.join(architectures)}.",
            )
        if platform not in found:
            found.append(platform)
    return found


def checked(root: Path) -> ManifestFile:
    """xumi.yaml of the folder, and that the code it names is there. Raises ManifestFileInvalid."""
    file = load(root)
    problems = check_entry(root, file.manifest)
    if problems:
        raise ManifestFileInvalid("\n".join(problems), hint="Change xumi.yaml or the files.")
    return file


def wanted(root: Path, file: ManifestFile, platform: Platform, base: BaseImage, options: Options) -> packages.Wanted:
    """What the packages of one platform depend on."""
    return packages.Wanted(
        root=root,
        manifest=file.manifest,
        platform=platform,
        base=base,
        installer=options.installer,
        allow_sdist=options.allow_sdist,
        compression=options.compression,
    )
