"""`xumi invoke`: call a model once, one that runs already or one that is started for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from berth.authoring.running import Options, started
from berth.authoring.samples import combine, short
from berth.authoring.testing import value_of
from berth.cli.output import Format, Output, OutputOption
from berth.cli.xumi import _starting as starting
from berth.errors import BerthError, InvalidInput, RemoteError, Unavailable
from xumi.caller import Caller, CallFailed
from xumi.contract import MEDIA
from xumi.problems import InvalidValue
from xumi.values import File


def invoke(
    target: Annotated[
        str | None, typer.Argument(help="A folder or version to start for this call.", metavar="[PATH|REF]")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Address of a model that runs already.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=VALUE, or NAME=@FILE; may be given several times."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Folder that files among the outputs are written to.", file_okay=False)
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that the call may take.")] = 300.0,
    python: starting.PythonOption = None,
    trust_code: starting.TrustOption = False,
    engine: starting.EngineOption = "auto",
    image: starting.ImageOption = None,
    bundle: starting.BundleOption = False,
    network: starting.NetworkOption = False,
    force: starting.ForceOption = False,
    output: OutputOption = Format.text,
) -> None:
    """Call a model once and print its outputs.

    Text is taken as it is; numbers, lists and objects are JSON; @FILE reads a file. With --url the model runs already,
    otherwise the folder or version is started for this one call (see `xumi run`).

    Example: xumi invoke --url http://127.0.0.1:8080 -i content=@photo.jpg
    """
    out = Output(output)
    if (target is None) == (url is None):
        raise InvalidInput("Name what to call.", hint="Write a folder or version to start, or --url of one that runs.")
    if url is not None:
        caller = _caller(url, timeout)
        _call(caller, _interface(caller), inputs or [], out, save=save)
        return
    found = starting.open_target(target or ".", force=force, out=out)
    options = Options(
        python=python, trust_code=trust_code, engine=engine, image=image, bundle=bundle, network=network
    )  # fmt: skip
    with starting.ended_in_order(), started(found, options) as running:
        caller = running.wait_ready(found.manifest.runtime.startup_timeout)
        caller.timeout = timeout
        # Known here: a program that serves itself need not tell it.
        _call(caller, found.manifest.to_json()["interface"], inputs or [], out, save=save)


def _caller(url: str, timeout: float) -> Caller:
    try:
        return Caller(url, timeout)
    except CallFailed as error:
        raise InvalidInput(f"{error}.") from error


def _interface(caller: Caller) -> Mapping[str, Any] | None:
    """What the model says that it takes and gives, or None when it does not say."""
    try:
        return caller.manifest().get("interface") or {}
    except CallFailed as error:
        if error.status == 404:
            return None
        raise _problem(error) from error


def _call(
    caller: Caller, interface: Mapping[str, Any] | None, given: Sequence[str], out: Output, *, save: Path | None
) -> None:
    unknown: Mapping[str, Any] = {"type": "text" if interface is not None else "unknown"}
    interface = interface or {}
    fields = {f["name"]: f for f in interface.get("inputs") or ()}
    outputs = list(interface.get("outputs") or ())
    values = dict(_value(text, fields, unknown) for text in given)
    try:
        pieces = []
        for piece in caller.invoke(values):
            pieces.append(piece)
            if interface.get("streaming") and not out.json:
                print(json.dumps(piece, ensure_ascii=False), flush=True)
    except CallFailed as error:
        raise _problem(error) from error
    if interface.get("streaming"):
        if out.json:
            out.result(pieces)
        return
    answer = combine(outputs, pieces)
    notes = _written(answer, outputs, save) if save is not None else {}
    out.result(answer, "\n".join(f"{name}: {notes.get(name) or _shown(value)}" for name, value in answer.items()))


def _value(text: str, fields: Mapping[str, Mapping[str, Any]], unknown: Mapping[str, Any]) -> tuple[str, Any]:
    """Name and value of one -i. Raises InvalidInput."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"-i {text} has no value.", hint=f"Write -i {text}=VALUE or -i {text}=@FILE.")
    # The model itself says what is wrong with a name it does not know.
    field = fields.get(name, unknown)
    if field["type"] == "unknown":
        return name, _guessed(value)
    try:
        if value.startswith("@"):
            path = Path(value[1:])
            return name, value_of(field, path.read_bytes(), name=path.name)
        if field["type"] in ("text", "enum", *MEDIA):
            return name, value
        return name, json.loads(value)
    except OSError as error:
        raise InvalidInput(f"-i {name}: {value[1:]} cannot be read: {error.strerror}.") from error
    except InvalidValue as error:
        raise InvalidInput(f"-i {name}: {value[1:]} {error}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"-i {name}: {value!r} is not JSON, which an input of type {field['type']} must be."
        ) from error


def _guessed(value: str) -> Any:
    """JSON where it is some, else text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _problem(error: CallFailed) -> BerthError:
    detail = {"status": error.status, "code": error.code, "field": error.field}
    if error.status in (400, 413, 415, 422):
        hint = f"See the input {error.field} in what the model says about itself: GET /xumi." if error.field else None
        return InvalidInput(f"The model refused the call: {error.message}", hint=hint, detail=detail)
    if error.status in (0, 503):
        return Unavailable(f"{error.message}.", hint="`xumi run` starts a model.", detail=detail)
    return RemoteError(f"The call failed (HTTP {error.status}): {error.message}", detail=detail)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else short(value)


def _written(answer: Mapping[str, Any], fields: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, str]:
    """Writes the files among the outputs, named after the output: what the model calls them is not to be trusted."""
    notes: dict[str, str] = {}
    for field in fields:
        name = field["name"]
        if field["type"] in MEDIA and name in answer:
            file = File.from_json(answer[name])
            folder.mkdir(parents=True, exist_ok=True)
            suffix = Path(file.name).suffix[:12] if file.name else ""
            target = folder / f"{name}{suffix if suffix[1:].isalnum() else ''}"
            target.write_bytes(file.data)
            notes[name] = f"{target} ({len(file.data)} bytes, {file.media_type})"
    return notes
