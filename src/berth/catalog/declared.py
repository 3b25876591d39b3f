"""What does a version declare about itself? Pure: index annotations (XUMI) or image labels → JSON facts (M1).

What is declared is inside the digest and immutable; nothing here is trusted by the gate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from berth.authoring import manifest as xumi
from berth.errors import ManifestFileInvalid, ManifestInvalid
from berth.oci.manifest import Manifest

XUMI_MANIFEST = "io.xumi.manifest"
_OCI = "org.opencontainers.image."
_KNOWN = ("title", "description", "licenses", "authors", "vendor", "url", "source", "documentation", "revision")


def declared_of(manifest: Manifest, documents: Mapping[str, bytes], *, repository: str, version: str) -> dict[str, Any]:
    """Facts for search and display: {"source": "xumi"|"labels"|"annotations", ...}.

    Raises:
        ManifestInvalid: the version carries an `xumi.yaml` that is wrong or names another model or version.
    """
    text = manifest.annotations.get(XUMI_MANIFEST)
    if text is not None:
        return {"source": "xumi", "xumi": _xumi(text, repository, version), **_standard(manifest.annotations)}
    labels = _labels(manifest, documents)
    if labels:
        return {"source": "labels", "labels": labels, **_standard({**manifest.annotations, **labels})}
    return {"source": "annotations", **_standard(manifest.annotations)}


def _xumi(text: str, repository: str, version: str) -> dict[str, Any]:
    try:
        parsed = xumi.parse(text).manifest
    except ManifestFileInvalid as error:
        raise ManifestInvalid(f"The version's xumi.yaml is not valid: {error.message}", hint=error.hint) from error
    if str(parsed.name) != repository or str(parsed.version) != version:
        raise ManifestInvalid(
            f"The version's xumi.yaml says {parsed.name}:{parsed.version}, but it is pushed as {repository}:{version}.",
            hint="Build it again with the name and version it is pushed under.",
        )
    declared: dict[str, Any] = parsed.model_dump(mode="json", exclude_none=True, by_alias=True)
    return declared


def _standard(annotations: Mapping[str, str]) -> dict[str, str]:
    return {name: annotations[_OCI + name][:4000] for name in _KNOWN if _OCI + name in annotations}


def _labels(manifest: Manifest, documents: Mapping[str, bytes]) -> dict[str, str]:
    if manifest.config is None or manifest.config.digest not in documents:
        return {}
    try:
        document = json.loads(documents[manifest.config.digest])
    except (ValueError, RecursionError):
        return {}
    inner = document.get("config") if isinstance(document, dict) else None
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    if not isinstance(labels, dict):
        return {}
    return {str(k)[:256]: str(v)[:4000] for k, v in sorted(labels.items())[:100]}
