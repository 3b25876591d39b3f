"""What refers to a manifest, and by which tag is it found? (distribution-spec "Referrers tag schema"; cosign tags.)"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from berth.errors import DigestInvalid
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci.descriptor import Descriptor

TagKind = Literal["sig", "att", "sbom", "referrers"]

_TAG = re.compile(r"sha256-([0-9a-f]{64})(?:\.(sig|att|sbom))?")


def descriptor_for(manifest: manifests.Manifest, digest: str) -> Descriptor:
    """The entry of this manifest in its subject's list of referrers."""
    return Descriptor(
        manifest.media_type,
        digest,
        manifest.size,
        artifact_type=manifest.referrer_artifact_type,
        annotations=dict(manifest.annotations),
    )


def index_of(descriptors: Iterable[Descriptor]) -> bytes:
    """The answer of the referrers API and the content of the fallback tag: an index, possibly empty."""
    return manifests.index(descriptors)


def fallback_tag(digest: str) -> str:
    """The tag under which clients keep referrers where the API is missing: algorithm ≤ 32, encoded ≤ 64 characters."""
    parsed = digests.parse(digest)
    return f"{parsed.algorithm[:32]}-{parsed.encoded[:64]}"


def signature_tag(digest: str) -> str:
    """The tag of classic cosign signatures, `sha256-<hex>.sig`. Raises DigestInvalid for other algorithms."""
    return f"{_cosign_base(digest)}.sig"


def attestation_tag(digest: str) -> str:
    """The tag of classic cosign attestations, `sha256-<hex>.att`. Raises DigestInvalid for other algorithms."""
    return f"{_cosign_base(digest)}.att"


def subject_of_tag(tag: str) -> tuple[str, TagKind] | None:
    """Which manifest a tag of these schemes is about, and in which role; None for any other tag.

    A fallback tag of sha512 is cut short and so names no digest.
    """
    match = _TAG.fullmatch(tag)
    if match is None:
        return None
    kinds: dict[str | None, TagKind] = {None: "referrers", "sig": "sig", "att": "att", "sbom": "sbom"}
    return f"sha256:{match.group(1)}", kinds[match.group(2)]


def _cosign_base(digest: str) -> str:
    parsed = digests.parse(digest)
    if parsed.algorithm != "sha256":  # sha512-<128 hex>.sig is longer than a tag may be
        raise DigestInvalid(f"cosign has no tag for the {parsed.algorithm} digest {digest}.", hint="Sign as a bundle.")
    return f"sha256-{parsed.encoded}"
