"""`xumi bump`: the right next version, in the file, with every other byte as it was."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.authoring import bump, manifest
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from berth.errors import InvalidInput, ManifestFileInvalid
from berth.oci.version import SemVer

FILE = """\
# The version of the format is not the version of the model.
xumi: 1
name: acme/echo
version: {version}   # bumped by CI
title: "version: 1.2.3"
entry:
  command: [run, "version: 1.2.3"]
runtime: {{base: x}}
"""


@pytest.mark.parametrize(
    ("old", "part", "pre", "new"),
    [
        ("1.2.3", None, None, "1.2.4"),
        ("1.2.3", "patch", None, "1.2.4"),
        ("1.2.3", "minor", None, "1.3.0"),
        ("1.2.3", "major", None, "2.0.0"),
        ("1.2.4-rc.1", None, None, "1.2.4"),
        ("1.2.3+build.7", None, None, "1.2.4"),
        ("1.2.3", None, "alpha", "1.2.4-alpha.1"),
        ("1.2.4-alpha.1", None, "alpha", "1.2.4-alpha.2"),
        ("1.2.4-alpha.9", None, "alpha", "1.2.4-alpha.10"),
        ("1.2.4-alpha.2", None, "beta", "1.2.4-beta.1"),
        ("1.2.3", "minor", "rc", "1.3.0-rc.1"),
        ("1.3.0-rc.1", "minor", "rc", "1.3.0-rc.2"),
        ("1.2.4-rc.1", None, "alpha", "1.2.5-alpha.1"),
        ("1.2.4-alpha.1", "major", "alpha", "2.0.0-alpha.1"),
        ("0.1.0", None, "a.b", "0.1.1-a.b.1"),
    ],
)
def test_the_next_version(old: str, part: str | None, pre: str | None, new: str) -> None:
    assert bump.next_version(old, part, pre) == new


@pytest.mark.parametrize("pre", ["", "a b", "01", "a..b", "ü", "a+b"])
def test_a_label_that_no_version_can_carry_is_refused(pre: str) -> None:
    with pytest.raises(InvalidInput):
        bump.next_version("1.2.3", None, pre)


@given(
    st.tuples(*[st.integers(0, 50)] * 3),
    st.sampled_from(["", "-rc.1", "-alpha.2", "-dev.7"]),
    st.sampled_from([None, "major", "minor", "patch"]),
    st.sampled_from([None, "alpha", "rc", "zz"]),
)
def test_the_next_version_is_a_higher_one(
    numbers: tuple[int, int, int], suffix: str, part: str | None, pre: str | None
) -> None:
    old = "{}.{}.{}".format(*numbers) + suffix
    assert SemVer.parse(bump.next_version(old, part, pre)) > SemVer.parse(old)


@pytest.mark.parametrize("version", ["1.2.3", '"1.2.3"', "'1.2.3'"])
@pytest.mark.parametrize(("before", "after"), [("", ""), ("\ufeff", ""), ("", "\r")])
def test_only_the_version_changes(tmp_path: Path, version: str, before: str, after: str) -> None:
    text = before + FILE.format(version=version).replace("\n", f"{after}\n")
    file = tmp_path / "xumi.yaml"
    file.write_bytes(text.encode())
    file.chmod(0o640)
    done = bump.bump_file(tmp_path, "minor")
    assert (done.old, done.new) == ("1.2.3", "1.3.0")
    assert file.read_bytes().decode() == text.replace(
        f"version: {version} ", f"version: {version.replace('1.2.3', '1.3.0')} ", 1
    )
    assert file.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["xumi.yaml"]


def test_flow_style_is_changed_too(tmp_path: Path) -> None:
    (tmp_path / "xumi.yaml").write_text(
        '{xumi: 1, name: a/b, "version": "1.2.3", entry: {command: [x]}, runtime: {base: x}}\n'
    )
    bump.bump_file(tmp_path)
    assert '"version": "1.2.4", entry' in (tmp_path / "xumi.yaml").read_text()


def test_a_version_that_is_not_written_plainly_is_left_to_its_author(tmp_path: Path) -> None:
    text = FILE.format(version='"1.2\\u002e3"')
    (tmp_path / "xumi.yaml").write_text(text)
    with pytest.raises(InvalidInput, match="not written plainly"):
        bump.bump_file(tmp_path)
    assert (tmp_path / "xumi.yaml").read_text() == text


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(FILE.format(version="1.2.3"))
    (tmp_path / "xumi.yaml").symlink_to("real.yaml")
    bump.bump_file(tmp_path)
    assert (tmp_path / "xumi.yaml").is_symlink()
    assert manifest.load(tmp_path / "real.yaml").manifest.version == "1.2.4"


def test_a_wrong_file_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "xumi.yaml").write_text(FILE.format(version="1.2"))
    with pytest.raises(ManifestFileInvalid):
        bump.bump_file(tmp_path)
    with pytest.raises(ManifestFileInvalid, match="cannot be read"):
        bump.bump_file(tmp_path / "nowhere")


# --- --pre auto ------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> None:
    names = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet")
    for number in range(3):
        (root / "xumi.yaml").write_text(FILE.format(version="1.2.3") + f"# {number}\n")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", "x", "--date", "2026-01-02T03:04:05+00:00")
    return root


def test_automatic_counts_the_commits(repository: Path) -> None:
    assert bump.bump_file(repository, None, "auto", dry_run=True).new == "1.2.4-dev.3"
    # The same commit gives the same version, however often it is asked and wherever the clock stands.
    first = bump.bump_file(repository, None, "auto")
    second = bump.bump_file(repository, None, "auto", now=lambda: datetime(2001, 1, 1, tzinfo=UTC))
    assert (first.new, second.new, first.counted) == ("1.2.4-dev.3", "1.2.4-dev.3", "commits")
    assert bump.bump_file(repository, "minor", "auto").new == "1.3.0-dev.3"


def test_automatic_in_a_shallow_clone_is_the_time_of_the_commit(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{repository}", "shallow")
    done = bump.bump_file(tmp_path / "shallow", None, "auto")
    committed = subprocess.run(
        ["git", "-C", str(repository), "log", "-1", "--format=%cd", "--date=format-local:%Y%m%d%H%M%S"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "TZ": "UTC"},
    ).stdout.strip()
    assert (done.new, done.counted) == (f"1.2.4-dev.{committed}", "commit time")


def test_automatic_without_a_repository_is_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "xumi.yaml").write_text(FILE.format(version="1.2.3"))
    done = bump.bump_file(tmp_path, None, "auto", now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert (done.new, done.counted) == ("1.2.4-dev.20260102030405", "time")


def test_the_command_prints_old_and_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def xumi(*arguments: str) -> tuple[int, str]:
        return run("xumi", COMMANDS, ["bump", *arguments]), capsys.readouterr().out

    (tmp_path / "xumi.yaml").write_text(FILE.format(version="1.2.3"))
    monkeypatch.chdir(tmp_path)
    assert xumi("minor") == (0, "1.2.3 → 1.3.0\n")
    code, out = xumi("--pre", "alpha", "-d", str(tmp_path), "-o", "json")
    assert code == 0
    assert {k: json.loads(out)[k] for k in ("old", "new", "written")} == {
        "old": "1.3.0",
        "new": "1.3.1-alpha.1",
        "written": True,
    }
    assert xumi("--dry-run") == (0, "1.3.1-alpha.1 → 1.3.1\n")
    assert manifest.load(tmp_path).manifest.version == "1.3.1-alpha.1"
    assert xumi("sideways")[0] != 0
