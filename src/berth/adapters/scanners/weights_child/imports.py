"""What does it mean when a pickle imports this name? picklescan's lists first, then ours for what it misses."""

from __future__ import annotations

import io
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from functools import lru_cache
from typing import Literal

from picklescan.scanner import SafetyLevel, scan_pickle_bytes

Judgement = Literal["harmless", "suspicious", "dangerous"]

_IDENTIFIER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")

# Modules none of whose functions belong into saved weights: they import, run, load or connect.
_DANGEROUS_MODULES = frozenset(
    """
    _ctypes _imp _interpreters _pickle _posixsubprocess _socket _ssl _testcapi _thread _winapi _xxsubinterpreters
    antigravity code codeop concurrent.futures dill dis faulthandler fickling ftplib gc http imp importlib inspect
    jsonpickle linecache mailcap marshal mmap msilib multiprocessing nntplib ntpath.os pathlib.os pip pkg_resources
    platform poplib posixpath.os pwd readline sched select selectors setuptools shelve signal site smtplib socketserver
    sqlite3 tarfile telnetlib tempfile threading torch.hub torch.jit.load urllib urllib3 wsgiref xmlrpc zipapp
    zipfile zipimport
    """.split()  # noqa: SIM905
)
_DANGEROUS_NAMES: dict[str, frozenset[str]] = {
    "builtins": frozenset(
        {"__import__", "delattr", "globals", "input", "locals", "memoryview", "setattr", "vars", "__build_class__"}
    ),
    "io": frozenset({"open", "open_code", "FileIO", "OpenWrapper"}),
    "_io": frozenset({"open", "open_code", "FileIO", "_WindowsConsoleIO"}),
    "codecs": frozenset({"open", "EncodedFile"}),
    "functools": frozenset({"partial", "partialmethod", "reduce", "singledispatch"}),
    "types": frozenset({"FunctionType", "LambdaType", "CodeType", "MethodType", "ModuleType"}),
    "numpy": frozenset({"load", "fromfile", "memmap", "loadtxt", "genfromtxt", "save"}),
    "numpy.lib.npyio": frozenset({"load", "NpzFile"}),
    "numpy.lib._npyio_impl": frozenset({"load", "NpzFile"}),
    "joblib": frozenset({"load", "dump"}),
    "joblib.numpy_pickle": frozenset({"load", "load_temporary_memmap", "NDArrayWrapper", "ZNDArrayWrapper"}),
    "pandas": frozenset({"read_pickle", "eval"}),
    "pandas.io.pickle": frozenset({"read_pickle"}),
    "torch": frozenset({"load", "compile"}),
    "torch.serialization": frozenset({"load", "_load", "_legacy_load"}),
    "pathlib": frozenset({"Path.write_text", "Path.write_bytes", "Path.unlink", "Path.open", "os"}),
    "weakref": frozenset({"finalize"}),
    "atexit": frozenset({"register"}),
    "pkgutil": frozenset({"resolve_name", "get_loader", "find_loader", "get_data"}),
}
# Steps of a dotted name ("Popen.os.system") that lead out of the named module.
_ESCAPES = frozenset(
    """
    os sys subprocess posix nt builtins importlib ctypes socket shutil pickle runpy pty system popen Popen exec eval
    execve spawn spawnl spawnv getattr setattr open modules
    """.split()  # noqa: SIM905
)
_HARMLESS: dict[str, frozenset[str]] = {
    "builtins": frozenset(
        {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range"}
        | {"set", "slice", "str", "tuple", "Ellipsis", "NotImplemented", "NoneType"}
    ),
    "_codecs": frozenset({"encode"}),
    "copyreg": frozenset({"_reconstructor", "__newobj__"}),
    "copy_reg": frozenset({"_reconstructor"}),
    "collections": frozenset({"Counter", "OrderedDict", "defaultdict", "deque"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "joblib.numpy_pickle": frozenset({"NumpyArrayWrapper"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
    "numpy.core.numeric": frozenset({"_frombuffer"}),
    "numpy._core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy.core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy.random._pickle": frozenset({"__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"}),
    "torch": frozenset({"BoolStorage", "Size", "Tensor", "device", "dtype"}),
    "torch._utils": frozenset({"_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2"}),
    "torch.nn.parameter": frozenset({"Parameter"}),
}
_ALIASES = {"__builtin__": "builtins", "copy_reg": "copyreg", "__builtins__": "builtins"}


_WORSE: tuple[Judgement, ...] = ("harmless", "suspicious", "dangerous")


@lru_cache(maxsize=4096)
def judge(module: str, name: str) -> Judgement:
    """Judge `from module import name` in a pickle. `name` may be dotted (protocol 4)."""
    # Below protocol 3 the unpickler renames modules of Python 2; which protocol counts is the pickle's own claim.
    renamed = NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name)
    return max((_judge(module, name), _judge(*renamed)), key=_WORSE.index)


def _judge(module: str, name: str) -> Judgement:
    theirs = _picklescan(module, name)
    if theirs == "dangerous" or not is_importable(module, name):
        return "dangerous"  # no library pickles a name that can't be imported; it is there to confuse scanners
    if name in _DANGEROUS_NAMES.get(module, ()) or _within(module, _DANGEROUS_MODULES):
        return "dangerous"
    steps = name.split(".")
    if len(steps) > 1 and any(step in _ESCAPES or step.startswith("__") for step in steps):
        return "dangerous"
    if name in _HARMLESS.get(_ALIASES.get(module, module), ()):
        return "harmless"
    return theirs


def is_importable(module: str, name: str) -> bool:
    """Whether both could be written in a Python import."""
    return bool(_IDENTIFIER.match(module) and _IDENTIFIER.match(name))


def _within(module: str, modules: frozenset[str]) -> bool:
    steps = module.split(".")
    return any(".".join(steps[:n]) in modules for n in range(1, len(steps) + 1))


def _picklescan(module: str, name: str) -> Judgement:
    """Through its public door: a pickle that imports exactly this name, which nobody ever loads."""
    stream = b"\x80\x04" + _text(module) + _text(name) + b"\x93."
    worst: Judgement = "harmless"
    for found in scan_pickle_bytes(io.BytesIO(stream), "import").globals:
        if found.safety is SafetyLevel.Dangerous:
            return "dangerous"
        if found.safety is SafetyLevel.Suspicious:
            worst = "suspicious"
    return worst


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    return b"X" + len(data).to_bytes(4, "little") + data
