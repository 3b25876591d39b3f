"""Signing in: the token flow that docker, podman, skopeo and oras use, and tokens that must not work."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from berth.access import bearer
from tests.unit.server.gateway.registry import Client, Installation


@pytest.fixture
async def reader(installation: Installation) -> Client:
    await installation.project("ml", "open")
    developer = await installation.user("dev", "ml", "developer")
    await developer.image("ml/demo", "1.0.0")
    return await installation.user("rae", "ml", "reader")


async def exchange(client: Client, *scopes: str) -> str:
    query = "&".join(f"scope={scope}" for scope in scopes)
    answer = await client("GET", f"/v2/token?service=berth&{query}")
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["token"] == document["access_token"]
    assert document["expires_in"] <= 300
    return str(document["token"])


async def get(installation: Installation, token: str, path: str = "/v2/ml/demo/manifests/1.0.0") -> int:
    answer = await installation.anonymous("GET", path, Authorization=f"Bearer {token}")
    return answer.status_code


async def test_a_token_for_a_repository_reads_that_repository(installation: Installation, reader: Client) -> None:
    token = await exchange(reader, "repository:ml/demo:pull")
    assert await get(installation, token) == 200


async def test_asking_for_more_than_one_holds_gives_what_one_holds(installation: Installation, reader: Client) -> None:
    token = await exchange(reader, "repository:ml/demo:pull,push")
    assert await get(installation, token) == 200
    pushed = await installation.anonymous("POST", "/v2/ml/demo/blobs/uploads/", b"", Authorization=f"Bearer {token}")
    assert pushed.status_code == 403


async def test_a_token_for_one_repository_is_asked_to_be_renewed_for_another(
    installation: Installation, reader: Client
) -> None:
    token = await exchange(reader, "repository:ml/other:pull")
    answer = await installation.anonymous("GET", "/v2/ml/demo/manifests/1.0.0", Authorization=f"Bearer {token}")
    assert answer.status_code == 401
    assert 'scope="repository:ml/demo:pull"' in answer.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


async def test_the_raw_token_works_as_bearer_and_with_its_owner_as_basic_only(
    installation: Installation, reader: Client
) -> None:
    assert reader.token is not None
    assert await get(installation, reader.token) == 200
    impostor = Client(installation.http, "admin", reader.token)
    assert (await impostor("GET", "/v2/ml/demo/manifests/1.0.0")).status_code == 401


async def test_bad_credentials_are_401_everywhere(installation: Installation, reader: Client) -> None:
    wrong = Client(installation.http, "rae", "berth_wrong")
    for path in ("/v2/", "/v2/token", "/v2/ml/demo/manifests/1.0.0", "/v2/no/such/manifests/1"):
        assert (await wrong("GET", path)).status_code == 401
    assert (await installation.anonymous("GET", "/v2/token")).status_code == 401


async def test_expired_and_forged_bearer_tokens_are_refused(installation: Installation, reader: Client) -> None:
    async with installation.services.db.reading() as conn:
        row = (
            await conn.execute(
                text(
                    "select p.id, p.epoch, t.id as token from principals p join tokens t on t.principal_id = p.id "
                    "where p.name = 'rae'"
                )
            )
        ).one()
    facts = {
        "name": "rae",
        "principal_id": row.id,
        "epoch": row.epoch,
        "token_id": row.token,
        "repositories": {"ml/demo": ["pull"]},
    }
    now = installation.services.clock()
    good = bearer.issue(installation.services.bearer_secret, now=now, **facts)
    old = bearer.issue(installation.services.bearer_secret, now=now - timedelta(minutes=6), **facts)
    forged = bearer.issue(b"another secret of 32 bytes......", now=now, **facts)
    assert await get(installation, good) == 200
    assert await get(installation, old) == 401
    assert await get(installation, forged) == 401
    assert await get(installation, good[:-4] + "AAAA") == 401


@pytest.mark.parametrize(
    "change",
    [
        "update tokens set revoked_at = now()",
        "update tokens set expires_at = now() - interval '1 second'",
        "update principals set disabled = true",
        "update principals set epoch = epoch + 1",
    ],
)
async def test_rights_are_read_again_at_every_request(installation: Installation, reader: Client, change: str) -> None:
    token = await exchange(reader, "repository:ml/demo:pull")
    assert await get(installation, token) == 200
    async with installation.services.db.transaction() as conn:
        await conn.execute(text(change))
    assert await get(installation, token) == 401


async def test_the_oauth2_form_of_containerd_works(installation: Installation, reader: Client) -> None:
    form = f"grant_type=password&service=berth&username=rae&password={reader.token}&scope=repository:ml/demo:pull"
    answer = await installation.anonymous(
        "POST", "/v2/token", form.encode(), Content_Type="application/x-www-form-urlencoded"
    )
    assert answer.status_code == 200
    assert await get(installation, answer.json()["access_token"]) == 200


async def test_a_bearer_token_cannot_renew_or_widen_itself(installation: Installation, reader: Client) -> None:
    token = await exchange(reader, "repository:ml/other:pull")
    answer = await installation.anonymous(
        "GET", "/v2/token?scope=repository:ml/demo:pull", Authorization=f"Bearer {token}"
    )
    assert answer.status_code == 401


async def test_a_blob_get_asks_the_database_once(installation: Installation, reader: Client) -> None:
    """Token, epoch, role, place and verdict in one round trip (design §5)."""
    from sqlalchemy import event

    manifest = (await reader("GET", "/v2/ml/demo/manifests/1.0.0")).json()
    layer = manifest["layers"][0]["digest"]
    statements: list[str] = []
    engine = installation.services.db._engine.sync_engine  # noqa: SLF001 - counts what goes over the wire
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert (await reader("GET", f"/v2/ml/demo/blobs/{layer}")).status_code == 200
    assert len(statements) == 1, statements
