"""What would this pickle import and call? An abstract machine that follows every opcode and executes none.

Built because a list of opcodes is not enough: names can be taken from the memo, built before other values are dropped,
or hidden behind arguments that Python's own disassembler refuses but the unpickler accepts. The machine tracks
strings, numbers, tuples, imports and calls; whatever else lies on the stack is opaque. Reference: Lib/pickletools.py
(opcodes and their arguments), Lib/pickle.py `_Unpickler` (what each does).
"""

from __future__ import annotations

import codecs
import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from berth.adapters.scanners.weights_child.byte_source import BrokenError, Source, TooLargeError
from berth.adapters.scanners.weights_child.dtypes import Call, Import, holds_objects, letters_of

_LONGEST_TEXT = 4096
_TUPLE = 64
_STATE = 64


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


_STOP = ord(".")
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
_PROBE = 64 << 10


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
                known = _HANDLERS.get(code)
                if known is None:
                    raise BrokenError(f"{code:#04x} is no opcode")
                reading.operations += 1
                if reading.operations > self._operations or len(self._stack) + len(self._memo) > self._limit:
                    raise TooLargeError
                if code == _STOP:
                    self._pop()
                    reading.complete = True
                    return reading
                wants_opcode, handler, op = known
                if wants_opcode:
                    handler(self, op)
                else:
                    handler(self)
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

    # -- memo and plain values

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def put(self, op: Any) -> None:
        self._memo[self._index(op)] = self._top()

    def get(self, op: Any) -> None:
        key = self._index(op)
        if key not in self._memo:
            raise BrokenError("takes a memo entry that is not there")
        self._stack.append(self._memo[key])

    def push_integer(self, op: Any) -> None:
        self._stack.append(self._integer(op))

    def push_text(self, op: Any) -> None:
        self._stack.append(self._text(op))

    def push_other(self, op: Any) -> None:
        self._skip_argument(op)
        self._stack.append(_OTHER)

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def pop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def pop_mark(self) -> None:
        self._pop_mark()

    def duplicate(self) -> None:
        self._stack.append(self._top())

    def rare(self, op: Any) -> None:
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
        try:
            return self._source.read(length).decode("utf-8", "surrogatepass" if "UNICODE" in op.name else "replace")
        except UnicodeDecodeError as error:
            raise BrokenError("unreadable string") from error  # unpicklers end here too

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
        objects = holds_objects(dtype)
        if objects:
            # joblib calls `pickle.load` here.
            self._adopt(self._inner(self._source, strict=False).run())
            return
        # Should the bytes be a pickle all the same, it counts: a dtype has more ways to say "objects" than we follow.
        probe = self._inner(Source(io.BytesIO(self._source.ahead(_PROBE))), strict=True).run()
        self.reading.imports |= probe.called
        self.reading.called |= probe.called
        kind = letters_of(dtype)
        if (
            objects is None
            or kind is None
            or not isinstance(shape, tuple)
            or not all(isinstance(n, int) for n in shape)
        ):
            self.reading.unsure = "a joblib array of an unknown kind"
            raise BrokenError("joblib array")
        if isinstance(facts.get("numpy_array_alignment_bytes"), int):
            self._source.skip(self._source.read(1)[0])
        size = int(kind[2] or "1") * (4 if kind[1] == "U" else 1)
        for extent in shape:
            size *= extent
        self._source.skip(max(0, size))

    def _inner(self, source: Source, *, strict: bool) -> Machine:
        left = self._operations - self.reading.operations
        return Machine(source, strict=strict, operations=left, stack=self._limit)

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


def _handlers() -> dict[int, tuple[bool, Any, Any]]:
    """Opcode → (whether the handler wants it, handler, the opcode's description)."""
    with_opcode: dict[str, Any] = {"MEMOIZE": Machine.memoize}
    with_opcode |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put)
    with_opcode |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get)
    with_opcode |= dict.fromkeys(_INTEGERS, Machine.push_integer)
    with_opcode |= dict.fromkeys(_TEXTS, Machine.push_text)
    with_opcode |= dict.fromkeys(_PUSHES_OTHER, Machine.push_other)
    table: dict[int, tuple[bool, Any, Any]] = {}
    for op in pickletools.opcodes:
        simple = _SIMPLE.get(op.name)
        handler = simple or with_opcode.get(op.name, Machine.rare)
        table[ord(op.code)] = (simple is None, handler, op)
    return table


_SIMPLE: dict[str, Callable[[Machine], None]] = {
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.pop_mark,
    "DUP": Machine.duplicate,
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
    "GLOBAL": Machine.import_global,
    "STACK_GLOBAL": Machine.stack_global,
    "REDUCE": Machine.reduce,
    "NEWOBJ": Machine.reduce,
    "NEWOBJ_EX": Machine.new_object_ex,
    "INST": Machine.inst,
    "OBJ": Machine.obj,
    "BUILD": Machine.build,
}
_HANDLERS = _handlers()
