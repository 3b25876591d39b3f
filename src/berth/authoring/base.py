"""Where does the base image come from? An OCI layout folder, or any registry behind the `BaseSource` protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from berth.errors import InvalidInput, ManifestInvalid, SetupError
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor
from berth.oci.layout import REF_NAME, Layout

LAYOUT_PREFIX = "oci-layout:"
_TO_OCI = {
    media_types.DOCKER_LAYER: media_types.OCI_LAYER_TAR,
    media_types.DOCKER_LAYER_GZIP: media_types.OCI_LAYER_TAR_GZIP,
    media_types.DOCKER_LAYER_ZSTD: media_types.OCI_LAYER_TAR_ZSTD,
}
_LAYERS = frozenset(
    {*_TO_OCI, media_types.OCI_LAYER_TAR, media_types.OCI_LAYER_TAR_GZIP, media_types.OCI_LAYER_TAR_ZSTD}
)


@dataclass(frozen=True)
class Platform:
    """Operating system and architecture of an image, as in "linux/arm64/v8"."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Raises InvalidInput."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise InvalidInput(f"{text!r} is no platform.", hint="Write it like linux/amd64.")
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else None)

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)

    def to_json(self) -> dict[str, Any]:
        found = {"architecture": self.architecture, "os": self.os}
        return {**found, "variant": self.variant} if self.variant else found

    def matches(self, other: Mapping[str, Any] | None) -> bool:
        """Whether an index entry or image config is for this platform; a variant only counts when asked for."""
        if other is None or other.get("os") != self.os or other.get("architecture") != self.architecture:
            return False
        return self.variant is None or other.get("variant") == self.variant


class BaseSource(Protocol):
    """A place that holds base images."""

    def manifest(self, reference: str) -> bytes:
        """The bytes of the manifest or index that a tag or digest names; verified when it is a digest."""
        ...

    def open(self, digest: str) -> BinaryIO:
        """A blob's content; the reader checks the digest."""
        ...


@dataclass(frozen=True)
class BaseImage:
    """A base for one platform. `name` is its reference when that means the same everywhere."""

    name: str | None
    digest: str
    config: dict[str, Any]
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    source: BaseSource


class LayoutSource:
    """An OCI image layout in a folder (mmdebstrap + tools, skopeo, buildah, `docker save` of current versions)."""

    def __init__(self, path: Path) -> None:
        self._layout = Layout(path)
        if not (path / "oci-layout").is_file():
            raise InvalidInput(
                f"{path} is no OCI image layout: it has no file oci-layout.",
                hint="`skopeo copy docker://IMAGE oci:FOLDER` makes one.",
            )

    def manifest(self, reference: str) -> bytes:
        if digests.is_digest(reference):
            return self._layout.read(reference)
        entries = self._layout.index()
        if reference:
            found = [e for e in entries if e.annotations.get(REF_NAME) == reference]
            if not found:
                names = ", ".join(sorted(n for e in entries if (n := e.annotations.get(REF_NAME)))) or "none"
                raise InvalidInput(
                    f"The layout {self._layout.path} has no image named {reference}.", hint=f"It has: {names}."
                )
            return self._layout.read(found[0].digest)
        if len(entries) == 1:
            return self._layout.read(entries[0].digest)
        # Several images: an index over all of them lets the platform decide.
        return manifests.index(entries)

    def open(self, digest: str) -> BinaryIO:
        return self._layout.open(digest)


def open_base(
    base: str,
    root: Path,
    *,
    platform: Platform,
    registry: Callable[[str], tuple[BaseSource, str]] | None = None,
    pinned: str | None = None,
) -> BaseImage:
    """Finds the base image that `runtime.base` (or --base) names, for one platform.

    Args:
        base: "oci-layout:PATH[:tag]" (relative to `root`) or an image reference.
        root: the project's folder.
        platform: what the image must run on.
        registry: gives the source of an image reference and the tag or digest in it; None when no registry is at hand.
        pinned: digest of the image to take instead of what the tag names now.
    Raises:
        InvalidInput: no such image, or none for the platform.
        ManifestInvalid: it is no image that can be built upon.
    """
    if base.startswith(LAYOUT_PREFIX):
        path, tag = _split_layout(base.removeprefix(LAYOUT_PREFIX), root)
        return _resolve(LayoutSource(path), pinned or tag, platform, what=base, name=None)
    if registry is None:
        raise SetupError(f"The base image {base} is in a registry, and none can be reached here.")
    source, reference = registry(base)
    return _resolve(source, pinned or reference, platform, what=base, name=base)


def _split_layout(text: str, root: Path) -> tuple[Path, str]:
    whole = root / Path(text).expanduser()
    if whole.is_dir() or ":" not in text:
        return whole, ""
    path, _, tag = text.rpartition(":")
    if tag.partition("@")[0] and digests.is_digest(f"sha256:{tag}") and path.endswith("@sha256"):
        return root / Path(path.removesuffix("@sha256")).expanduser(), f"sha256:{tag}"
    return root / Path(path).expanduser(), tag


def _resolve(source: BaseSource, reference: str, platform: Platform, *, what: str, name: str | None) -> BaseImage:
    body = source.manifest(reference)
    parsed = manifests.parse(body)
    for _ in range(4):
        if parsed.kind == "image":
            break
        fitting = [m for m in parsed.manifests if platform.matches(m.platform)]
        unnamed = [m for m in parsed.manifests if m.platform is None]
        if not fitting and not unnamed:
            offered = sorted({str(_platform_of(m.platform)) for m in parsed.manifests if m.platform})
            raise InvalidInput(f"The base image {what} has no {platform}.", hint=f"It has: {', '.join(offered)}.")
        child = (fitting or unnamed)[0]
        body = source.manifest(child.digest)
        if digests.of_bytes(body, digests.parse(child.digest).algorithm) != child.digest:
            raise ManifestInvalid(f"The base image {what} is damaged: a manifest does not have its digest.")
        parsed = manifests.parse(body)
    if parsed.kind != "image" or parsed.config is None:
        raise ManifestInvalid(f"The base {what} is no image.")
    if parsed.config.media_type not in (media_types.OCI_CONFIG, media_types.DOCKER_CONFIG):
        raise ManifestInvalid(f"The base {what} is an artifact ({parsed.config.media_type}), no image.")
    config = _read_config(source, parsed.config, what)
    if not platform.matches(config):
        raise InvalidInput(f"The base image {what} is for {_platform_of(config)}, not {platform}.")
    layers = []
    for layer in parsed.layers:
        if layer.media_type not in _LAYERS or layer.urls:
            raise ManifestInvalid(
                f"The base image {what} has a layer of type {layer.media_type}, which is not supported."
            )
        kind = _TO_OCI.get(layer.media_type, layer.media_type)
        layers.append(Descriptor(media_type=kind, digest=layer.digest, size=layer.size))
    diff_ids = config.get("rootfs", {}).get("diff_ids") if isinstance(config.get("rootfs"), dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(layers):
        raise ManifestInvalid(f"The base image {what} is damaged: its config does not name its {len(layers)} layers.")
    return BaseImage(
        name=name,
        digest=digests.of_bytes(body),
        config=config,
        layers=tuple(layers),
        diff_ids=tuple(str(d) for d in diff_ids),
        source=source,
    )


def _read_config(source: BaseSource, descriptor: Descriptor, what: str) -> dict[str, Any]:
    with source.open(descriptor.digest) as stream:
        data = stream.read(manifests.MAX_BYTES + 1)
    if digests.of_bytes(data, digests.parse(descriptor.digest).algorithm) != descriptor.digest:
        raise ManifestInvalid(f"The base image {what} is damaged: its config does not have its digest.")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"The base image {what} has a config that is not JSON.") from error
    if not isinstance(config, dict):
        raise ManifestInvalid(f"The base image {what} has a config that is no object.")
    return config


def _platform_of(value: Mapping[str, Any] | None) -> Platform:
    value = value or {}
    variant = value.get("variant")
    return Platform(str(value.get("os")), str(value.get("architecture")), str(variant) if variant else None)
