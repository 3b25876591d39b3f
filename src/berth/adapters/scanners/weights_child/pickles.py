"""What would this pickle import and call? An abstract machine that follows every opcode and executes none.

Built because a list of opcodes is not enough: names can be taken from the memo, built before other values are dropped,
or hidden behind arguments that Python's own disassembler refuses but the unpickler accepts. The machine tracks
strings, numbers, tuples, imports and calls; whatever else lies on the stack is opaque. Reference: Lib/pickletools.py
(opcodes and their arguments), Lib/pickle.py `_Unpickler` (what each does).
"""

from __future__ import annotations

import codecs
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from berth.adapters.scanners.weights_child.content import Readable, read_exactly

_CHUNK = 256 << 10
_LONGEST_TEXT = 4096
_LONGEST_LINE = 1 << 20
_TUPLE = 64
_STATE = 64


class BrokenError(Exception):
    """The stream is no pickle from here on: an unpickler would stop too."""


class TooLargeError(Exception):
    """A limit was reached before the end of the pickle."""


@dataclass(frozen=True)
class Import:
    module: str
    name: str


@dataclass
class Call:
    """The result of calling something; `state` is what BUILD put into it."""

    target: Any
    arguments: Any = None
    state: Any = None


class _Opaque:
    """A value that is not followed. `maybe_text`: it may be a string that was computed while loading."""

    def __init__(self, maybe_text: bool) -> None:
        self.maybe_text = maybe_text


_OTHER = _Opaque(maybe_text=False)
_COMPUTED = _Opaque(maybe_text=True)


@dataclass
class Reading:
    """What one pickle does. `computed` = it imports a name that is only known while loading."""

    imports: dict[Import, None] = field(default_factory=dict)
    called: dict[Import, None] = field(default_factory=dict)
    computed: bool = False
    extension: bool = False
    calls: int = 0
    operations: int = 0
    complete: bool = False
    error: str = ""
    position: int = 0  # where it ended, in bytes from the start of the source
    unsure: str = ""  # something that could not be followed although an unpickler could


class Source:
    """Buffered bytes with skipping, for data of any size."""

    def __init__(self, reader: Readable) -> None:
        self._reader = reader
        self._buffer = b""
        self._at = 0
        self._before = 0

    @property
    def position(self) -> int:
        return self._before + self._at

    def byte(self) -> int:
        """The next byte, or -1 at the end."""
        if self._at >= len(self._buffer) and not self._fill():
            return -1
        value = self._buffer[self._at]
        self._at += 1
        return value

    def peek(self) -> int:
        value = self.byte()
        if value >= 0:
            self._at -= 1
        return value

    def read(self, size: int) -> bytes:
        end = self._at + size
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        data = self._buffer[self._at :]
        self._at = len(self._buffer)
        rest = read_exactly(self._reader, size - len(data))
        self._before += len(rest)
        data += rest
        if len(data) < size:
            raise BrokenError("ends too early")
        return data

    def skip(self, size: int) -> None:
        inside = min(size, len(self._buffer) - self._at)
        self._at += inside
        size -= inside
        while size:
            data = self._reader.read(min(size, 1 << 20))
            if not data:
                raise BrokenError("ends too early")
            size -= len(data)
            self._before += len(data)

    def line(self) -> bytes:
        """Up to and without the next newline; the middle of an overlong line is dropped."""
        kept = bytearray()
        while True:
            end = self._buffer.find(b"\n", self._at)
            piece = self._buffer[self._at : end if end >= 0 else len(self._buffer)]
            kept += piece[: _LONGEST_LINE - len(kept)]
            if end >= 0:
                self._at = end + 1
                return bytes(kept)
            self._at = len(self._buffer)
            if not self._fill():
                raise BrokenError("ends too early")

    def _fill(self) -> bool:
        self._before += len(self._buffer)
        self._buffer = self._reader.read(_CHUNK)
        self._at = 0
        return bool(self._buffer)


_BY_CODE = {ord(op.code): op for op in pickletools.opcodes}
_SIZES = {-2: (1, False), -3: (4, True), -4: (4, False), -5: (8, False)}
# Opcodes that only push a value which is neither text nor callable, with the size of their argument in bytes.
_PUSHES_OTHER = frozenset(
    {"NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
    | {"EMPTY_LIST", "EMPTY_SET"}
)
_INTEGERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
_TEXTS = frozenset(
    {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)
_JOBLIB_ARRAY = Import("joblib.numpy_pickle", "NumpyArrayWrapper")
_DTYPE = re.compile(r"[<>|=]?([biufcSUmMO])(\d*)\Z")


class Machine:
    """Follows one pickle.

    Args:
        strict: stop where an unpickler would stop for lack of values (for bytes that merely might be a pickle);
            otherwise go on with opaque values, so that nothing behind an oddity is missed.
    """

    def __init__(self, source: Source, *, strict: bool, operations: int, stack: int) -> None:
        self._source = source
        self._strict = strict
        self._operations = operations
        self._limit = stack
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.reading = Reading()

    def run(self) -> Reading:
        """Follow the pickle to its STOP or to where it breaks. Raises TooLargeError, and what the reader raises."""
        reading = self.reading
        try:
            while True:
                code = self._source.byte()
                if code < 0:
                    raise BrokenError("ends without STOP")
                op = _BY_CODE.get(code)
                if op is None:
                    raise BrokenError(f"{code:#04x} is no opcode")
                reading.operations += 1
                if reading.operations > self._operations or len(self._stack) + len(self._memo) > self._limit:
                    raise TooLargeError
                if op.name == "STOP":
                    self._pop()
                    reading.complete = True
                    return reading
                self._step(op)
        except BrokenError as error:
            reading.error = str(error)
            return reading
        finally:
            reading.position = self._source.position

    # -- the stack

    def _pop(self) -> Any:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) > floor:
            return self._stack.pop()
        if self._strict:
            raise BrokenError("takes a value that is not there")
        return _OTHER

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            if self._strict:
                raise BrokenError("takes a mark that is not there")
            values, self._stack = self._stack, []
            return values
        at = self._marks.pop()
        values = self._stack[at:]
        del self._stack[at:]
        return values

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    # -- one opcode

    def _step(self, op: Any) -> None:
        name = op.name
        push = self._stack.append
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            key = len(self._memo) if name == "MEMOIZE" else self._index(op)
            self._memo[key] = self._top()
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            key = self._index(op)
            if key not in self._memo:
                raise BrokenError("takes a memo entry that is not there")
            push(self._memo[key])
        elif name in _INTEGERS:
            push(self._integer(op))
        elif name in _TEXTS:
            push(self._text(op))
        elif name in _PUSHES_OTHER:
            self._skip_argument(op)
            push(_OTHER)
        elif name == "MARK":
            self._marks.append(len(self._stack))
        elif name == "POP":
            if self._marks and self._marks[-1] == len(self._stack):
                self._marks.pop()
            else:
                self._pop()
        elif name == "POP_MARK":
            self._pop_mark()
        elif name == "DUP":
            push(self._top())
        elif name in _CONTAINERS:
            _CONTAINERS[name](self)
        elif name in _CALLS:
            _CALLS[name](self)
        else:
            self._rare(op)

    def _rare(self, op: Any) -> None:
        name = op.name
        if name in ("PROTO", "FRAME"):
            self._skip_argument(op)
        elif name == "PERSID":
            self._skip_argument(op)
            self._stack.append(_COMPUTED)
        elif name == "BINPERSID":
            self._pop()
            self._stack.append(_COMPUTED)
        elif name in ("EXT1", "EXT2", "EXT4"):
            # The name comes from a registry of the loading program.
            self._skip_argument(op)
            self.reading.extension = True
            self._stack.append(_COMPUTED)
        elif name == "NEXT_BUFFER":
            self._stack.append(_OTHER)
        elif name != "READONLY_BUFFER":
            raise BrokenError(f"{name} is not known")

    # -- arguments

    def _skip_argument(self, op: Any) -> None:
        if op.arg is None:
            return
        size = op.arg.n
        if size == -1:
            self._source.line()
        elif size < 0:
            width, signed = _SIZES[size]
            length = int.from_bytes(self._source.read(width), "little", signed=signed)
            if length < 0:
                raise BrokenError("negative length")
            self._source.skip(length)
        else:
            self._source.skip(size)

    def _index(self, op: Any) -> int:
        if op.arg.n == -1:
            try:
                return int(self._source.line())
            except ValueError as error:
                raise BrokenError("unreadable memo index") from error
        return int.from_bytes(self._source.read(op.arg.n), "little")

    def _integer(self, op: Any) -> Any:
        size = op.arg.n
        if size == -1:
            line = self._source.line()
            if self._strict and not re.match(rb"\s*[-+]?[0-9][0-9a-fA-FxXoObBL_]*\s*\Z", line):
                raise BrokenError("unreadable number")
            try:
                return int(line.rstrip(b"L")[:20])
            except ValueError:
                return _OTHER  # other notations that some unpicklers accept
        if size < 0:
            self._skip_argument(op)
            return _OTHER
        return int.from_bytes(self._source.read(size), "little", signed=op.name == "BININT")

    def _text(self, op: Any) -> Any:
        size = op.arg.n
        if size == -1:
            return self._quoted(op.name, self._source.line())
        width, signed = _SIZES[size]
        length = int.from_bytes(self._source.read(width), "little", signed=signed)
        if length < 0:
            raise BrokenError("negative length")
        if length > _LONGEST_TEXT:
            self._source.skip(length)
            return _OTHER  # no module or function has such a name
        return self._source.read(length).decode("utf-8", "surrogatepass" if "UNICODE" in op.name else "replace")

    def _quoted(self, name: str, line: bytes) -> Any:
        try:
            if name == "UNICODE":
                return line.decode("raw-unicode-escape")
            line = line.strip()
            if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
                raise BrokenError("unreadable string")
            return codecs.escape_decode(line[1:-1])[0].decode("utf-8", "replace")
        except ValueError as error:
            raise BrokenError("unreadable string") from error

    # -- imports and calls

    def _import(self, module: Any, name: Any) -> None:
        if isinstance(module, str) and isinstance(name, str):
            found = Import(module, name)
            self.reading.imports[found] = None
            self._stack.append(found)
            return
        for value in (module, name):
            if not isinstance(value, str | Call) and not (isinstance(value, _Opaque) and value.maybe_text):
                raise BrokenError("imports something that is not a name")
        self.reading.computed = True
        self._stack.append(_COMPUTED)

    def import_global(self) -> None:
        module, name = self._source.line(), self._source.line()
        try:
            self._import(module.decode("utf-8"), name.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BrokenError("imports something that is not a name") from error

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._import(module, name)

    def _call(self, target: Any, arguments: Any) -> None:
        self.reading.calls += 1
        if isinstance(target, Import):
            self.reading.called[target] = None
            if target.module in ("copyreg", "copy_reg") and target.name == "_reconstructor":
                # Makes an instance of its first argument.
                target = arguments[0] if isinstance(arguments, tuple) and arguments else target
        elif isinstance(target, Call):
            self._call_result(target)
        self._stack.append(Call(target, arguments))

    def _call_result(self, target: Call) -> None:
        if isinstance(target.target, Import):
            self.reading.called[target.target] = None

    def reduce(self) -> None:
        arguments, target = self._pop(), self._pop()
        self._call(target, arguments)

    def new_object_ex(self) -> None:
        self._pop()
        arguments, target = self._pop(), self._pop()
        self._call(target, arguments)

    def inst(self) -> None:
        self.import_global()
        target = self._pop()
        self._call(target, tuple(self._pop_mark()[:_TUPLE]))

    def obj(self) -> None:
        values = self._pop_mark()
        if not values:
            raise BrokenError("OBJ without a class")
        self._call(values[0], tuple(values[1 : _TUPLE + 1]))

    def build(self) -> None:
        state = self._pop()
        instance = self._top()
        if isinstance(instance, Call):
            instance.state = state
            # Setting state calls `__setstate__`, which the imported class defines.
            if isinstance(instance.target, Import):
                self.reading.called[instance.target] = None
                if instance.target == _JOBLIB_ARRAY:
                    self._joblib_array(state)

    # -- containers

    def empty_dict(self) -> None:
        self._stack.append({})

    def tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def marked_tuple(self) -> None:
        values = self._pop_mark()
        self._stack.append(tuple(values) if len(values) <= _TUPLE else _OTHER)

    def marked_dict(self) -> None:
        self._stack.append(_as_dict({}, self._pop_mark()))

    def marked_other(self) -> None:
        self._pop_mark()
        self._stack.append(_OTHER)

    def into_marked(self) -> None:
        self._pop_mark()
        self._top()

    def append(self) -> None:
        self._pop()
        self._top()

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        _as_dict(self._top(), [key, value])

    def set_items(self) -> None:
        values = self._pop_mark()
        _as_dict(self._top(), values)

    # -- joblib

    def _joblib_array(self, state: Any) -> None:
        """joblib writes an array's bytes into the middle of its pickle (joblib/numpy_pickle.py, `read_array`)."""
        facts = state if isinstance(state, dict) else {}
        dtype, shape = facts.get("dtype"), facts.get("shape")
        letters = dtype.arguments[0] if isinstance(dtype, Call) and isinstance(dtype.arguments, tuple) else None
        kind = _DTYPE.match(letters) if isinstance(letters, str) else None
        if kind is None or not isinstance(shape, tuple) or not all(isinstance(n, int) for n in shape):
            self.reading.unsure = "a joblib array of an unknown kind"
            raise BrokenError("joblib array")
        if isinstance(facts.get("numpy_array_alignment_bytes"), int):
            self._source.skip(self._source.read(1)[0])
        if kind[1] == "O":
            inner = Machine(
                self._source, strict=False, operations=self._operations - self.reading.operations, stack=self._limit
            )
            self._adopt(inner.run())
            return
        size = int(kind[2] or "1") * (4 if kind[1] == "U" else 1)
        for extent in shape:
            size *= extent
        self._source.skip(max(0, size))

    def _adopt(self, inner: Reading) -> None:
        self.reading.imports |= inner.imports
        self.reading.called |= inner.called
        self.reading.computed |= inner.computed
        self.reading.extension |= inner.extension
        self.reading.calls += inner.calls
        self.reading.operations += inner.operations
        if not inner.complete:
            raise BrokenError(inner.error)


def _as_dict(target: Any, values: list[Any]) -> Any:
    """Put key, value, … into a small dict of texts; others are not followed."""
    if isinstance(target, dict):
        for key, value in zip(values[::2], values[1::2], strict=False):
            if isinstance(key, str) and len(target) < _STATE:
                target[key] = value
    return target


_CONTAINERS: dict[str, Callable[[Machine], None]] = {
    "EMPTY_TUPLE": lambda machine: machine.tuple_of(0),
    "EMPTY_DICT": lambda machine: machine.empty_dict(),
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "TUPLE": Machine.marked_tuple,
    "DICT": Machine.marked_dict,
    "LIST": Machine.marked_other,
    "FROZENSET": Machine.marked_other,
    "APPENDS": Machine.into_marked,
    "ADDITEMS": Machine.into_marked,
    "APPEND": Machine.append,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
}
_CALLS: dict[str, Callable[[Machine], None]] = {
    "GLOBAL": Machine.import_global,
    "STACK_GLOBAL": Machine.stack_global,
    "REDUCE": Machine.reduce,
    "NEWOBJ": Machine.reduce,
    "NEWOBJ_EX": Machine.new_object_ex,
    "INST": Machine.inst,
    "OBJ": Machine.obj,
    "BUILD": Machine.build,
}
