"""What is in this file? Types it by content and looks inside: archives, compressed streams, pickles, tensor files.

Every file's first bytes are also followed as a pickle, whatever else it looks like: a pickle needs no magic number and
most loaders care for nothing but the first opcode.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from typing import Any

from picklescan.relaxed_zipfile import RelaxedZipFile
from picklescan.scanner import SafetyLevel, scan_pickle_bytes

from berth.adapters.scanners.weights_child import compression, imports, tars, tensors
from berth.adapters.scanners.weights_child.byte_source import Source, TooLargeError
from berth.adapters.scanners.weights_child.compression import BombError, Decompressed, UnreadableError
from berth.adapters.scanners.weights_child.content import HEAD, Content
from berth.adapters.scanners.weights_child.findings import Findings
from berth.adapters.scanners.weights_child.pickles import Machine, Reading

# Files up to this size are read into memory at once: random access, and the whole file can be judged.
_SMALL = 16 << 20
_EOCD = b"PK\x05\x06"
_TAIL = (64 << 10) + 22
_PICKLES_PER_FILE = 4096
_QUOTED = 12
_MODEL_SUFFIXES = (
    *(".7z", ".bin", ".ckpt", ".data", ".dat", ".dill", ".h5", ".joblib", ".keras", ".model", ".nemo", ".npy"),
    *(".npz", ".onnx", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar", ".safetensors", ".weights"),
)


class Walker:
    """Looks into files and notes what it finds. `weights`: the files are said to be weights, whatever their names."""

    def __init__(self, findings: Findings, *, weights: bool = False) -> None:
        self._findings = findings
        self._weights = weights

    def file(self, content: Content, depth: int = 0) -> None:
        """Judge one file and all it contains. Raises LimitExceededError; damaged content becomes a problem."""
        self._findings.begin_file()
        try:
            self._file(content, depth)
        except BombError as error:
            self._findings.add_suspicious(content.path, f"decompression bomb: {error}")
            self._findings.add_problem("archive.too_large", f"{content.path}: {error}; it was not looked at further.")
        except UnreadableError as error:
            self._findings.add_problem("file.unreadable", f"{content.path} can't be read: {error}")

    def _file(self, content: Content, depth: int) -> None:
        content = content.small_held(_SMALL)
        head = content.head()
        if not head:
            return
        kind = _kind(head, content.size)
        if content.stream is not None and kind in ("zip", "hdf5", "onnx"):
            held = content.held(self._findings.limits.held_bytes)
            if held is None:
                self._too_large(content)
                return
            content = held
        if kind is None or kind not in _CONTAINERS:
            if content.stream is not None:
                # A stream can be used once: a pickle is followed, everything else is judged by its head.
                self._stream(content, head, kind)
                return
        self._looks(content, head, kind, depth)

    def _looks(self, content: Content, head: bytes, kind: str | None, depth: int) -> None:
        if kind in _CONTAINERS and depth >= self._findings.limits.depth:
            self._findings.add_problem(
                "archive.too_deep", f"{content.path} is an archive in {depth} others; it was not looked into."
            )
            return
        if content.stream is None:
            self._pickles(content, declared=_is_declared(head))
        if kind == "zip":
            self._zip(content, depth, certain=True)
        elif kind == "tar":
            self._tar(content, depth)
        elif kind in _COMPRESSED:
            self._compressed(content, str(kind), depth)
        elif kind in _FOREIGN_ARCHIVES:
            self._foreign_archive(content, str(kind), depth)
        elif kind is not None:
            self._tensors(content, head, kind)
        if kind != "zip" and (file := content.seekable()) is not None and _has_zip_end(file):
            self._zip(content, depth, certain=False)

    def _stream(self, content: Content, head: bytes, kind: str | None) -> None:
        """Judge a large file that can be read only once: by its first bytes, unless they go on as a pickle."""
        probe = self._machine(Source(io.BytesIO(head)), strict=not _is_declared(head))
        probe.run()
        if probe.reading.complete or probe.reading.position >= len(head) or kind is None:
            self._pickles(content, declared=_is_declared(head))
        else:
            self._tensors(content, head, kind)

    def _too_large(self, content: Content) -> None:
        self._findings.add_problem(
            "file.too_large",
            f"{content.path} is larger than {self._findings.limits.held_bytes} bytes in a compressed layer. Keep it in "
            "a checkpoint or an uncompressed layer, where size does not matter, or raise BERTH_SCAN_MEMORY_BYTES.",
        )

    # -- pickles

    def _pickles(self, content: Content, *, declared: bool) -> None:
        self._follow(content, Source(content.sequential()), declared=declared)

    def _follow(self, content: Content, source: Source, *, declared: bool, base: int = 0) -> None:
        """Follow the pickle at the start of `source`, which is at byte `base`, and those that come right after it."""
        for number in range(_PICKLES_PER_FILE):
            start = base + source.position
            certain = declared if number == 0 else source.peek() == 0x80
            machine = self._machine(source, strict=not certain)
            try:
                reading = machine.run()
            except (TooLargeError, MemoryError):
                reading = machine.reading
                self._findings.add_problem(
                    "pickle.too_large",
                    f"{content.path} holds a pickle too large to follow; the rest was not looked at.",
                )
                self._judge(content, reading, certain=True, start=start, end=base + source.position)
                return
            self._judge(content, reading, certain=certain, start=start, end=base + source.position)
            if not reading.complete or source.peek() < 0:
                return
        self._findings.add_problem("pickle.too_large", f"{content.path} holds more than {_PICKLES_PER_FILE} pickles.")

    def _machine(self, source: Source, *, strict: bool) -> Machine:
        limits = self._findings.limits
        return Machine(source, strict=strict, operations=limits.pickle_operations, stack=limits.pickle_stack)

    def _judge(self, content: Content, reading: Reading, *, certain: bool, start: int, end: int) -> None:
        verdicts = {i: imports.judge(i.module, i.name) for i in reading.imports}
        # Bytes that merely happen to parse: only what an unpickler could really run counts.
        bad = [
            f"{i.module}.{i.name}"
            for i, verdict in verdicts.items()
            if verdict == "dangerous"
            and (reading.complete or i in reading.called or (certain and imports.is_importable(i.module, i.name)))
            and (certain or imports.is_importable(i.module, i.name))
        ]
        if certain and reading.operations > 1:
            bad += [name for name in self._second_opinion(content, start, end) if name not in bad]
        if bad:
            self._findings.add_malicious(content.path, f"loading this pickle imports and can run {_listed(bad)}")
        if reading.computed and (certain or reading.complete):
            self._findings.add_malicious(content.path, "this pickle imports a name that is computed while it is loaded")
        if reading.extension and (certain or reading.complete):
            self._findings.add_suspicious(content.path, "this pickle uses extension codes, which only its loader knows")
        odd = [f"{i.module}.{i.name}" for i, v in verdicts.items() if v == "suspicious"]
        if odd and (reading.complete or (certain and reading.operations > 2)):
            self._findings.add_suspicious(content.path, f"loading this pickle imports {_listed(odd)}")
        if reading.unsure:
            self._findings.add_problem(
                "file.unreadable", f"{content.path} holds {reading.unsure}; it was read in part."
            )
        if reading.complete and (certain or reading.imports):
            self._findings.add_file(
                content.path,
                "pickle",
                imports=[f"{i.module}.{i.name}"[:200] for i in list(reading.imports)[:100]],
                operations=reading.operations,
            )

    def _second_opinion(self, content: Content, start: int, end: int) -> list[str]:
        """What picklescan itself says about the same bytes, for pickles that fit into memory."""
        if end - start > _SMALL or (file := content.seekable()) is None:
            return []
        file.seek(start)
        try:
            found = scan_pickle_bytes(io.BytesIO(file.read(end - start)), "pickle", multiple_pickles=False)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError):
            return []  # our own machine has followed it in any case
        # picklescan writes "unknown" where it can't follow a name that our machine has followed.
        return [
            f"{g.module}.{g.name}"
            for g in found.globals
            if g.safety is SafetyLevel.Dangerous and "unknown" not in (g.module, g.name)
        ]

    # -- archives

    def _zip(self, content: Content, depth: int, *, certain: bool) -> None:
        file = content.seekable()
        if file is None:
            return
        try:
            archive = RelaxedZipFile(file, "r")
            members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError, EOFError) as error:
            if certain:
                self._findings.add_problem("file.unreadable", f"{content.path} is a broken zip archive: {error}")
            return
        self._findings.add_file(content.path, "zip", members=len(members))
        for member in members:
            if not member.is_dir():
                self._member(archive, member, content, depth)

    def _member(self, archive: RelaxedZipFile, member: zipfile.ZipInfo, outer: Content, depth: int) -> None:
        path = f"{outer.path}!{member.filename}"
        # PyTorch's reader ignores the encryption flag, Python's refuses to go on: read what PyTorch reads.
        member.flag_bits &= ~0x1
        try:
            with archive.open(member) as opened:
                stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
                inner = outer.part(path, _data_offset(outer, member), member.file_size) if stored else None
                if inner is None:
                    inner = Content(path, member.file_size, stream=_Member(opened, member, self._findings))
                if os.path.basename(member.filename) == "config.json" and member.file_size <= _SMALL:
                    inner = inner.held(_SMALL) or inner
                    if tensors.has_lambda(inner.sequential()):
                        self._findings.add_suspicious(path, "Keras Lambda layer: Python code that runs with the model")
                self.file(inner, depth + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
            self._findings.add_problem("file.unreadable", f"{path} can't be read: {error}")
        except ValueError as error:
            self._findings.add_problem("file.unreadable", f"{path} can't be read: {error}")

    def _tar(self, content: Content, depth: int) -> None:
        reader = content.sequential()
        self._findings.add_file(content.path, "tar")
        self.tar_entries(content, reader, prefix=f"{content.path}!", depth=depth + 1)

    def tar_entries(self, content: Content, reader: Any, *, prefix: str, depth: int) -> int:
        """Judge all files of a tar; how many. Raises UnreadableError, LimitExceededError."""
        skip = (lambda size: reader.seek(size, os.SEEK_CUR)) if content.stream is None else None
        count = 0
        for entry in tars.entries(reader, skip):
            count += 1
            path = prefix + entry.name
            if entry.sparse:
                self._findings.add_problem("file.unsupported", f"{path} is stored as a sparse file; store it plainly.")
                continue
            inner = content.part(path, entry.offset, entry.size)
            if inner is not None and entry.offset + entry.size > (content.size or 0):
                raise UnreadableError("the tar ends inside a file")
            self.file(inner or Content(path, entry.size, stream=entry.reader), depth)
        return count

    def _compressed(self, content: Content, kind: str, depth: int) -> None:
        stream = Decompressed(kind, content.sequential(), self._findings)
        inner = Content(f"{content.path}!", None, stream=stream)
        try:
            head = inner.head()
        except UnreadableError:
            # Two bytes of magic are no proof; content that does not decompress from its start can't be loaded.
            if kind != "zlib":
                raise
            return
        if kind == "zlib" and not (_is_declared(head) or _kind(head, None)):
            return
        self.file(inner, depth + 1)

    def _foreign_archive(self, content: Content, kind: str, depth: int) -> None:
        name = content.path.rsplit("/", 1)[-1].lower()
        if (self._weights and depth == 0) or name.endswith(_MODEL_SUFFIXES):
            self._findings.add_problem(
                "file.unsupported", f"{content.path} is a {kind} archive, which can't be looked into; use zip or tar."
            )

    # -- tensor files

    def _tensors(self, content: Content, head: bytes, kind: str) -> None:
        self._findings.add_file(content.path, kind, size=content.size)
        try:
            if kind == "numpy":
                reader = content.sequential()
                header = tensors.numpy_header(reader)
                if header.holds_objects:
                    self._follow(content, Source(reader), declared=True, base=header.data_offset)
            elif kind == "safetensors":
                tensors.check_safetensors(content)
            elif kind == "gguf":
                tensors.check_gguf(head, content.size)
            elif kind == "onnx":
                tensors.check_onnx(content)
            elif kind == "hdf5" and tensors.has_lambda(content.sequential()):
                self._findings.add_suspicious(content.path, "Keras Lambda layer: Python code that runs with the model")
        except tensors.MalformedError as error:
            self._findings.add_problem("file.malformed", f"{content.path}: {error}")


_COMPRESSED = frozenset({"gzip", "zstd", "bzip2", "xz", "lzma", "zlib"})
_CONTAINERS = _COMPRESSED | {"zip", "tar"}
_FOREIGN_ARCHIVES = {"7z": b"7z\xbc\xaf\x27\x1c", "rar": b"Rar!\x1a\x07", "lz4": b"\x04\x22\x4d\x18"}


def _kind(head: bytes, size: int | None) -> str | None:
    if head.startswith((b"PK\x03\x04", _EOCD)):
        return "zip"
    if tars.is_header(head):
        return "tar"
    for name, magic in _FOREIGN_ARCHIVES.items():
        if head.startswith(magic):
            return name
    return compression.sniff(head) or tensors.sniff(head, size)


def _is_declared(head: bytes) -> bool:
    """Protocols 2 and up begin with PROTO; unpicklers accept up to 5."""
    return len(head) > 2 and head[0] == 0x80 and head[1] <= 5


def _has_zip_end(file: Any) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    return _EOCD in file.read(_TAIL)


def _data_offset(outer: Content, member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header (APPNOTE.TXT 4.3.7)."""
    file = outer.seekable()
    if file is None:
        return 0
    file.seek(member.header_offset)
    local = file.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    return member.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


class _Member:
    """A zip member as a stream, counted against the limits."""

    def __init__(self, opened: Any, member: zipfile.ZipInfo, findings: Findings) -> None:
        self._opened, self._member, self._findings, self._given = opened, member, findings, 0

    def read(self, size: int, /) -> bytes:
        data: bytes = self._opened.read(size)
        self._given += len(data)
        self._findings.unpack(len(data))
        limits = self._findings.limits
        taken = max(1, self._member.compress_size)
        if self._given > limits.ratio_from_bytes and self._given > limits.ratio * taken:
            raise BombError(f"{taken} bytes expand to more than {self._given}")
        return data


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:_QUOTED])
    return f"{shown} and {len(names) - _QUOTED} more" if len(names) > _QUOTED else shown


__all__ = ["HEAD", "Walker"]
