"""Which file answers a command? Loads it only when the command is used, so `--help` and completion stay fast.

An index maps command names to a `Leaf` ("module:function" and one line of help) or a `Branch` (a nested index).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from berth.errors import SetupError


@dataclass(frozen=True)
class Leaf:
    """One command: `target` is "module:function", `help` the line shown in its group's list."""

    target: str
    help: str


@dataclass(frozen=True)
class Branch:
    """A group of commands under one noun."""

    help: str
    commands: Mapping[str, Leaf | Branch]


def load(target: str) -> Callable[..., Any]:
    """The function that "module:function" names.

    Raises SetupError when it needs a package of the service's extra that is not installed.
    """
    module, _, name = target.partition(":")
    try:
        function = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("berth", "xumi"):
            raise
        raise SetupError(
            f"This command needs the Python package {error.name!r}, which is not installed.",
            hint='Install the service: pip install "berth[server]".',
        ) from error
    if not callable(function):
        raise AttributeError(f"{target} is not a function.")
    return function  # type: ignore[no-any-return]


class LazyCommand(TyperCommand):
    """Stands for a command in lists and completion; becomes the real one when its arguments are parsed."""

    def __init__(self, name: str, leaf: Leaf) -> None:
        super().__init__(name, help=leaf.help, short_help=leaf.help, rich_markup_mode=None)
        self._leaf = leaf

    def real(self) -> Any:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(self.name)(load(self._leaf.target))
        return get_command(app)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.real().make_context(info_name, args, parent=parent, **extra)


class LazyGroup(TyperGroup):
    """A click group made from an index."""

    def __init__(self, name: str, branch: Branch, **attributes: Any) -> None:
        commands: dict[str, Any] = {}
        for command, entry in branch.commands.items():
            commands[command] = LazyCommand(command, entry) if isinstance(entry, Leaf) else LazyGroup(command, entry)
        super().__init__(
            name=name,
            commands=commands,
            help=branch.help,
            rich_markup_mode=None,
            no_args_is_help=True,
            **attributes,
        )


def leaves(branch: Branch, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Leaf]:
    """Every command below `branch` by its words; for the tests and the generated reference."""
    found: dict[tuple[str, ...], Leaf] = {}
    for name, entry in branch.commands.items():
        if isinstance(entry, Leaf):
            found[(*prefix, name)] = entry
        else:
            found.update(leaves(entry, (*prefix, name)))
    return found
