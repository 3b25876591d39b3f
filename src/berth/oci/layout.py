"""How is an OCI image layout kept in a directory? (OCI image-spec image-layout.md.)

Blobs are written beside their place, synced and renamed, and never overwritten; `index.json` is replaced under a
lock file, so several programs may share one layout.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from berth.errors import BlobUnknown, IntegrityError, ManifestInvalid, SetupError
from berth.oci import digest as digests
from berth.oci.descriptor import Descriptor, from_json
from berth.oci.documents import dumps, loads
from berth.oci.media_types import OCI_INDEX

REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_VERSION = "1.0.0"
_INDEX_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of a blob once it is written."""

    digest: str
    size: int


class Layout:
    """One layout directory, which is one repository; a tag is the `ref.name` annotation in `index.json`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def create(self) -> Layout:
        """Make the directory a layout; harmless if it is one.

        Raises:
            SetupError: it is a layout of another version.
        """
        (self.path / "blobs").mkdir(parents=True, exist_ok=True)
        with self._locked():
            marker = self.path / "oci-layout"
            if marker.exists():
                value = loads(marker.read_bytes(), what="oci-layout")
                if not isinstance(value, dict) or value.get("imageLayoutVersion") != LAYOUT_VERSION:
                    raise SetupError(f"{self.path} is not an OCI image layout of version {LAYOUT_VERSION}.")
            if not (self.path / "index.json").exists():
                self._write_index({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
            if not marker.exists():
                _replace(marker, dumps({"imageLayoutVersion": LAYOUT_VERSION}))
        return self

    def path_of(self, digest: str) -> Path:
        """Where the blob is or would be. Raises DigestInvalid before anything malformed becomes a path."""
        parsed = digests.parse(digest)
        return self.path / "blobs" / parsed.algorithm / parsed.encoded

    def has(self, digest: str) -> bool:
        """Whether the blob is there. Raises DigestInvalid."""
        return self.path_of(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes of the blob. Raises BlobUnknown, DigestInvalid."""
        try:
            return self.path_of(digest).stat().st_size
        except FileNotFoundError:
            raise BlobUnknown(f"{digest} is not in {self.path}.") from None

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading; content is not verified here. Raises BlobUnknown, DigestInvalid."""
        try:
            return self.path_of(digest).open("rb")
        except FileNotFoundError:
            raise BlobUnknown(f"{digest} is not in {self.path}.") from None

    def read(self, digest: str) -> bytes:
        """A small blob whole, verified. Raises BlobUnknown, DigestInvalid, IntegrityError."""
        with self.open(digest) as source:
            data = source.read()
        if digests.of_bytes(data, digests.parse(digest).algorithm) != digest:
            raise IntegrityError(f"The file of {digest} in {self.path} holds other bytes.")
        return data

    def write_blob(self, data: bytes, algorithm: str = "sha256") -> Stored:
        """Store bytes under their digest."""
        return self.write_stream((data,), algorithm=algorithm)

    def write_stream(
        self, chunks: Iterable[bytes], *, algorithm: str = "sha256", expected: str | None = None
    ) -> Stored:
        """Store content of any size, hashing while writing.

        Args:
            chunks: the content in order.
            algorithm: used when `expected` is None.
            expected: the digest the content must have.
        Raises:
            IntegrityError: the content has another digest; nothing is left behind.
        """
        if expected is not None:
            algorithm = digests.parse(expected).algorithm
        hasher = digests.new_hasher(algorithm)
        folder = self.path / "blobs" / algorithm
        folder.mkdir(parents=True, exist_ok=True)
        size = 0
        with _temporary(folder) as (target, name):
            for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                target.write(chunk)
            digest = f"{algorithm}:{hasher.hexdigest()}"
            if expected is not None and digest != expected:
                raise IntegrityError(f"The content is {digest}, not {expected}.")
            final = self.path_of(digest)
            if not final.exists():
                _settle(target, name, final)
        return Stored(digest, size)

    def index(self) -> list[Descriptor]:
        """The descriptors of `index.json`, of whatever media type.

        Raises:
            ManifestInvalid: `index.json` is malformed.
            SetupError: the directory is not a layout.
        """
        return entries_of(self._read_index())

    def set_index(self, descriptors: Iterable[Descriptor]) -> None:
        """Replace the descriptors; other fields of `index.json` stay as they are."""
        entries = list(descriptors)
        self.update(lambda _: entries)

    def update(self, change: Callable[[list[Descriptor]], Iterable[Descriptor]]) -> None:
        """Read, change and replace the descriptors under the lock, so that no other writer's change is lost."""
        with self._locked():
            value = self._read_index()
            value["manifests"] = [entry.to_json() for entry in change(entries_of(value))]
            self._write_index(value)

    def resolve(self, ref_name: str) -> Descriptor | None:
        """The descriptor a reference name points to, or None."""
        for entry in self.index():
            if entry.annotations.get(REF_NAME) == ref_name:
                return entry
        return None

    def add(self, descriptor: Descriptor, ref_name: str | None = None) -> None:
        """Put a manifest into the index; a name that pointed elsewhere moves, what it pointed to stays unnamed."""
        self.update(lambda entries: added(entries, descriptor, ref_name))

    def remove(self, ref_name: str) -> bool:
        """Take the entry with this name out of the index; blobs stay. True if there was one."""
        found = False

        def change(entries: list[Descriptor]) -> list[Descriptor]:
            nonlocal found
            kept = [entry for entry in entries if entry.annotations.get(REF_NAME) != ref_name]
            found = len(kept) != len(entries)
            return kept

        self.update(change)
        return found

    def _read_index(self) -> dict[str, Any]:
        try:
            body = (self.path / "index.json").read_bytes()
        except FileNotFoundError:
            raise SetupError(f"{self.path} is not an OCI image layout: it has no index.json.") from None
        value = loads(body, max_bytes=_INDEX_MAX_BYTES, what="index.json")
        if not isinstance(value, dict):
            raise ManifestInvalid("index.json is not an object.")
        return value

    def _write_index(self, value: Mapping[str, Any]) -> None:
        _replace(self.path / "index.json", dumps(value))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path / ".lock").open("ab") as lock:
            _acquire(lock)
            try:
                yield
            finally:
                _release(lock)


def entries_of(value: Mapping[str, Any]) -> list[Descriptor]:
    """The descriptors of an `index.json`. Raises ManifestInvalid."""
    items = value.get("manifests")
    if not isinstance(items, list):
        raise ManifestInvalid("index.json has no list `manifests`.")
    return [from_json(item, what=f"manifests[{number}]") for number, item in enumerate(items)]


def added(entries: list[Descriptor], descriptor: Descriptor, ref_name: str | None = None) -> list[Descriptor]:
    """The entries with this manifest; a name that pointed elsewhere moves, what it pointed to stays unnamed."""
    annotations = {key: value for key, value in descriptor.annotations.items() if key != REF_NAME}
    if ref_name is not None:
        annotations[REF_NAME] = ref_name
    entry = replace(descriptor, annotations=annotations)
    kept = without_name(entries, ref_name) if ref_name is not None else entries
    if ref_name is None and any(old.digest == entry.digest for old in kept):
        return kept
    # The same manifest without a name says nothing that the named entry does not say.
    return [old for old in kept if old.digest != entry.digest or REF_NAME in old.annotations] + [entry]


def without_name(entries: list[Descriptor], ref_name: str) -> list[Descriptor]:
    """Take the name off; an entry that stands there by another name too is dropped."""
    kept: list[Descriptor] = []
    for entry in entries:
        if entry.annotations.get(REF_NAME) != ref_name:
            kept.append(entry)
        elif not any(other.digest == entry.digest for other in entries if other is not entry):
            rest = {key: value for key, value in entry.annotations.items() if key != REF_NAME}
            kept.append(replace(entry, annotations=rest))
    return kept


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """An open file in the folder that is gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as target:
            yield target, Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _settle(target: BinaryIO, name: Path, final: Path) -> None:
    target.flush()
    if sys.platform != "win32":
        os.fchmod(target.fileno(), 0o644)  # mkstemp makes files private; a layout is shared
    os.fsync(target.fileno())
    os.replace(name, final)
    _sync_folder(final.parent)


def _replace(final: Path, data: bytes) -> None:
    with _temporary(final.parent) as (target, name):
        target.write(data)
        _settle(target, name, final)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return  # folders cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _acquire(lock: BinaryIO) -> None:
        msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)

    def _release(lock: BinaryIO) -> None:
        msvcrt.locking(lock.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _acquire(lock: BinaryIO) -> None:
        fcntl.flock(lock, fcntl.LOCK_EX)

    def _release(lock: BinaryIO) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)
