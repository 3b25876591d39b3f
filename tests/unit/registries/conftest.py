"""The scripted service and command runner of the programs' tests."""

from __future__ import annotations

from tests.unit.cli.conftest import cli, home, service

__all__ = ["cli", "home", "service"]
