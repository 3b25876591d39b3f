"""Where do the two programs start and end? The CLI's door: every error becomes a message, a hint and an exit code.

Exit codes: 0 done · 1 an error with a message · 2 wrong usage · 3 the gate says no (`xumi explain`) · 130 interrupted.
With `-o json` the error is one JSON document on stderr: {"error": {"code", "message", "hint", "detail"}}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from itertools import zip_longest
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from berth.cli.lazy import Branch, LazyGroup
from berth.errors import BerthError, Denied

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_DENIED = 3
EXIT_INTERRUPTED = 130


def berth() -> NoReturn:
    """Entry point of the program `berth`."""
    from berth.cli.berth import COMMANDS

    sys.exit(run("berth", COMMANDS, sys.argv[1:]))


def xumi() -> NoReturn:
    """Entry point of the program `xumi`."""
    from berth.cli.xumi import COMMANDS

    sys.exit(run("xumi", COMMANDS, sys.argv[1:]))


def run(program: str, commands: Branch, arguments: Sequence[str]) -> int:
    """Runs one command line and returns the exit code; prints errors, lets none out."""
    as_json = wants_json(arguments)
    # --debug works before and after the command's name.
    debug = "--debug" in arguments
    rest = [a for a in arguments if a != "--debug"]
    try:
        code = _exit_code(group(program, commands).main(rest, prog_name=program, standalone_mode=False))
        if code == EXIT_INTERRUPTED:  # typer has caught the interrupt already
            print("Interrupted.", file=sys.stderr)
        return code
    except typer.TyperException as error:
        return _usage(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, `less`) has gone; the interpreter must not try to flush into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except BerthError as error:
        if debug:
            traceback.print_exc()
        _print_error(error.code, error.message, error.hint, error.detail, as_json=as_json)
        return EXIT_ERROR
    except Exception as error:  # noqa: BLE001 - the CLI's door: the unexpected gets a message and an exit code too
        if debug:
            traceback.print_exc()
        text = str(error).strip() or "no message"
        hint = None if debug else f"Run `{program} --debug …` again to see where, and report it."
        _print_error("internal", f"{type(error).__name__}: {text}", hint, {}, as_json=as_json)
        return EXIT_ERROR


def group(program: str, commands: Branch) -> LazyGroup:
    """The click group of a program: its index, `--version`, `--debug` and shell completion."""
    # Typer makes parameters from a function's signature; the commands come from our index instead of its decorators.
    app = typer.Typer(add_completion=True, rich_markup_mode=None)
    app.callback()(_global_options)
    parameters = get_command(app).params
    return LazyGroup(program, commands, params=parameters, context_settings={"help_option_names": ["-h", "--help"]})


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON; read before parsing, since parsing itself can fail."""
    words = list(arguments)
    for here, following in zip_longest(words, words[1:], fillvalue=""):
        if here == "--":
            return False
        if here in ("--output=json", "-ojson") or (here in ("-o", "--output") and following == "json"):
            return True
    return False


def _exit_code(returned: Any) -> int:
    return returned if isinstance(returned, int) and not isinstance(returned, bool) else 0


def _usage(error: Any, *, as_json: bool) -> int:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return EXIT_USAGE
    hint = f"See `{context.command_path} --help`." if context is not None else None
    if context is not None and not as_json:
        print(context.get_usage(), file=sys.stderr)
    _print_error("usage", message, hint, {}, as_json=as_json)
    return getattr(error, "exit_code", EXIT_USAGE)


def _print_error(code: str, message: str, hint: str | None, detail: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        document = {"error": {"code": code, "message": message, "hint": hint, "detail": detail}}
        print(json.dumps(document, ensure_ascii=False, default=str), file=sys.stderr)
        return
    print(f"error: {message}", file=sys.stderr)
    if code == Denied.code:
        for reason in detail.get("reasons", ()):
            print(f"  - {reason.get('code', '')}: {reason.get('message', '')}", file=sys.stderr)
    if hint:
        print(f"→ {hint}", file=sys.stderr)


def _print_version(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:
        print(f"{context.info_name} {_version()}")
        raise typer.Exit(0)


def _global_options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and exit.", callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Only a signature: `--version` acts in its callback, `--debug` is read before parsing."""


def _version() -> str:
    try:
        return metadata.version("berth")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"
