"""What is different between two versions, or between a version and the folder it comes from? (`xumi diff`)

Two versions are compared by digest, so the bytes to send are exact. A folder is not built for it: its manifest, code
files and weights are read and compared with what the version holds; its packages are compared by what asks for them.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from berth.authoring import image, project
from berth.authoring.describe import describe
from berth.authoring.hashing import BUFFER_BYTES, hash_file
from berth.authoring.manifest import load, parse
from berth.authoring.packing import Entry, open_layer
from berth.authoring.repository import LocalRepository
from berth.errors import InvalidInput, ManifestFileInvalid
from berth.oci import digest as digests
from berth.oci import manifest as manifests

_MAX_CODE_FILES = 100_000


@dataclass(frozen=True)
class Change:
    """One thing that is not the same; `old` is None when it is new, `new` is None when it is gone."""

    what: str
    old: Any
    new: Any

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "old": self.old, "new": self.new}


@dataclass(frozen=True)
class Comparison:
    """Everything that differs. `resend` is how many bytes a push of the second sends to a registry with the first.

    For a folder `resend_is_exact` is False: code counts uncompressed, packages and the base not at all.
    """

    old: str
    new: str
    manifest: tuple[Change, ...]
    layers: tuple[Change, ...]
    code: tuple[Change, ...]
    checkpoints: tuple[Change, ...]
    resend: int
    resend_is_exact: bool
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return not (self.manifest or self.layers or self.code or self.checkpoints)

    def to_json(self) -> dict[str, Any]:
        """JSON types; sizes in bytes."""
        parts = {key: getattr(self, key) for key in ("manifest", "layers", "code", "checkpoints")}
        return {
            "old": self.old,
            "new": self.new,
            "same": self.same,
            **{key: [change.to_json() for change in changes] for key, changes in parts.items()},
            "resend_bytes": self.resend,
            "resend_is_exact": self.resend_is_exact,
            "notes": list(self.notes),
        }


def compare_versions(repository: LocalRepository, old: str, new: str) -> Comparison:
    """Two versions of the local repository. Raises ManifestUnknown, IntegrityError, ManifestInvalid."""
    one, two = describe(repository, old), describe(repository, new)
    there = {digest for digest, _ in _blobs(repository, one)}
    sent = {digest: size for digest, size in _blobs(repository, two) if digest not in there}
    return Comparison(
        old=one["reference"] or one["digest"],
        new=two["reference"] or two["digest"],
        manifest=tuple(_fields(_manifest(one), _manifest(two))),
        layers=tuple(_layers(one["images"], two["images"])),
        code=tuple(_files(_code(repository, one), _code(repository, two))),
        checkpoints=tuple(_files(_weights(one), _weights(two))),
        resend=sum(sent.values()),
        resend_is_exact=True,
    )


def compare_folder(repository: LocalRepository, old: str, root: Path) -> Comparison:
    """A version of the local repository with a working folder.

    Raises:
        ManifestUnknown, IntegrityError, ManifestInvalid: the version cannot be read.
        ManifestFileInvalid, InvalidInput: the folder is no model that could be built.
    """
    one = describe(repository, old)
    file = load(root)
    root = (file.path or root).parent.resolve()
    found = project.collect(root, file.manifest, allow_secrets=True)
    before = _manifest(one)
    code_now = {e.name: _entry_facts(e) for e in found.code if e.kind != "folder"}
    code = list(_files(_code(repository, one), code_now))
    weights_before = _weights(one)
    weights_now: dict[str, dict[str, Any]] = {}
    for weight in found.weights:
        name = f"{weight.checkpoint}/{weight.path}"
        size = weight.source.stat().st_size
        known = weights_before.get(name)
        # Another size is another content; only files of the same size are read.
        digest = hash_file(weight.source) if known and known["size"] == size else None
        weights_now[name] = {"size": size, "digest": digest}
    checkpoints = list(_files(weights_before, weights_now))
    fields = list(_fields(before, file.manifest.to_json()))
    notes = []
    asked = {c.what for c in fields}
    for key in ("base", "python", "requirements", "packages", "build"):
        if any(what.startswith(f"runtime.{key}") for what in asked):
            notes.append(f"runtime.{key} is different: layers below the code may be sent again, and are not counted.")
    requirements = file.manifest.runtime.requirements
    if isinstance(requirements, str) and any(c.what == requirements for c in code):
        notes.append(f"{requirements} is different: the packages may be sent again, and are not counted.")
    resend = sum(c.new["size"] for c in checkpoints if c.new)
    if code:
        # The code is one layer, so one changed file sends all of it.
        resend += sum(facts["size"] for facts in code_now.values())
    return Comparison(
        old=one["reference"] or one["digest"],
        new=str(root),
        manifest=tuple(fields),
        layers=(),
        code=tuple(code),
        checkpoints=tuple(checkpoints),
        resend=resend,
        resend_is_exact=False,
        notes=tuple(dict.fromkeys(notes)),
    )


def _manifest(facts: Mapping[str, Any]) -> dict[str, Any]:
    text = facts["manifest_text"]
    if not text:
        # An image that was made without xumi has none.
        return {}
    try:
        return parse(text, name=f"The manifest of {facts['reference'] or facts['digest']}").manifest.to_json()
    except ManifestFileInvalid:
        # Written by a newer or stricter program; its digest still says whether it is the same.
        return {"text": text}


def _fields(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Differences of plain data by path; lists of named things are compared by name."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            inner = f"{path}.{key}" if path else str(key)
            if key not in new or key not in old:
                yield Change(inner, old.get(key), new.get(key))
            else:
                yield from _fields(old[key], new[key], inner)
    elif isinstance(old, list) and isinstance(new, list) and _named(old) and _named(new):
        one, two = {i["name"]: i for i in old}, {i["name"]: i for i in new}
        for name in [*one, *(n for n in two if n not in one)]:
            inner = f"{path}[{name}]"
            if name in one and name in two:
                yield from _fields(one[name], two[name], inner)
            else:
                yield Change(inner, one.get(name), two.get(name))
        if list(one) != list(two) and set(one) == set(two):
            yield Change(path, list(one), list(two))
    elif old != new:
        yield Change(path, old, new)


def _named(items: Sequence[Any]) -> bool:
    names = [i.get("name") for i in items if isinstance(i, Mapping)]
    return len(names) == len(items) == len(set(map(str, names))) and all(isinstance(n, str) for n in names)


def _layers(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Iterator[Change]:
    """Layers that only one side has, image by image."""
    before = {(i["platform"], i["bundle"]): i for i in old}
    after = {(i["platform"], i["bundle"]): i for i in new}
    for key in [*before, *(k for k in after if k not in before)]:
        one, two = before.get(key, {}).get("layers", ()), after.get(key, {}).get("layers", ())
        title = f"{key[0]} with weights" if key[1] else key[0]
        if not one or not two:
            total = {"size": sum(x["size"] for x in one or two)}
            yield Change(title, total if one else None, total if two else None)
            continue
        kinds = dict.fromkeys(x["kind"] or "base" for x in (*one, *two))
        for kind in kinds:
            gone = [x for x in one if (x["kind"] or "base") == kind and x["digest"] not in {y["digest"] for y in two}]
            come = [x for x in two if (x["kind"] or "base") == kind and x["digest"] not in {y["digest"] for y in one}]
            for number in range(max(len(gone), len(come))):
                yield Change(
                    f"{title} {kind}",
                    _short(gone[number]) if number < len(gone) else None,
                    _short(come[number]) if number < len(come) else None,
                )


def _short(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": layer["size"], "digest": layer["digest"]}


def _files(old: Mapping[str, dict[str, Any]], new: Mapping[str, dict[str, Any]]) -> Iterator[Change]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name), new.get(name))


def _weights(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{checkpoint['name']}/{file['path']}": {"size": file["size"], "digest": file["digest"]}
        for checkpoint in facts["checkpoints"]
        for file in checkpoint["files"]
    }


def _blobs(repository: LocalRepository, facts: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """(digest, size) of everything a push sends, manifests included."""
    body = repository.manifest(facts["digest"])
    yield facts["digest"], len(body)
    index = manifests.parse(body)
    for blob in index.blobs():
        yield blob.digest, blob.size
    for child in index.children():
        yield child.digest, child.size
        for blob in manifests.parse(repository.manifest(child.digest)).blobs():
            yield blob.digest, blob.size


def _code(repository: LocalRepository, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The author's files in the code layers of the first image, as they lie in the project."""
    found: dict[str, dict[str, Any]] = {}
    images = [i for i in facts["images"] if not i["bundle"]][:1]
    for layer in images[0]["layers"] if images else ():
        if layer["kind"] != "code":
            continue
        with repository.open_blob(layer["digest"]) as blob:
            try:
                with tarfile.open(fileobj=open_layer(blob), mode="r|") as archive:
                    for member in archive:
                        name = member.name.removeprefix(f"{image.CODE_FOLDER}/")
                        if name != member.name and not member.isdir():
                            found[name] = _member_facts(archive, member)
                        if len(found) > _MAX_CODE_FILES:
                            raise InvalidInput(f"The code layer holds more than {_MAX_CODE_FILES} files.")
            except (tarfile.TarError, OSError, EOFError) as error:
                raise InvalidInput(f"The code layer {layer['digest']} cannot be read: {error}.") from error
    return found


def _member_facts(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    if not member.isreg():
        return {"size": 0, "digest": f"link to {member.linkname}"}
    digest = hashlib.sha256()
    stream = archive.extractfile(member)
    while stream is not None and (data := stream.read(BUFFER_BYTES)):
        digest.update(data)
    return {"size": member.size, "digest": f"sha256:{digest.hexdigest()}", "executable": bool(member.mode & 0o100)}


def _entry_facts(entry: Entry) -> dict[str, Any]:
    if entry.kind == "link":
        return {"size": 0, "digest": f"link to {entry.target}"}
    digest = digests.of_bytes(entry.source) if isinstance(entry.source, bytes) else hash_file(entry.source)
    return {"size": entry.size, "digest": digest, "executable": entry.executable}
