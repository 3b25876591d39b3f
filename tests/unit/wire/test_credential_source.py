"""Credentials that end by themselves: asked before each request, anew after a refusal; scopes rewritten; no cookies."""

from __future__ import annotations

import base64

import pytest

from berth.errors import RemoteAuthError
from berth.wire import tags
from berth.wire.auth import Credential
from berth.wire.client import RegistryClient
from tests.unit.wire.conftest import IMPATIENT
from tests.unit.wire.peer import Answer, Asked, running

TAGS = b'{"tags": []}'


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"u:{password}".encode()).decode()


async def listed(client: RegistryClient) -> list[str]:
    return [tag async for tag in tags.ls(client, "lab/demo")]


async def test_a_refused_password_is_asked_for_again_once() -> None:
    good = ["one"]

    def registry(asked: Asked) -> Answer:
        if asked.headers.get("authorization") == basic(good[0]):
            return Answer(200, TAGS)
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    told: list[str | None] = []
    held = [Credential("u", "one")]

    async def source(refused: Credential | None) -> Credential:
        told.append(refused.password if refused else None)
        if refused is not None:
            held[0] = Credential("u", "two")
        return held[0]

    async with running(registry) as peer, RegistryClient(peer.url, credential_source=source, retry=IMPATIENT) as client:
        await listed(client)
        assert set(told) == {None}
        good[0] = "two"
        await listed(client)
        assert told.count("one") == 1
        good[0] = "three"
        with pytest.raises(RemoteAuthError):
            await listed(client)


async def test_a_refused_token_is_asked_for_again_once() -> None:
    def registry(asked: Asked) -> Answer:
        if asked.headers.get("authorization") == "Bearer new":
            return Answer(200, TAGS)
        return Answer(401, headers={"WWW-Authenticate": 'Bearer realm="https://elsewhere.example/token"'})

    async def source(refused: Credential | None) -> Credential:
        return Credential(token="new" if refused else "old")

    async with running(registry) as peer, RegistryClient(peer.url, credential_source=source, retry=IMPATIENT) as client:
        await listed(client)
    assert [a.headers["authorization"] for a in peer.asked] == ["Bearer old", "Bearer new"]


async def test_scopes_are_rewritten_before_they_are_asked_for() -> None:
    def registry(asked: Asked) -> Answer:
        if asked.path == "/token":
            return Answer(200, b'{"token": "t", "expires_in": 300}')
        if asked.headers.get("authorization") == "Bearer t":
            return Answer(200, TAGS)
        return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="http://{asked.headers["host"]}/token"'})

    async with (
        running(registry) as peer,
        RegistryClient(peer.url, retry=IMPATIENT, scope=lambda scope: f"{scope},push") as client,
    ):
        await listed(client)
    assert [a.query["scope"] for a in peer.asked if a.path == "/token"] == [["repository:lab/demo:pull,push"]]


async def test_cookies_are_neither_kept_nor_sent() -> None:
    async with (
        running(lambda _: Answer(200, TAGS, {"Set-Cookie": "sid=abc; Path=/"})) as peer,
        RegistryClient(peer.url, retry=IMPATIENT) as client,
    ):
        await listed(client)
        await listed(client)
    assert [a.headers.get("cookie") for a in peer.asked] == [None, None]
