"""Addresses are taken apart as httpx does it, whichever way they go."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.wire.urls import Url, of, parse

HOSTS = [
    "registry.example",
    "127.0.0.1",
    "[::1]",
    "a-b.c1",
    "xn--bcher-kva.example",
    "Registry.Example",
    "bücher.example",
]
ODD = ["010.0.0.1", "256.0.0.1", "1.2.3", "user:secret@registry.example", "a..b", "0x7f.1"]
PORTS = ["", ":80", ":443", ":5000", ":65535", ":59999", ":60000"]
TARGETS = ["", "/", "/v2/", "/v2/a/b/manifests/1.0.0", "/a?b=c&d=%2F", "/a/../b", "/a/./b", "/.a", "/a.b/c..d", "/a#b"]
PARTS = st.text(alphabet="abc/.?&=%2Fé #'\"[]~:@", max_size=12)


def as_httpx(text: str, base: str | None = None) -> Url | None:
    try:
        return of(httpx.URL(text) if base is None else httpx.URL(base).join(text))
    except httpx.InvalidURL:
        return None


def ours(text: str, base: str | None = None) -> Url | None:
    try:
        return parse(text) if base is None else parse(base).join(text)
    except httpx.InvalidURL:
        return None


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
@pytest.mark.parametrize("host", HOSTS + ODD)
def test_a_whole_address_is_read_as_httpx_reads_it(scheme: str, host: str) -> None:
    for port in PORTS:
        for target in TARGETS:
            text = f"{scheme}://{host}{port}{target}"
            assert ours(text) == as_httpx(text), text


@given(PARTS)
def test_any_path_is_read_as_httpx_reads_it(rest: str) -> None:
    text = f"https://registry.example/{rest}"
    assert ours(text) == as_httpx(text)


@given(PARTS)
def test_what_an_answer_points_to_is_joined_as_httpx_joins_it(location: str) -> None:
    base = "https://registry.example:5000/v2/a/blobs/uploads/1?state=x"
    assert ours(location, base) == as_httpx(location, base)


@pytest.mark.parametrize("location", ["//elsewhere/x", "/x", "?y=1", "x/y", "../z", "http://other/x", "", "/a//b"])
def test_relative_places_are_joined_as_httpx_joins_them(location: str) -> None:
    base = "https://registry.example:5000/v2/a/blobs/uploads/1?state=x"
    assert ours(location, base) == as_httpx(location, base)


@pytest.mark.parametrize(
    ("text", "netloc"),
    [
        ("http://127.0.0.1:80/x", "127.0.0.1"),
        ("https://127.0.0.1:80/x", "127.0.0.1:80"),
        ("https://[::1]:5000/x", "[::1]:5000"),
        ("https://bücher.example/x", "xn--bcher-kva.example"),
    ],
)
def test_the_host_header_has_the_port_only_where_it_is_not_the_scheme_s(text: str, netloc: str) -> None:
    assert parse(text).netloc == netloc == httpx.URL(text).netloc.decode("ascii")


def test_what_is_shown_to_people_has_no_query_and_no_user() -> None:
    assert parse("https://u:p@registry.example/a?signature=secret").shown == "https://registry.example/a"


@given(PARTS)
def test_a_path_of_ours_is_sent_as_httpx_would_send_it(rest: str) -> None:
    origin = parse("https://registry.example/")
    try:
        wanted = of(httpx.URL("https://registry.example").copy_with(raw_path=f"/v2/{rest}".encode("ascii")))
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        with pytest.raises(type(error)):
            origin.at(f"/v2/{rest}")
    else:
        assert origin.at(f"/v2/{rest}") == wanted
