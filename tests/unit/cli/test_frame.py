"""What holds for every command of both programs: help, exit codes, errors, output."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from berth.cli import main as door
from berth.cli.berth import COMMANDS as BERTH
from berth.cli.lazy import Branch, LazyCommand, Leaf, leaves, load
from berth.cli.main import run, wants_json
from berth.cli.output import Format, Output, human_size
from berth.cli.xumi import COMMANDS as XUMI
from berth.errors import Denied, NotFound, SetupError
from tests.unit.cli.conftest import Ran

EVERY = [("berth", *words) for words in leaves(BERTH)] + [("xumi", *words) for words in leaves(XUMI)]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], cli: Callable[..., Ran]) -> None:
    ran = cli(*words, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: {' '.join(words)} ")
    assert len(ran.out.splitlines()) > 4


# They run until they are told to stop, and log; a report is printed byte for byte as its tool wrote it.
WITHOUT_JSON = {("berth", "up"), ("berth", "serve"), ("berth", "worker"), ("xumi", "evidence", "report")}


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_shows_an_example_that_it_understands_and_prints_json(
    words: tuple[str, ...], cli: Callable[..., Ran]
) -> None:
    said = cli(*words, "--help").out
    # The help is wrapped at the width of a terminal; an example ends where the next paragraph begins.
    examples = [" ".join(text.split()) for text in re.findall(r"Example: (.*?)(?=\n\n|\Z)", said, re.DOTALL)]
    assert examples
    for example in examples:
        assert f"{example} ".startswith(f"{' '.join(words)} ")
        arguments = shlex.split(example.partition(" <")[0])[len(words) :]
        leaf = leaves({"berth": BERTH, "xumi": XUMI}[words[0]])[words[1:]]
        LazyCommand(words[-1], leaf).make_context(words[-1], arguments)  # raises on what it does not know
    assert "--output" in said or words in WITHOUT_JSON


@pytest.mark.parametrize("program", ["berth", "xumi"])
def test_a_program_lists_its_commands(program: str, cli: Callable[..., Ran]) -> None:
    ran = cli(program, "--help")
    assert ran.code == 0
    for name in {"berth": BERTH, "xumi": XUMI}[program].commands:
        assert f"\n  {name} " in ran.out
    assert cli(program).code == 2


def test_help_loads_no_command() -> None:
    # Neither the service's nor the transfer's libraries are needed to list the commands.
    code = (
        "import sys\nfrom berth.cli.main import run\nfrom berth.cli.xumi import COMMANDS\n"
        "run('xumi', COMMANDS, ['--help'])\n"
        "print([m for m in ('httpx', 'rich', 'cryptography', 'pydantic', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_shell_completes_commands_and_options() -> None:
    code = "import sys; sys.argv = ['berth']\nfrom berth.cli.main import berth\nberth()"

    def complete(words: str, number: int) -> list[str]:
        more = {"_BERTH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **more}, check=False
        )
        return done.stdout.split()

    assert complete("berth pro", 1) == ["project", "promote"]
    assert complete("berth project ", 2) == ["create", "ls", "show", "set", "rm"]
    assert "--policy" in complete("berth project create --p", 3)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["key", "generate"], ["push", "--parallel", "0"], ["explain", "a/b", "--nonsense"]]
)
def test_wrong_usage_is_exit_2_with_a_hint(arguments: list[str], cli: Callable[..., Ran]) -> None:
    ran = cli("xumi", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "→ See `xumi" in ran.err
    as_json = cli("xumi", *arguments, "-o", "json")
    assert as_json.code == 2
    assert as_json.error["code"] == "usage"


def raising(error: BaseException) -> Branch:
    def fail() -> None:
        raise error

    module = type(sys)("tests_raising")
    module.fail = fail  # type: ignore[attr-defined]
    sys.modules["tests_raising"] = module
    return Branch("Fails.", {"fail": Leaf("tests_raising:fail", "Fail."), "other": Leaf("tests_raising:fail", "x")})


def test_an_error_is_a_message_and_a_hint_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("p", raising(NotFound("There is no such thing.", hint="Look again.")), ["fail"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: There is no such thing.\n→ Look again.\n")


def test_an_error_is_json_on_stderr_when_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotFound("There is no such thing.", hint="Look again.", detail={"digest": "x"})
    branch = raising(error)
    assert run("p", branch, ["fail", "-o", "json"]) == 2  # this command has no such option
    capsys.readouterr()
    assert door._print_error(error.code, error.message, error.hint, error.detail, as_json=True) is None
    document = json.loads(capsys.readouterr().err)
    assert document == {
        "error": {
            "code": "not_found",
            "message": "There is no such thing.",
            "hint": "Look again.",
            "detail": {"digest": "x"},
        }
    }


def test_a_denial_prints_every_reason(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [{"code": "unsigned", "message": "No signature."}, {"code": "unapproved", "message": "No approval."}]
    assert run("p", raising(Denied("Not admitted.", reasons=reasons)), ["fail"]) == 1
    assert capsys.readouterr().err == (
        "error: Not admitted.\n  - unsigned: No signature.\n  - unapproved: No approval.\n"
    )


def test_what_nobody_expected_has_a_message_and_a_way_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    branch = raising(ZeroDivisionError("division by zero"))
    assert run("p", branch, ["fail"]) == 1
    err = capsys.readouterr().err
    assert err == (
        "error: ZeroDivisionError: division by zero\n→ Run `p --debug …` again to see where, and report it.\n"
    )
    assert run("p", branch, ["--debug", "fail"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert run("p", branch, ["fail", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_exit_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("p", raising(KeyboardInterrupt()), ["fail"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_missing_package_names_the_extra_to_install() -> None:
    module = type(sys)("tests_importing")
    sys.modules["tests_importing"] = module
    with pytest.raises(SetupError) as caught:
        load("a_package_that_is_missing.inside:command")
    assert caught.value.hint == 'Install the service: pip install "berth[server]".'


def test_the_version_is_printed(cli: Callable[..., Ran]) -> None:
    ran = cli("xumi", "--version")
    assert ran.code == 0
    assert ran.out.startswith("xumi ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ls", "-o", "json"], True),
        (["ls", "--output", "json"], True),
        (["ls", "--output=json"], True),
        (["ls", "-ojson"], True),
        (["ls", "-o", "text"], False),
        (["ls", "--", "-o", "json"], False),
        ([], False),
    ],
)
def test_json_is_recognised_before_parsing(arguments: list[str], expected: bool) -> None:
    assert wants_json(arguments) is expected


def test_a_table_is_lined_up_and_json_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"name": "a", "size": 1, "more": {"k": "v"}},
        {"name": "longer", "size": None, "more": True},
    ]
    Output().table(rows, ["name", ("size", "bytes"), "more"])
    assert capsys.readouterr().out == ('NAME    BYTES  MORE\na       1      {"k": "v"}\nlonger  -      yes\n')
    Output(Format.json).table(rows, ["name"])
    assert json.loads(capsys.readouterr().out) == rows
    Output().table([], ["name"], empty="Nothing here.")
    assert capsys.readouterr() == ("", "Nothing here.\n")


def test_bytes_are_written_for_people_in_text_and_as_numbers_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [{"bytes_done": 3 << 20, "bytes": None, "count": 2048}]
    Output().table(rows, ["bytes_done", "bytes", "count"])
    assert capsys.readouterr().out == "BYTES DONE  BYTES  COUNT\n3.0 MiB     -      2048\n"
    Output(Format.json).table(rows, ["bytes_done"])
    assert json.loads(capsys.readouterr().out) == rows


def test_what_takes_long_says_how_far_it_is_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with Output(Format.json).following(clock=lambda: now[0]) as tell:
        for now[0], word in ((9.9, "too soon"), (10.0, "one"), (19.0, "too soon again"), (20.0, "two")):
            tell(word)
    assert capsys.readouterr() == ("", "one\ntwo\n")


def test_on_a_terminal_one_line_is_rewritten_and_taken_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Output().following() as tell:
        tell("one")
        tell("two")
    assert capsys.readouterr() == ("", "\r\x1b[Kone\r\x1b[Ktwo\r\x1b[K")


def test_notes_and_progress_never_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(Format.json)
    out.note("hello")
    with out.progress() as progress:
        progress.start("weights.bin", 2048)
        progress.advance("weights.bin", 2048)
        progress.finish("weights.bin", "uploaded")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "hello\nuploaded: weights.bin (2.0 KiB)\n"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 1024**3, "3.0 GiB"), (2**41, "2.0 TiB")]
)
def test_sizes_are_written_as_people_say_them(count: int, text: str) -> None:
    assert human_size(count) == text
