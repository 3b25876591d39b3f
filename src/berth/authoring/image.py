"""What does the code image say about itself? Its config (OCI image-spec config.md) and its manifest.

Everything in it follows from the manifest file, the base and the layers: no times, no machine names, no paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from berth.authoring.base import BaseImage, Platform
from berth.authoring.manifest import Manifest
from berth.authoring.packing import Layer
from berth.authoring.repository import LocalRepository
from berth.authoring.requirements import SITE_PACKAGES
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor

CODE_FOLDER = "opt/model"
RUNTIME_FOLDER = "opt/xumi/runtime"
BUNDLE = "io.xumi.bundle"
_TITLES = "org.opencontainers.image."


@dataclass(frozen=True)
class Image:
    """A stored image: its descriptor carries the platform."""

    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]


def store(
    repository: LocalRepository,
    manifest: Manifest,
    base: BaseImage,
    layers: Sequence[Layer],
    *,
    platform: Platform,
    created: int,
    bundle: bool = False,
) -> Image:
    """Writes config and manifest of an image made of the base's layers and then `layers`."""
    config = repository.add_blob_bytes(
        manifests.dumps(_config(manifest, base, layers, platform=platform, created=created)),
        media_type=media_types.OCI_CONFIG,
    )
    descriptors = (*base.layers, *(layer.descriptor for layer in layers))
    notes = {f"{_TITLES}base.digest": base.digest, **descriptive(manifest)}
    if base.name is not None:
        notes[f"{_TITLES}base.name"] = base.name
    if bundle:
        notes[BUNDLE] = "true"
    body = manifests.image(config=config, layers=descriptors, annotations=notes)
    stored = repository.add_blob_bytes(body, media_type=media_types.OCI_MANIFEST)
    descriptor = Descriptor(
        media_type=stored.media_type,
        digest=stored.digest,
        size=stored.size,
        platform=platform.to_json(),
        annotations={BUNDLE: "true"} if bundle else {},
    )
    return Image(descriptor, config, descriptors)


def descriptive(manifest: Manifest) -> dict[str, str]:
    """org.opencontainers.image.* for what the manifest declares."""
    found = {
        "title": manifest.title or manifest.name,
        "version": manifest.version,
        "description": manifest.description,
        "licenses": manifest.license,
        "authors": ", ".join(str(a) for a in manifest.authors),
        "vendor": manifest.organization,
        "url": manifest.links.homepage,
        "source": manifest.links.source,
        "documentation": manifest.links.documentation,
    }
    return {f"{_TITLES}{key}": value for key, value in found.items() if value}


def timestamp(seconds: int) -> str:
    """Seconds since 1970 as RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _config(
    manifest: Manifest, base: BaseImage, layers: Sequence[Layer], *, platform: Platform, created: int
) -> dict[str, Any]:
    inherited = base.config.get("config")
    inside: dict[str, Any] = dict(inherited) if isinstance(inherited, Mapping) else {}
    for key in ("Cmd", "Healthcheck", "OnBuild", "ArgsEscaped", "Hostname", "Domainname", "Image"):
        inside.pop(key, None)
    labels = inside.get("Labels") if isinstance(inside.get("Labels"), Mapping) else {}
    inside |= {
        "Env": _environment(manifest, inside.get("Env")),
        "Entrypoint": ["python3", "-m", "xumi"] if manifest.runtime.python else list(manifest.entry.command or ()),
        "User": f"{manifest.runtime.user}:{manifest.runtime.user}",
        "WorkingDir": f"/{CODE_FOLDER}",
        "ExposedPorts": {f"{manifest.runtime.port}/tcp": {}},
        "Labels": {
            **{k: v for k, v in dict(labels or {}).items() if not k.startswith((_TITLES, "io.xumi."))},
            **descriptive(manifest),
            "io.xumi.name": manifest.name,
            "io.xumi.version": manifest.version,
            "io.xumi.port": str(manifest.runtime.port),
        },
    }
    time = timestamp(created)
    history = base.config.get("history")
    known = [h for h in history if isinstance(h, dict)] if isinstance(history, list) else []
    if sum(not h.get("empty_layer") for h in known) != len(base.diff_ids):
        # The history must fit the layers or be absent; a base without one gets a line per layer.
        known = [{"created": time, "created_by": "base"} for _ in base.diff_ids]
    config: dict[str, Any] = {
        "architecture": platform.architecture,
        "os": platform.os,
        "created": time,
        "config": inside,
        "rootfs": {"type": "layers", "diff_ids": [*base.diff_ids, *(layer.diff_id for layer in layers)]},
        "history": [*known, *({"created": time, "created_by": f"xumi build: {layer.kind}"} for layer in layers)],
    }
    variant = platform.variant or base.config.get("variant")
    optional = {"variant": variant, "os.version": base.config.get("os.version")}
    return config | {key: value for key, value in optional.items() if value}


def _environment(manifest: Manifest, inherited: object) -> list[str]:
    """The base's variables, ours, and the author's, the later ones winning; order is fixed."""
    found: dict[str, str] = {}
    for line in inherited if isinstance(inherited, list) else ():
        name, _, value = str(line).partition("=")
        found[name] = value
    if manifest.runtime.python:
        # A wrapped image may have found its own packages this way; they stay, behind ours.
        own = [f"/{RUNTIME_FOLDER}", f"/{CODE_FOLDER}", f"/{SITE_PACKAGES}"]
        more = [p for p in found.get("PYTHONPATH", "").split(":") if p and p not in own]
        found |= {
            "PYTHONPATH": ":".join([*own, *more]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
    found.update(sorted(manifest.runtime.environment.items()))
    return [f"{name}={value}" for name, value in found.items()]
