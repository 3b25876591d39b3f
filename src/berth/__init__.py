"""Berth: the registry for machine-learning models.

import berth

berth.package("acme/iris", predict=predict, setup=setup, weights="model.joblib")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from berth.authoring.package import package as package

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads `package` when it is first used, so that importing berth stays quick."""
    if name == "package":
        from berth.authoring.package import package

        return package
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
