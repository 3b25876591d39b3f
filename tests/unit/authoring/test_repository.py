"""The local repository: references instead of copies, names, clean-up."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from berth.authoring.repository import LocalRepository
from berth.errors import BlobUnknown, IntegrityError, ManifestUnknown, NameInvalid, VersionInvalid
from berth.oci import manifest as manifests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_version(repository: LocalRepository, name: str, weights: Path | None = None) -> Descriptor:
    config = repository.add_blob_bytes(name.encode(), media_type=media_types.OCI_CONFIG)
    layers = [repository.add_blob_file(weights, media_type=media_types.MODELPACK_WEIGHT_RAW)] if weights else []
    image = repository.add_blob_bytes(
        manifests.image(config=config, layers=layers), media_type=media_types.OCI_MANIFEST
    )
    index = repository.add_blob_bytes(manifests.index([image]), media_type=media_types.OCI_INDEX)
    repository.put_version(name, index)
    return index


def test_weights_are_referred_to_and_not_copied(repository: LocalRepository, tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"w" * 3_000_000)
    found = repository.add_blob_file(file)
    assert (found.digest, found.size) == (sha(b"w" * 3_000_000), 3_000_000)
    assert not repository.layout.has(found.digest)
    assert repository.blob_size(found.digest) == 3_000_000
    with LocalRepository(repository.home).open_blob(found.digest) as stream:
        assert stream.read() == b"w" * 3_000_000
    assert sum(p.stat().st_size for p in repository.home.rglob("*") if p.is_file()) < 10_000


def test_a_file_that_was_only_touched_is_still_good_and_one_that_changed_is_not(
    repository: LocalRepository, tmp_path: Path
) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"aaaa")
    digest = repository.add_blob_file(file).digest
    os.utime(file, (1, 1))
    with repository.open_blob(digest) as stream:
        assert stream.read() == b"aaaa"
    file.write_bytes(b"bbbb")
    with pytest.raises(IntegrityError, match="has changed since"):
        repository.open_blob(digest)
    file.unlink()
    with pytest.raises(IntegrityError, match="gone"):
        LocalRepository(repository.home).open_blob(digest)


def test_another_place_with_the_same_content_stands_in(repository: LocalRepository, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"same")
        digest = repository.add_blob_file(tmp_path / name).digest
    (tmp_path / "one").unlink()
    with repository.open_blob(digest) as stream:
        assert stream.read() == b"same"


def test_an_old_file_is_not_hashed_twice(
    repository: LocalRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w"
    file.write_bytes(b"1")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    digest = repository.add_blob_file(file).digest

    def never(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr("berth.authoring.repository.hash_file", never)
    assert repository.add_blob_file(file).digest == digest


def test_threads_and_other_processes_lose_no_reference(repository: LocalRepository, tmp_path: Path) -> None:
    files = [tmp_path / f"w{n}" for n in range(24)]
    for n, file in enumerate(files):
        file.write_bytes(b"%d" % n)
    threads = [threading.Thread(target=LocalRepository(repository.home).add_blob_file, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(repository.has_blob(sha(b"%d" % n)) for n in range(24))


def test_a_copy_can_be_asked_for_and_a_wrong_digest_leaves_nothing(repository: LocalRepository, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"copy")
    digest = repository.add_blob_file(tmp_path / "f", reference=False).digest
    (tmp_path / "f").unlink()
    assert repository.path_of(digest).read_bytes() == b"copy"
    import io

    with pytest.raises(IntegrityError):
        repository.add_blob_stream(io.BytesIO(b"other"), expected=sha(b"wanted"))
    assert not repository.has_blob(sha(b"other"))
    with pytest.raises(BlobUnknown):
        repository.open_blob(sha(b"wanted"))


def test_versions_are_found_by_name_tag_and_digest_and_the_highest_stands_for_all(repository: LocalRepository) -> None:
    made = {v: make_version(repository, f"acme/echo:{v}") for v in ("1.9.0", "1.10.0", "1.10.0-rc.1+b5")}
    make_version(repository, "acme/echoes:9.0.0")
    assert repository.resolve("acme/echo:1.9.0").digest == made["1.9.0"].digest
    assert repository.resolve("acme/echo").digest == made["1.10.0"].digest
    assert repository.resolve("acme/echo:1.10.0-rc.1_b5").digest == made["1.10.0-rc.1+b5"].digest
    assert repository.resolve(f"acme/echo@{made['1.9.0'].digest}").digest == made["1.9.0"].digest
    assert [v.version for v in repository.versions() if v.name == "acme/echo"] == ["1.9.0", "1.10.0-rc.1+b5", "1.10.0"]
    with pytest.raises(ManifestUnknown) as caught:
        repository.resolve("acme/echo:2.0.0")
    assert "1.9.0" in str(caught.value.hint)
    with pytest.raises(NameInvalid):
        repository.put_version("nonsense", made["1.9.0"])


def test_removing_a_version_frees_only_what_no_other_needs_and_never_the_users_files(
    repository: LocalRepository, tmp_path: Path
) -> None:
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"w" * 100)
    old = make_version(repository, "acme/echo:1.0.0", weights)
    new = make_version(repository, "acme/echo:2.0.0", weights)
    assert repository.disk_use().referenced == 100
    with pytest.raises(VersionInvalid):
        repository.remove("acme/echo")
    repository.remove("acme/echo:1.0.0")
    assert repository.disk_use().reclaimable > 0
    freed = repository.prune()
    assert freed > 0
    assert repository.prune() == 0
    assert repository.layout.has(new.digest)
    assert not repository.layout.has(old.digest)
    assert repository.has_blob(sha(b"w" * 100))
    repository.remove("acme/echo:2.0.0")
    repository.prune()
    assert repository.versions() == []
    assert weights.read_bytes() == b"w" * 100
    assert not repository.has_blob(sha(b"w" * 100))


def test_a_damaged_manifest_is_not_handed_out(repository: LocalRepository) -> None:
    index = make_version(repository, "acme/echo:1.0.0")
    repository.layout.path_of(index.digest).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        repository.manifest(index.digest)
