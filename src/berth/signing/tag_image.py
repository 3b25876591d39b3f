"""How is the manifest under a `.sig` or `.att` tag shaped? (signing rules section 2, cosign's signature spec.)

An ordinary image manifest with one layer per signature and a config whose `diff_ids` name the layers. Adding one
is read, change, write of the tag: whoever does it must hold a transaction or look again after the PUT.
"""

from __future__ import annotations

from berth.errors import ManifestInvalid, TooLarge
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci.descriptor import Descriptor
from berth.oci.documents import dumps
from berth.oci.manifest import Manifest
from berth.oci.media_types import OCI_CONFIG
from berth.signing.outcome import MAX_SIGNATURES

_EPOCH = "0001-01-01T00:00:00Z"


def append(layer: Descriptor, existing: Manifest | None) -> tuple[bytes, bytes]:
    """Config and manifest bytes that hold the existing layers, in order and untouched, and the new one.

    A layer with the same digest and annotations is not added twice.

    Raises:
        ManifestInvalid: what exists is not an image manifest.
        TooLarge: it holds the most signatures allowed already.
    """
    if existing is not None and existing.kind != "image":
        raise ManifestInvalid("The signature tag holds an index, not a signature manifest.")
    layers = existing.layers if existing is not None else ()
    if not any(old.digest == layer.digest and old.annotations == layer.annotations for old in layers):
        if len(layers) >= MAX_SIGNATURES:
            raise TooLarge(f"This manifest has {len(layers)} signatures; {MAX_SIGNATURES} is the most.")
        layers = (*layers, layer)
    config = dumps(
        {
            "architecture": "",
            "created": _EPOCH,
            "history": [{"created": _EPOCH} for _ in layers],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [item.digest for item in layers]},
            "config": {},
        },
        sort_keys=False,
    )
    annotations = existing.annotations if existing is not None else None
    described = Descriptor(OCI_CONFIG, digests.of_bytes(config), len(config))
    return config, manifests.image(config=described, layers=layers, annotations=annotations)
