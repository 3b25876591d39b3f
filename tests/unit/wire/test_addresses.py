"""Which addresses may be connected, and how long to wait (RFC 6890; RFC 9110 section 10.2.3)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from berth.errors import RemoteError
from berth.wire.addresses import AddressGuard
from berth.wire.retry import RetryPolicy, retry_after

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "::1",
    "fe80::1",
    "fd00::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "224.0.0.1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_special_addresses_are_refused(address: str) -> None:
    with pytest.raises(RemoteError):
        AddressGuard().check("registry.example", address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_reached(address: str) -> None:
    AddressGuard().check("registry.example", address)


def test_a_chosen_host_may_be_private_and_no_other() -> None:
    guard = AddressGuard(private_hosts=("Registry.Corp.",))
    guard.check("registry.corp", "10.0.0.5")
    with pytest.raises(RemoteError):
        guard.check("metadata.corp", "169.254.169.254")


def test_private_addresses_can_be_allowed_but_multicast_never() -> None:
    guard = AddressGuard(allow_private=True)
    guard.check("any", "10.0.0.5")
    with pytest.raises(RemoteError):
        guard.check("any", "224.0.0.1")
    with pytest.raises(RemoteError):
        guard.check("any", "0.0.0.0")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("soon", None),
        ("-5", None),
        (None, None),
    ],
)
def test_retry_after_is_a_delay_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)) == seconds


def test_waits_double_up_to_the_cap() -> None:
    policy = RetryPolicy(attempts=9, base_seconds=1.0, cap_seconds=10.0)
    for failures, ceiling in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (20, 10)]:
        assert ceiling / 2 <= policy.wait(failures) <= ceiling
    assert policy.wait(1, 3600.0) == 10.0
    assert policy.wait(1, -5.0) == 0.0
