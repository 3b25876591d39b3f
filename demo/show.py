"""How does the demo speak? Numbered steps, the commands as typed, their output, and a tick or a reason to stop."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WIDTH = 140
COLOURS = {"bold": "1", "dim": "2", "green": "32", "red": "31", "yellow": "33", "cyan": "36"}


class DemoFailedError(Exception):
    """A step did not do what the demo promises; the text says what was expected."""


@dataclass
class Story:
    """Prints the demo and keeps what its summary needs.

    Attributes:
        shorten: long texts (folders, secrets) and what is shown in their place.
    """

    shorten: dict[str, str] = field(default_factory=dict)
    results: list[tuple[str, str]] = field(default_factory=list)
    number: int = 0
    begun: float = field(default_factory=time.monotonic)

    def step(self, title: str) -> None:
        self.number += 1
        print(f"\n{paint(f'{self.number:2d}. {title}', 'bold')}", flush=True)

    def say(self, text: str) -> None:
        print(f"    {self.plain(text)}", flush=True)

    def good(self, text: str, *, summary: str | None = None) -> None:
        print(f"    {paint('✓', 'green')} {self.plain(text)}", flush=True)
        if summary:
            self.results.append(("✓", summary))

    def skip(self, text: str) -> None:
        print(f"    {paint('– left out:', 'yellow')} {self.plain(text)}", flush=True)
        self.results.append(("–", f"left out: {text}"))

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        expect: int | tuple[int, ...] | None = 0,
        show: bool = True,
        lines: int = 14,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would, show it and the end of its output.

        Args:
            env: variables on top of the machine's own.
            expect: the exit status that must come, or one of several; None for any but 0.
            lines: so many lines of output are shown.
        Raises:
            DemoFailedError: another exit status, with the whole output.
        """
        typed = shlex.join([Path(command[0]).name, *map(str, command[1:])])
        print(f"    {paint('$ ' + self.plain(typed), 'cyan')}", flush=True)
        ran = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            input=stdin,
            timeout=600,
            check=False,
        )
        output = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
        wanted_codes = (expect,) if isinstance(expect, int) else expect
        wrong = ran.returncode == 0 if wanted_codes is None else ran.returncode not in wanted_codes
        if wrong:
            wanted = "a refusal" if expect is None else f"exit status {expect}"
            raise DemoFailedError(f"{wanted} was expected, not {ran.returncode}:\n" + "\n".join(output))
        if show:
            if len(output) > lines:
                output = [*output[: lines - 1], f"… {len(output) - lines + 1} more lines"]
            for line in output:
                # Reasons are long sentences and shown whole; a table's row only as far as it fits.
                shown = textwrap.wrap(self.plain(line), WIDTH, break_on_hyphens=False, subsequent_indent="      ")
                for part in shown[: 1 if "   " in line.strip() else 8]:
                    print(f"      {paint(part, 'dim')}", flush=True)
        return ran

    def plain(self, text: str) -> str:
        """A text without the folders and secrets of this run."""
        for long, short in self.shorten.items():
            text = text.replace(long, short)
        return text

    def end(self) -> None:
        print(f"\n{paint('What was shown', 'bold')} in {time.monotonic() - self.begun:.0f} s")
        for mark, text in self.results:
            print(f"  {paint(mark, 'green' if mark == '✓' else 'yellow')} {self.plain(text)}")


def paint(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"
