"""Numbers of bytes on the command line."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from berth.cli.output import human_size
from berth.cli.sizes import parse_size, size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("20000000", 20_000_000),
        ("20MB", 20_000_000),
        ("20mb/s", 20_000_000),
        ("15MiB", 15 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("2k", 2000),
        ("3T", 3 * 10**12),
        ("7b", 7),
        (" 1KiB/s ", 1024),
    ],
)
def test_a_size_is_given_in_digits_or_as_people_say_it(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e6", "1,5MB", "12 parsecs", "0x10", "1.MB", "5iB", "٣MB2"])
def test_what_is_no_size_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write 20000000, 20MB or 15MiB"):
        parse_size(text)


@given(st.integers(0, 10**18))
def test_digits_mean_themselves(count: int) -> None:
    assert parse_size(str(count)) == parse_size(f"{count}B") == count


@given(st.integers(0, 10**14))
def test_what_we_print_can_be_given_back(count: int) -> None:
    assert parse_size(human_size(count)) == pytest.approx(count, rel=0.06, abs=1)


def test_an_option_has_a_least_size_and_may_have_a_number_that_means_no_limit() -> None:
    assert size(1)("15MiB") == 15 * 2**20
    assert size(none=-1)("-1") == -1
    with pytest.raises(typer.BadParameter, match="the least is 1"):
        size(1)("0")
    with pytest.raises(typer.BadParameter, match="is not a number of bytes"):
        size()("-1")
