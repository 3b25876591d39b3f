"""Challenges, tokens and where credentials may go (distribution spec/auth)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator

import pytest

from berth.errors import InvalidInput, RemoteAuthError, RemoteError
from berth.wire import blobs, uploads
from berth.wire.auth import Credential
from berth.wire.client import RegistryClient, registry_origin
from berth.wire.retry import RetryPolicy
from berth.wire.sending import Upload
from tests.unit.wire.peer import Answer, Asked, running

IMPATIENT = RetryPolicy(attempts=3, base_seconds=0.0, cap_seconds=0.0)
ALICE = Credential(username="alice", password="pa:ss")
BASIC = "Basic " + base64.b64encode(b"alice:pa:ss").decode()
CONTENT = b"weights" * 1000
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Registry:
    """A registry with its token service on the same host; tokens are t1, t2, …, each good for `uses` requests."""

    def __init__(self, *, realm: str = "/token", expires: int | None = 300, uses: int = 1000) -> None:
        self.realm = realm
        self.expires = expires
        self.uses = uses
        self.issued = 0
        self.left: dict[str, int] = {}
        self.exchanges: list[Asked] = []
        self.url = ""

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/token":
            self.exchanges.append(asked)
            if asked.headers.get("authorization") not in (BASIC, None):
                return Answer(401)
            self.issued += 1
            token = f"t{self.issued}"
            self.left[f"Bearer {token}"] = self.uses
            body = {"token": token} | ({"expires_in": self.expires} if self.expires is not None else {})
            return Answer(200, json.dumps(body).encode())
        shown = asked.headers.get("authorization", "")
        if self.left.get(shown, 0) <= 0:
            actions = "pull" if asked.method in ("GET", "HEAD") else "pull,push"
            realm = self.realm if "://" in self.realm else self.url + self.realm
            challenge = f'Bearer realm="{realm}",service="reg",scope="repository:ml/demo:{actions}"'
            return Answer(401, headers={"WWW-Authenticate": challenge})
        self.left[shown] -= 1
        match asked.method:
            case "HEAD":
                return Answer(404)
            case "GET":
                return Answer(200, CONTENT)
            case "PUT":
                return Answer(201)
        return Answer(202, headers={"Location": "/v2/ml/demo/blobs/uploads/1"})


async def read(client: RegistryClient) -> bytes:
    return await blobs.read_all(client, "ml/demo", DIGEST, limit=100_000)


async def test_a_token_is_fetched_once_for_what_the_challenge_asks() -> None:
    registry = Registry()
    async with running(registry) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        registry.url = peer.url
        assert await read(client) == CONTENT
        assert await read(client) == CONTENT
    assert len(registry.exchanges) == 1
    assert registry.exchanges[0].query == {"service": ["reg"], "scope": ["repository:ml/demo:pull"]}
    assert registry.exchanges[0].headers["authorization"] == BASIC


async def test_without_a_credential_an_anonymous_token_is_fetched() -> None:
    registry = Registry()
    async with running(registry) as peer, RegistryClient(peer.url, retry=IMPATIENT) as client:
        registry.url = peer.url
        assert await read(client) == CONTENT
    assert "authorization" not in registry.exchanges[0].headers


async def test_a_token_that_is_refused_is_renewed_once() -> None:
    registry = Registry(uses=1)
    async with running(registry) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        registry.url = peer.url
        assert await read(client) == CONTENT
        assert await read(client) == CONTENT
    assert registry.issued == 2


async def test_a_token_that_never_works_is_not_fetched_for_ever() -> None:
    registry = Registry(uses=0)
    async with running(registry) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        registry.url = peer.url
        with pytest.raises(RemoteAuthError):
            await read(client)
    assert registry.issued == 1


async def test_a_short_lived_token_is_renewed_before_a_body_is_sent() -> None:
    # Each token ends within the 10 s of grace, so none is used twice: no upload is sent only to be refused.
    registry = Registry(expires=5)

    async def opened(offset: int) -> AsyncIterator[bytes]:
        yield CONTENT[offset:]

    async with running(registry) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        registry.url = peer.url
        await uploads.put(client, "ml/demo", Upload(DIGEST, len(CONTENT), opened))
        puts = [a for a in peer.asked if a.method == "PUT"]
    assert len(puts) == 1
    assert puts[0].headers["authorization"] == f"Bearer t{registry.issued}"


async def test_a_token_expiring_between_chunks_is_renewed_and_the_upload_goes_on() -> None:
    registry = Registry(uses=2)

    class Keeping(Registry):
        received = b""

        def __call__(self, asked: Asked) -> Answer:
            answer = super().__call__(asked)
            if asked.method == "PATCH" and answer.status == 202:
                Keeping.received += asked.body
            return answer

    registry = Keeping(uses=2)

    async def opened(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(CONTENT), 500):
            yield CONTENT[start : start + 500]

    async with running(registry) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        registry.url = peer.url
        await uploads.put(client, "ml/demo", Upload(DIGEST, len(CONTENT), opened, chunk_bytes=1000))
    assert Keeping.received == CONTENT
    assert registry.issued > 2


async def test_a_mount_asks_for_the_source_too() -> None:
    registry = Registry()
    async with running(registry) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        registry.url = peer.url

        async def opened(offset: int) -> AsyncIterator[bytes]:
            yield CONTENT[offset:]

        await uploads.put(client, "ml/demo", Upload(DIGEST, len(CONTENT), opened, mount_from=("ml/other",)))
    scopes = [scope for exchange in registry.exchanges for scope in exchange.query["scope"]]
    assert scopes == ["repository:ml/demo:pull", "repository:ml/demo:pull,push", "repository:ml/other:pull"]


async def test_a_realm_on_a_foreign_host_gets_nothing() -> None:
    async with running(lambda _: Answer(200, b'{"token":"t1"}')) as thief:
        foreign = thief.url.replace("127.0.0.1", "localhost")
        registry = Registry(realm=f"{foreign}/token")
        async with (
            running(registry) as peer,
            RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT, allow_private=True) as client,
        ):
            with pytest.raises(RemoteAuthError, match="another host, localhost"):
                await read(client)
        assert thief.asked == []


async def test_an_allowed_realm_host_is_used() -> None:
    registry = Registry()
    async with running(registry) as peer:
        registry.realm = peer.url.replace("127.0.0.1", "localhost") + "/token"
        async with RegistryClient(
            peer.url, credential=ALICE, retry=IMPATIENT, allow_private=True, realm_hosts=("localhost",)
        ) as client:
            assert await read(client) == CONTENT


async def test_basic_is_sent_on_every_call_once_it_was_asked_for() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.headers.get("authorization") == BASIC:
            return Answer(200, CONTENT)
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    async with running(answer) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        await read(client)
        await read(client)
        assert [a.headers.get("authorization") for a in peer.asked] == [None, BASIC, BASIC]


async def test_a_wrong_password_is_said_once() -> None:
    def answer(_: Asked) -> Answer:
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    async with running(answer) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        with pytest.raises(RemoteAuthError):
            await read(client)
        assert len(peer.asked) == 2
        with pytest.raises(RemoteAuthError, match="refused the user name"):
            await read(client)


async def test_a_ready_token_is_sent_at_once() -> None:
    async with (
        running(lambda _: Answer(200, CONTENT)) as peer,
        RegistryClient(peer.url, credential=Credential(token="berth"), retry=IMPATIENT) as client,
    ):
        await read(client)
        assert [a.headers["authorization"] for a in peer.asked] == ["Bearer berth"]


async def test_a_refused_ready_token_goes_nowhere_else() -> None:
    registry = Registry()
    async with (
        running(registry) as peer,
        RegistryClient(peer.url, credential=Credential(token="berth"), retry=IMPATIENT) as client,
    ):
        registry.url = peer.url
        with pytest.raises(RemoteAuthError, match="refused the token"):
            await read(client)
    assert registry.exchanges == []


def test_secrets_are_not_shown() -> None:
    assert "pa:ss" not in repr(ALICE)
    assert "berth" not in repr(Credential(token="berth"))


@pytest.mark.parametrize(
    "url",
    [
        "http://registry.example",
        "http://10.0.0.1:5000",
        "ftp://x",
        "https://a/b",
        "https://",
        "https://[::1",
        "https://256.0.0.1",
        "https://a:99999",
    ],
)
def test_unsafe_or_malformed_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        registry_origin(url)


def test_credentials_in_the_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        registry_origin("https://alice:secret@registry.example")
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidInput) as caught:
        registry_origin("https://alice:secret@registry.example:x/path?")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("registry.example:5000", "https://registry.example:5000"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://localhost:5000/", "http://localhost:5000"),
        ("https://Registry.Example", "https://registry.example"),
    ],
)
def test_addresses_are_normalised(url: str, origin: str) -> None:
    assert str(registry_origin(url)) == origin


async def test_an_unreadable_token_answer_is_an_error() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.path == "/token":
            return Answer(200, b"<html>log in</html>")
        return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{peer.url}/token",service="x"'})

    async with running(answer) as peer, RegistryClient(peer.url, credential=ALICE, retry=IMPATIENT) as client:
        with pytest.raises(RemoteError):
            await read(client)
