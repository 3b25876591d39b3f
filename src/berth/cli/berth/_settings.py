"""Which settings hold for a command? Its own options first, then the environment, then the defaults."""

from __future__ import annotations

from pydantic import ValidationError

from berth.errors import SetupError
from berth.settings import ServiceSettings


def service_settings(**options: object) -> ServiceSettings:
    """The settings, with those `options` on top that are not None. Raises SetupError naming what is wrong."""
    try:
        return ServiceSettings.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        problems = [f"BERTH_{'.'.join(map(str, p['loc'])).upper()}: {p['msg']}" for p in error.errors()]
        raise SetupError(
            "The settings are wrong: " + "; ".join(problems) + ".", hint="docs/reference/settings.md lists them all."
        ) from error
