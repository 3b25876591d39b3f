"""Where do the options come from, and from nowhere else?"""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.settings import ClientSettings


def test_the_local_repository_is_xumi_home_or_a_folder_of_its_own_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """HOME is where the folder lies, never the folder itself."""
    monkeypatch.delenv("XUMI_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ClientSettings().home != tmp_path
    assert ClientSettings().home.name == ".xumi"
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "builds"))
    assert ClientSettings().home == tmp_path / "builds"
