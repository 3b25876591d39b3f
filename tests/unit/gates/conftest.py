"""Property tests here measure rules, not speed: on a busy machine an example may take longer than Hypothesis allows."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("gates", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gates")
