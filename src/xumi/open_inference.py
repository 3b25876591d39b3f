"""How is a tensor model called by the Open Inference Protocol v2 (KServe, Triton)? JSON over HTTP; opt-in.

GET /v2 · /v2/health/live · /v2/health/ready · /v2/models/NAME[/versions/V][/ready] · POST /v2/models/NAME[…]/infer
NAME is the model's name with or without its project: `file-type`, or `acme%2Ffile-type`.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Mapping
from urllib.parse import unquote

from xumi.problems import HttpProblem, InvalidValue
from xumi.values import Tensor

# Our dtype → the protocol's datatype
DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_DTYPES = {theirs: ours for ours, theirs in DATATYPES.items()}
_BINARY = "inference-header-content-length"
Invoke = Callable[..., Dict[str, Any]]


class OpenInference:
    """The protocol's answers for one model, whose inputs and outputs are all tensors."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        interface = manifest.get("interface") or {}
        self.full_name = str(manifest.get("name", "model"))
        self.name = self.full_name.rpartition("/")[2]
        self.version = str(manifest.get("version", "0"))
        self.inputs: List[Mapping[str, Any]] = list(interface.get("inputs") or ())
        self.outputs: List[Mapping[str, Any]] = list(interface.get("outputs") or ())

    def get(self, path: str, *, ready: bool) -> Dict[str, Any]:
        """Health and metadata. Raises HttpProblem."""
        if path in ("/v2", "/v2/"):
            return {"name": "xumi", "version": "2", "extensions": []}
        if path == "/v2/health/live":
            return {"live": True}
        if path == "/v2/health/ready":
            return _ready({"ready": True}, ready)
        rest = self._below_model(path)
        if rest == "/ready":
            return _ready({"name": self.name, "ready": True}, ready)
        if rest == "/infer":
            raise _problem(405, "Use POST.", {"Allow": "POST"})
        if rest:
            raise _problem(404, f"There is no {path}.")
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "xumi",
            "inputs": [_metadata(field) for field in self.inputs],
            "outputs": [_metadata(field) for field in self.outputs],
        }

    def post(self, path: str, body: bytes, invoke: Invoke, *, headers: Mapping[str, str]) -> Dict[str, Any]:
        """One inference. Raises HttpProblem, with bodies as the protocol has them."""
        if self._below_model(path) != "/infer":
            raise _problem(404, f"There is no POST {path}.")
        if any(name.lower() == _BINARY for name in headers):
            raise _problem(400, "Binary tensors are not supported; send the data as JSON.")
        try:
            request = json.loads(body or b"{}")
            values = self._read(request)
            wanted = self._wanted(request)
        except (ValueError, RecursionError) as error:
            raise _problem(400, f"The body is not JSON: {error}") from None
        except InvalidValue as error:
            raise _problem(400, str(error)) from None
        try:
            found = invoke(values, as_base64=True)
        except HttpProblem as problem:
            # The protocol knows 400 for what the caller got wrong.
            raise _problem(400 if problem.status == 422 else problem.status, problem.message, problem.headers) from None
        answer: Dict[str, Any] = {"model_name": self.name, "model_version": self.version}
        if isinstance(request.get("id"), str):
            answer["id"] = request["id"]
        answer["outputs"] = [_write(name, found[name]) for name in wanted if name in found]
        return answer

    def _below_model(self, path: str) -> str:
        """What follows the model's name and version in the path: "", "/ready", "/infer". Raises HttpProblem."""
        parts = path.split("/")
        if len(parts) < 4 or parts[2] != "models":
            raise _problem(404, f"There is no {path}.")
        name = unquote(parts[3])
        if name not in (self.name, self.full_name):
            raise _problem(404, f"There is no model {name}; this is {self.name}.")
        rest = parts[4:]
        if rest[:1] == ["versions"] and len(rest) > 1:
            if unquote(rest[1]) != self.version:
                raise _problem(404, f"There is no version {unquote(rest[1])}; this is {self.version}.")
            rest = rest[2:]
        return "/" + "/".join(rest) if rest else ""

    def _read(self, request: Any) -> Dict[str, Any]:
        """The inputs as tensors. Raises InvalidValue."""
        if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
            raise InvalidValue("an object with a list of inputs is expected")
        found: Dict[str, Any] = {}
        for number, entry in enumerate(request["inputs"]):
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise InvalidValue("an object with a name is expected", f"inputs[{number}]")
            name = entry["name"]
            if name in found:
                raise InvalidValue("is given twice", name)
            try:
                found[name] = _tensor(entry)
            except InvalidValue as error:
                raise error.below(name) from None
        return found

    def _wanted(self, request: Mapping[str, Any]) -> List[str]:
        """Names of the outputs asked for; all when the request names none. Raises InvalidValue."""
        names = [str(field["name"]) for field in self.outputs]
        asked = request.get("outputs")
        if not asked:
            return names
        if not isinstance(asked, list):
            raise InvalidValue("a list is expected", "outputs")
        wanted = [str(entry.get("name")) if isinstance(entry, dict) else str(entry) for entry in asked]
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise InvalidValue(f"{unknown[0]} is not an output; there are: {', '.join(names)}", "outputs")
        return wanted


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if datatype not in _DTYPES:
        raise InvalidValue(f"{datatype!r} is not a datatype; write one of {', '.join(_DTYPES)}", "datatype")
    if not isinstance(shape, list):
        raise InvalidValue("a list of lengths is expected", "shape")
    if not isinstance(entry.get("data"), list):
        raise InvalidValue("a list of numbers is expected", "data")
    # Flat or nested in the tensor's own shape: both are the protocol's.
    given = Tensor.from_json(entry["data"], _DTYPES[datatype])
    if len(given.shape) > 1 and list(given.shape) != shape:
        raise InvalidValue(f"the lists have shape {list(given.shape)}, not {shape}", "data")
    return Tensor(given.dtype, shape, given.data)


def _write(name: str, value: Mapping[str, Any]) -> Dict[str, Any]:
    tensor = Tensor.from_json(value, value["dtype"])
    try:
        tensor.to_json()
    except InvalidValue as error:
        raise _problem(500, f"{name}: {error.message.partition(';')[0]}.") from None
    return {
        "name": name,
        "shape": list(tensor.shape),
        "datatype": DATATYPES[tensor.dtype],
        "data": list(tensor.flat()),
    }


def _metadata(field: Mapping[str, Any]) -> Dict[str, Any]:
    shape = [length if isinstance(length, int) else -1 for length in field["shape"]]
    return {"name": field["name"], "datatype": DATATYPES[field["dtype"]], "shape": shape}


def _ready(answer: Dict[str, Any], ready: bool) -> Dict[str, Any]:
    if not ready:
        raise _problem(503, "The model is not ready.", {"Retry-After": "1"})
    return answer


def _problem(status: int, message: str, headers: Any = None) -> HttpProblem:
    problem = HttpProblem(status, "open_inference", message, headers=headers)
    problem.body = {"error": message}
    return problem
