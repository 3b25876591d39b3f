"""A rule is one line; what cannot be carried out is said before anything moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.client.sync_rules import SyncRule, read_file, read_line
from berth.errors import BerthError


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("ml/demo", SyncRule("ml/demo")),
        ("ml/* ^1", SyncRule("ml/*", range="^1")),
        ("ml/demo >=1,<2 folder:/srv/models", SyncRule("ml/demo", range=">=1,<2", to="folder:/srv/models")),
        ("ml/demo https://hub.example:5000 all", SyncRule("ml/demo", to="https://hub.example:5000", all=True)),
        ("ml/demo push", SyncRule("ml/demo", push=True)),
        ("ml/demo local ~1.2", SyncRule("ml/demo", range="~1.2")),
    ],
)
def test_a_line_is_read(line: str, rule: SyncRule) -> None:
    assert read_line(line) == rule


@pytest.mark.parametrize(
    "line",
    ["ml", "ML/demo", "a/b/c", "ml/demo ^1 ^2", "ml/demo folder:relative", "ml/demo ftp://x", "ml/demo push https://x.example",
     "ml/demo nonsense", "ml/"],
)  # fmt: skip
def test_a_line_that_means_nothing_is_refused(line: str) -> None:
    with pytest.raises(BerthError):
        read_line(line)


def test_the_file_is_a_list_of_lines_or_mappings(tmp_path: Path) -> None:
    assert read_file(tmp_path) == []
    (tmp_path / "sync.yaml").write_text("- ml/* ^1\n- {models: ml/own, push: true}\n")
    assert read_file(tmp_path) == [SyncRule("ml/*", range="^1"), SyncRule("ml/own", push=True)]


@pytest.mark.parametrize(
    "text", ["ml/*", "- 3", "- {models: ml/x, colour: red}", "- {models: ml/x, push: yes please}", "- [", "- ''"]
)
def test_a_wrong_file_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "sync.yaml").write_text(text + "\n")
    with pytest.raises(BerthError, match=r"sync\.yaml"):
        read_file(tmp_path)
