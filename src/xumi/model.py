"""What does an author write? A class with setup() and predict()."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping


class Model:
    """Base class of a served model.

    Attributes:
        weights: folder of each checkpoint by name; complete before setup() is called.
        manifest: the manifest as plain data.
    """

    weights: Mapping[str, Path] = {}
    manifest: Mapping[str, Any] = {}

    def setup(self) -> None:
        """Called once before the first call: load the weights here. Until it returns the model is not ready."""

    def predict(self, *args: Any, **inputs: Any) -> Any:
        """Answers one call; keyword arguments and result (a dict) are those of the manifest's interface."""
        raise NotImplementedError(f"{type(self).__name__} has no predict()")
