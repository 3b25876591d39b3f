"""What registries say about how often they may be asked, and what follows from it."""

from __future__ import annotations

import pytest

from berth.wire.client import RegistryClient
from berth.wire.pace import Pace, RateLimit, read
from berth.wire.retry import RetryPolicy
from tests.unit.wire.peer import Answer, Asked, running

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        # Docker Hub: https://docs.docker.com/docker-hub/usage/pulls/
        ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}, RateLimit(100, 76, 21600, None)),
        # GitHub: https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
        (
            {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4999", "x-ratelimit-reset": "1800000060"},
            RateLimit(5000, 4999, None, 60.0),
        ),
        # GitLab: https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/
        (
            {"ratelimit-limit": "60", "ratelimit-remaining": "0", "ratelimit-reset": "1799999999"},
            RateLimit(60, 0, None, 0.0),
        ),
        # draft-ietf-httpapi-ratelimit-headers-07: seconds from now
        ({"ratelimit-limit": "10", "ratelimit-remaining": "1", "ratelimit-reset": "7"}, RateLimit(10, 1, None, 7.0)),
        ({"content-type": "text/html"}, None),
        ({"ratelimit-limit": "many"}, None),
    ],
)
def test_headers_are_read(headers: dict[str, str], expected: RateLimit | None) -> None:
    assert read(headers, now=NOW) == expected


def paced(**headers: str) -> tuple[Pace, list[float]]:
    at = [100.0]
    pace = Pace(longest=30.0, clock=lambda: at[0], now=lambda: NOW)
    pace.seen({f"ratelimit-{name}": value for name, value in headers.items()})
    return pace, at


def test_with_plenty_left_nobody_waits() -> None:
    pace, _ = paced(limit="100", remaining="50", reset="60")
    assert pace.delay() == 0.0


def test_the_last_requests_are_spread_over_the_time_that_is_left() -> None:
    pace, at = paced(limit="100", remaining="3", reset="40")
    assert pace.delay() == 10.0
    at[0] += 10
    assert pace.delay() == 10.0


def test_with_nothing_left_we_wait_for_the_reset_but_never_longer_than_agreed() -> None:
    pace, at = paced(limit="100", remaining="0", reset="20")
    assert pace.delay() == 20.0
    at[0] += 21
    assert pace.delay() == 0.0
    endless, _ = paced(limit="100", remaining="0", reset="86400")
    assert endless.delay() == 30.0


def test_without_a_time_of_reset_nothing_can_be_waited_for() -> None:
    pace, _ = paced(limit="100;w=21600", remaining="0;w=21600")
    assert pace.delay() == 0.0


async def test_a_client_waits_instead_of_running_into_429() -> None:
    left = [2]

    def answer(_: Asked) -> Answer:
        left[0] -= 1
        return Answer(
            200, b"{}", {"RateLimit-Limit": "100", "RateLimit-Remaining": str(left[0]), "RateLimit-Reset": "12"}
        )

    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async with running(answer) as peer, RegistryClient(peer.url, retry=RetryPolicy(), sleep=sleep) as client:
        await client.ping()
        assert waited == []
        await client.ping()
        await client.ping()
        assert client.rate_limit is not None
        assert client.rate_limit.limit == 100
    assert [round(seconds) for seconds in waited] == [6, 12]
