"""Which files does a manifest bring? Every layer of an image or a checkpoint, decoded once, checked and walked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from berth.adapters.scanners.weights_child import compression, tars
from berth.adapters.scanners.weights_child.compression import BombError, Decompressed, UnreadableError
from berth.adapters.scanners.weights_child.content import HEAD, Content, Window, read_exactly
from berth.adapters.scanners.weights_child.findings import Findings
from berth.adapters.scanners.weights_child.walk import Walker

_DIGEST = re.compile(r"sha(256|512):[0-9a-f]+\Z")
_CONFIG_LIMIT = 32 << 20
_IMAGE_CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_IN_TOTO = "application/vnd.in-toto+json"
_FOREIGN = re.compile(r"nondistributable|rootfs\.foreign")


def scan(manifest: bytes, paths: Mapping[str, str], findings: Findings) -> None:
    """Judge all layers of one leaf manifest; `paths` maps blob digests to files. Raises LimitExceededError."""
    try:
        document = json.loads(manifest)
        layers = list(document["layers"])
        config = document["config"]
        config_type = str(config["mediaType"])
        config_path = paths.get(config["digest"])
        digests = [str(layer["digest"]) for layer in layers]
        foreign = [bool(layer.get("urls")) or bool(_FOREIGN.search(str(layer["mediaType"]))) for layer in layers]
        titles = [_title(layer) for layer in layers]
        # BuildKit's attestations look like images whose layers are plain documents.
        documents = [layer["mediaType"] == _IN_TOTO for layer in layers]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        findings.add_problem("manifest.unreadable", f"This is no manifest with config and layers ({error!r}).")
        return
    diff_ids = _diff_ids(config_type, config_path, findings)
    if diff_ids is not None and len(diff_ids) != len(layers):
        findings.add_problem(
            "layer.diff_id_mismatch",
            f"The config lists {len(diff_ids)} layers, the manifest {len(layers)}; build and push the image again.",
        )
    for number, digest in enumerate(digests):
        name = f"layer {number + 1}"
        path = paths.get(digest)
        if foreign[number]:
            findings.add_problem("layer.foreign", f"{name} ({digest}) may lie outside the registry; push it normally.")
        if path is None:
            findings.add_problem("layer.missing", f"{name} ({digest}) is not in the depot.")
            continue
        expected = diff_ids[number] if diff_ids is not None and number < len(diff_ids) else None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            findings.add_problem("layer.missing", f"{name} ({digest}) can't be opened: {error.strerror}.")
            continue
        try:
            size = os.fstat(fd).st_size
            if diff_ids is None or documents[number]:
                label = f"{name}: {titles[number]}" if titles[number] else name
                Walker(findings, weights=diff_ids is None).file(Content(label, size, window=(fd, 0)))
            else:
                _image_layer(fd, size, name=name, digest=digest, expected=expected, findings=findings)
        finally:
            os.close(fd)


def _image_layer(fd: int, size: int, *, name: str, digest: str, expected: str | None, findings: Findings) -> None:
    """Walk a tar, compressed or not, and compare the digest of its uncompressed bytes with the config's entry."""
    head = os.pread(fd, HEAD, 0)
    kind = compression.sniff(head)
    walker = Walker(findings)
    algorithm = (expected or "sha256:").partition(":")[0]
    try:
        if kind is None:
            if not tars.is_header(head) and any(head[: tars.BLOCK]):
                raise UnreadableError("neither a tar nor compressed in a known way")
            content = Content(name, size, window=(fd, 0))
            walker.tar_entries(content, content.seekable(), prefix=f"{name}: ", depth=0)
            # An uncompressed layer's digest is the digest of its file, which the depot has checked.
            actual = digest if digest.startswith(f"{algorithm}:") else _file_digest(fd, size, algorithm)
        else:
            hasher = hashlib.new(algorithm)
            stream = Decompressed(kind, Window(fd, 0, size), findings, hasher.update)
            content = Content(name, None, stream=stream)
            walker.tar_entries(content, stream, prefix=f"{name}: ", depth=0)
            while stream.read(1 << 20):
                pass  # the digest covers everything
            actual = f"{algorithm}:{hasher.hexdigest()}"
    except BombError as error:
        findings.add_suspicious(name, f"decompression bomb: {error}")
        findings.add_problem("layer.unreadable", f"{name} ({digest}): {error}; it was not looked at further.")
        return
    except UnreadableError as error:
        findings.add_problem("layer.unreadable", f"{name} ({digest}) can't be read: {error}.")
        return
    if expected is not None and actual != expected:
        findings.add_problem(
            "layer.diff_id_mismatch",
            f"{name} ({digest}) unpacks to {actual}, the config says {expected}; build and push the image again.",
        )


def _diff_ids(config_type: str, path: str | None, findings: Findings) -> list[str] | None:
    """The config's list of uncompressed digests; None for what is no image."""
    is_image = config_type in _IMAGE_CONFIGS
    try:
        if path is None:
            raise ValueError("it is not in the depot")
        with open(path, "rb") as file:
            config = json.loads(read_exactly(file, _CONFIG_LIMIT))
        # Told by content too: a runtime that ignores the config's type would unpack the layers all the same.
        if not is_image and not (isinstance(config, dict) and isinstance(config.get("rootfs"), dict)):
            return None
        found = [str(entry) for entry in config["rootfs"]["diff_ids"]]
        if not all(_DIGEST.match(entry) for entry in found):
            raise ValueError("rootfs.diff_ids holds something else than digests")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if is_image:
            findings.add_problem("config.unreadable", f"The image's config can't be read: {error}.")
            return []
        return None
    return found


def _file_digest(fd: int, size: int, algorithm: str) -> str:
    hasher = hashlib.new(algorithm)
    window = Window(fd, 0, size)
    while data := window.read(1 << 20):
        hasher.update(data)
    return f"{algorithm}:{hasher.hexdigest()}"


def _title(layer: Mapping[str, Any]) -> str:
    annotations = layer.get("annotations") or {}
    return str(annotations.get("org.cncf.model.filepath") or annotations.get("org.opencontainers.image.title") or "")
