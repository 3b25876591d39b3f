"""Where do built and pulled versions wait? In the local repository (`XUMI_HOME`; OCI image-layout.md).

`HOME/oci` is a layout that skopeo and podman read (`oci:HOME/oci:project/name:1.0.0`). Weight files are not copied into
it: `HOME/references.json` remembers where each lies, its size and its modification time, and reading one that has
changed since is refused. Writers take `HOME/lock`; readers need no lock, for every file is replaced atomically.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from berth.authoring.hashing import BUFFER_BYTES, hash_file
from berth.authoring.locking import locked
from berth.errors import (
    BlobUnknown,
    IntegrityError,
    ManifestUnknown,
    NameInvalid,
    SetupError,
    VersionInvalid,
)
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types, version
from berth.oci.descriptor import Descriptor
from berth.oci.layout import REF_NAME, Layout

# A file changed within the clock's grain of its last hashing could change again unseen, so such hashes are not reused.
_RACY_NANOSECONDS = 2_000_000_000


@dataclass(frozen=True)
class StoredVersion:
    """One entry of the local repository. `size` counts every blob once, weights and base layers included."""

    name: str
    version: str
    descriptor: Descriptor
    size: int

    @property
    def ref_name(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class DiskUse:
    """Bytes in the layout, bytes that are only referred to where they lie, and what `prune` would give back."""

    stored: int
    referenced: int
    reclaimable: int


class LocalRepository:
    """Versions on this machine, and the blobs they are made of.

    Args:
        home: the folder (`XUMI_HOME`); made when it does not exist.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.layout = Layout(home / "oci")
        try:
            home.mkdir(parents=True, exist_ok=True)
            self.layout.create()
        except OSError as error:
            raise SetupError(
                f"The local repository {home} cannot be made: {error.strerror}.",
                hint="Set XUMI_HOME to a folder you can write to.",
            ) from error

    # --- blobs ---------------------------------------------------------------------------------------------------

    def add_blob_bytes(
        self, data: bytes, *, media_type: str = "application/octet-stream", annotations: Mapping[str, str] | None = None
    ) -> Descriptor:
        """Stores `data` in the layout and returns its descriptor."""
        found = digests.of_bytes(data)
        if not self.layout.has(found):
            self.layout.write_blob(data)
        return Descriptor(media_type=media_type, digest=found, size=len(data), annotations=dict(annotations or {}))

    def add_blob_file(
        self,
        path: Path,
        reference: bool = True,
        *,
        media_type: str = "application/octet-stream",
        annotations: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Adds a file's content: as a reference to where it lies (nothing is copied), or as a copy in the layout.

        A file that was added before and has not been touched since is not read again.
        """
        path = path.resolve()
        if reference:
            digest, size = self._known(path) or self._remember(path)
        else:
            with path.open("rb") as stream:
                digest, size = self.add_blob_stream(stream)
        return Descriptor(media_type=media_type, digest=digest, size=size, annotations=dict(annotations or {}))

    def add_blob_stream(self, stream: BinaryIO, *, expected: str | None = None) -> tuple[str, int]:
        """Copies a stream into the layout, hashing on the way; returns (digest, size in bytes).

        Raises:
            IntegrityError: the bytes do not have the digest `expected`; nothing is kept then.
        """
        pieces = iter(lambda: stream.read(BUFFER_BYTES), b"")
        stored = self.layout.write_stream(pieces, expected=expected)
        return stored.digest, stored.size

    def has_blob(self, digest: str) -> bool:
        """Whether the content can be read here, from the layout or from where it was added."""
        try:
            self.open_blob(digest).close()
        except (BlobUnknown, IntegrityError):
            return False
        return True

    def blob_size(self, digest: str) -> int:
        """Size in bytes. Raises BlobUnknown."""
        if self.layout.has(digest):
            return self.layout.path_of(digest).stat().st_size
        for entry in self._references().get(digest, ()):
            return int(entry["size"])
        raise BlobUnknown(f"The local repository does not hold {digest}.")

    def open_blob(self, digest: str) -> BinaryIO:
        """Opens content for reading, from its start, wherever it lies.

        Raises:
            BlobUnknown: never added here.
            IntegrityError: it was added by reference, and the file is gone or has other content now.
        """
        if self.layout.has(digest):
            return self.layout.path_of(digest).open("rb")
        entries = self._references().get(digest)
        if not entries:
            raise BlobUnknown(f"The local repository does not hold {digest}.")
        problems = []
        for entry in entries:
            path = Path(entry["path"])
            try:
                return self._open_reference(path, digest, entry)
            except FileNotFoundError:
                problems.append(f"{path} is gone")
            except OSError as error:
                problems.append(f"{path} cannot be read ({error.strerror})")
            except IntegrityError:
                problems.append(f"{path} has changed since it was built")
        raise IntegrityError(
            f"The weights {digest} are not there any more: {'; '.join(problems)}.",
            hint="Put the file back, or run `xumi build` again.",
            detail={"digest": digest, "paths": [e["path"] for e in entries]},
        )

    def path_of(self, digest: str) -> Path:
        """The file that holds the content (not checked against its digest). Raises BlobUnknown."""
        if self.layout.has(digest):
            return self.layout.path_of(digest)
        for entry in self._references().get(digest, ()):
            return Path(entry["path"])
        raise BlobUnknown(f"The local repository does not hold {digest}.")

    # --- versions ------------------------------------------------------------------------------------------------

    def put_version(self, ref_name: str, index_descriptor: Descriptor) -> None:
        """Names a manifest or index that is already stored: `ref_name` is "project/name:version"; replaces the name."""
        _split(ref_name)
        named = Descriptor(
            media_type=index_descriptor.media_type,
            digest=index_descriptor.digest,
            size=index_descriptor.size,
            artifact_type=index_descriptor.artifact_type,
            annotations={REF_NAME: ref_name},
            platform=index_descriptor.platform,
        )
        self.layout.update(lambda old: [*(d for d in old if d.annotations.get(REF_NAME) != ref_name), named])

    def resolve(self, ref: str) -> Descriptor:
        """The version that `ref` names: "project/name:version", "project/name" (highest), or a digest.

        Raises:
            ManifestUnknown: no such version here; the hint lists those that are.
        """
        entries = self.layout.index()
        wanted = ref.rpartition("@")[2]
        if digests.is_digest(wanted):
            return self._by_digest(wanted, entries)
        named = {d.annotations.get(REF_NAME, ""): d for d in entries}
        if ref in named:
            return named[ref]
        name, _, text = ref.partition(":")
        if text and f"{name}:{version.from_tag(text)}" in named:
            return named[f"{name}:{version.from_tag(text)}"]
        known = [v for v in self.versions() if v.name == name]
        if known and (not text or text == "latest"):
            return _highest(known).descriptor
        listed = ", ".join(v.version for v in known)
        raise ManifestUnknown(
            f"{ref} is not in the local repository.",
            hint=f"It holds {name} in: {listed}." if known else "`xumi ls` lists what is; `xumi build` makes one.",
        )

    def manifest(self, digest: str) -> bytes:
        """The bytes of a stored manifest or index, verified. Raises ManifestUnknown, IntegrityError."""
        if not self.layout.has(digest):
            raise ManifestUnknown(f"The local repository does not hold the manifest {digest}.")
        body = self.layout.path_of(digest).read_bytes()
        if digests.of_bytes(body, digests.parse(digest).algorithm) != digest:
            raise IntegrityError(
                f"The stored manifest {digest} is damaged.", hint="Remove the version and build or pull it again."
            )
        return body

    def versions(self) -> list[StoredVersion]:
        """All versions, by name and then by precedence."""
        found = []
        for descriptor in self.layout.index():
            ref_name = descriptor.annotations.get(REF_NAME)
            if not ref_name or ":" not in ref_name:
                continue
            name, text = _split(ref_name)
            size = sum(self._closure(descriptor).values())
            found.append(StoredVersion(name=name, version=text, descriptor=descriptor, size=size))
        return sorted(found, key=lambda v: (v.name, _order(v.version)))

    def remove(self, ref: str) -> Descriptor:
        """Forgets one version (by "project/name:version"); its blobs stay until `prune`. Raises ManifestUnknown."""
        if ":" not in ref.rpartition("/")[2]:
            raise VersionInvalid(f"{ref} names no version.", hint=f"Write {ref}:1.0.0; `xumi ls` lists them.")
        found = self.resolve(ref)
        self.layout.remove(found.annotations.get(REF_NAME, ref))
        return found

    def prune(self, *, dry_run: bool = False) -> int:
        """Deletes blobs and references that no version needs; returns the bytes given back in the layout."""
        with locked(self.home / "lock"):
            needed: dict[str, int] = {}
            for descriptor in self.layout.index():
                needed.update(self._closure(descriptor))
            freed = 0
            for digest, path in self._stored():
                if digest not in needed:
                    freed += path.stat().st_size
                    if not dry_run:
                        path.unlink()
            if not dry_run:
                kept = {d: e for d, e in self._references().items() if d in needed}
                self._write("references.json", {"blobs": kept})
                layers = {k: v for k, v in self._read("layers.json").items() if v["digest"] in needed}
                self._write("layers.json", layers)
        return freed

    def disk_use(self) -> DiskUse:
        """How much disk the repository takes."""
        stored = sum(path.stat().st_size for _, path in self._stored())
        referenced = sum(int(e[0]["size"]) for d, e in self._references().items() if e and not self.layout.has(d))
        return DiskUse(stored=stored, referenced=referenced, reclaimable=self.prune(dry_run=True))

    # --- compressed layers: packing the same tar again gives the same bytes, so they are looked up -----------------

    def known_layer(self, key: str) -> tuple[str, int] | None:
        """(digest, size) of the compressed form of a layer packed before, if its bytes are still here."""
        entry = self._read("layers.json").get(key)
        if entry is None or not self.layout.has(entry["digest"]):
            return None
        return entry["digest"], int(entry["size"])

    def remember_layer(self, key: str, digest: str, size: int) -> None:
        """Notes which compressed blob a layer became; `key` names the tar's digest and the compressor."""
        with locked(self.home / "lock"):
            self._write("layers.json", {**self._read("layers.json"), key: {"digest": digest, "size": size}})

    # --- inside --------------------------------------------------------------------------------------------------

    def _by_digest(self, digest: str, entries: list[Descriptor]) -> Descriptor:
        for entry in entries:
            if entry.digest == digest:
                return entry
        if not self.layout.has(digest):
            raise ManifestUnknown(f"{digest} is not in the local repository.", hint="`xumi ls` lists what is.")
        body = self.manifest(digest)
        parsed = manifests.parse(body)
        return Descriptor(media_type=parsed.media_type, digest=digest, size=len(body))

    def _closure(self, descriptor: Descriptor) -> dict[str, int]:
        """Digest → size of everything below `descriptor`, itself included; missing manifests are left as leaves."""
        found: dict[str, int] = {}
        queue = [descriptor]
        while queue:
            item = queue.pop()
            if item.digest in found:
                continue
            found[item.digest] = item.size
            if item.media_type in media_types.INDEX_TYPES | media_types.MANIFEST_TYPES and self.layout.has(item.digest):
                parsed = manifests.parse(self.manifest(item.digest))
                queue.extend(parsed.children())
                queue.extend(parsed.blobs())
        return found

    def _stored(self) -> Iterator[tuple[str, Path]]:
        for algorithm in digests.ALGORITHMS:
            folder = self.layout.path_of(f"{algorithm}:{'0' * (64 if algorithm == 'sha256' else 128)}").parent
            if folder.is_dir():
                for path in sorted(folder.iterdir()):
                    found = f"{algorithm}:{path.name}"
                    if digests.is_digest(found):
                        yield found, path

    def _known(self, path: Path) -> tuple[str, int] | None:
        """The remembered digest of a file that has not been touched since it was hashed."""
        try:
            status = path.stat()
        except OSError as error:
            raise BlobUnknown(f"{path} cannot be read: {error.strerror}.") from error
        for digest, entries in self._references().items():
            for entry in entries:
                if (
                    entry["path"] == str(path)
                    and (entry["size"], entry["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
                    and entry.get("inode") == status.st_ino
                    and entry["hashed_ns"] - status.st_mtime_ns > _RACY_NANOSECONDS
                ):
                    return digest, status.st_size
        return None

    def _remember(self, path: Path) -> tuple[str, int]:
        hashed_ns = time.time_ns()
        before = path.stat()
        digest = hash_file(path)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise IntegrityError(f"{path} was changed while it was read.", hint="Try again when it is complete.")
        entry = {
            "path": str(path),
            "size": after.st_size,
            "mtime_ns": after.st_mtime_ns,
            "inode": after.st_ino,
            "hashed_ns": hashed_ns,
        }
        with locked(self.home / "lock"):
            blobs = self._references()
            # What the path held before stays on record, so that a version built from it can say that it has changed.
            blobs[digest] = [*(e for e in blobs.get(digest, ()) if e["path"] != str(path)), entry]
            self._write("references.json", {"blobs": blobs})
        return digest, after.st_size

    def _open_reference(self, path: Path, digest: str, entry: Mapping[str, Any]) -> BinaryIO:
        stream = path.open("rb")
        try:
            status = os.fstat(stream.fileno())
            if (status.st_size, status.st_mtime_ns) == (entry["size"], entry["mtime_ns"]):
                return stream
            # Touched, copied back or restored: only its content says whether it is still the same.
            if status.st_size != entry["size"] or hash_file(path, digests.parse(digest).algorithm) != digest:
                raise IntegrityError(f"{path} has changed.")
            self._remember(path)
            return stream
        except BaseException:
            stream.close()
            raise

    def _references(self) -> dict[str, list[dict[str, Any]]]:
        blobs: dict[str, list[dict[str, Any]]] = self._read("references.json").get("blobs", {})
        return blobs

    def _read(self, name: str) -> dict[str, Any]:
        path = self.home / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise SetupError(
                f"{path} is damaged: {error}.", hint="Delete it, and build the versions whose weights it named again."
            ) from error
        if not isinstance(found, dict):
            raise SetupError(f"{path} is damaged: it holds no JSON object.", hint="Delete it and build again.")
        return found

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.home, prefix=f".{name}.", delete=False, encoding="utf-8") as out:
            json.dump(content, out, indent=1, sort_keys=True)
            out.flush()
            os.fsync(out.fileno())
        os.replace(out.name, self.home / name)


def _split(ref_name: str) -> tuple[str, str]:
    name, colon, text = ref_name.rpartition(":")
    if not colon or name.count("/") != 1 or not text:
        raise NameInvalid(f"{ref_name!r} is not a version's name.", hint="Write project/name:version.")
    return name, text


def _order(text: str) -> tuple[int, str]:
    """Semantic versions by precedence; other tags (pulled from elsewhere) before them, by name."""
    try:
        return 1, version.sort_key(text)
    except VersionInvalid:
        return 0, text


def _highest(known: list[StoredVersion]) -> StoredVersion:
    return max(known, key=lambda v: _order(v.version))
