"""Which errors does the runtime know?"""

from __future__ import annotations

from typing import Any, Dict, Optional


class InvalidValue(Exception):
    """A value that breaks the contract; `path` is where in the value, such as "boxes[2].x"."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path

    def below(self, outer: str) -> InvalidValue:
        """The same problem seen from one level further out."""
        inner = self.path
        joined = outer if not inner else (outer + inner if inner.startswith("[") else f"{outer}.{inner}")
        return InvalidValue(self.message, joined)


class InvalidInput(InvalidValue):
    """Raised by a model's predict() for input that is well-formed but makes no sense; the caller gets a 422."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message, field)


class HttpProblem(Exception):
    """An answer other than 200."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str = "",
        headers: Optional[Dict[str, str]] = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.headers = dict(headers or {})
        # A body of another protocol than ours, such as the Open Inference Protocol's.
        self.body: Optional[Dict[str, Any]] = None

    def to_json(self) -> Dict[str, Any]:
        """The answer's body."""
        if self.body is not None:
            return self.body
        error: Dict[str, Any] = {"code": self.code, "message": self.message}
        if self.field:
            error["field"] = self.field
        return {"error": error}


class StartFailed(Exception):
    """The model cannot start; `exit_code` tells which kind: 2 set up wrong, 3 weights missing, 4 setup() failed."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
