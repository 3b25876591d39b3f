"""A daemon's story: an admitted version runs there, nothing moves twice, and images come in through quarantine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.client import Berth
from berth.errors import InvalidInput
from tests.support.daemons import images, runnable, runs
from tests.support.processes import BerthFactory, poll
from tests.support.stock import push


def carried_out(client: Berth, rule: str, *, plan: bool = False) -> Any:
    """A run (or a plan) of a rule after its end, with its items."""
    started = client.sync.plan(rule) if plan else client.sync.run(rule)
    ended = client.sync.wait(int(started["id"]), timeout=120)
    return {**ended, "items": client.sync.items(ended["id"])}


def named(url: str, name: str) -> str | None:
    """Id of the image that a name means at the daemon."""
    forms = {name, f"localhost/{name}", f"docker.io/{name}"}
    return next((str(found["Id"]) for found in images(url) if forms & set(found["RepoTags"] or ())), None)


def tag(url: str, image: str, repository: str, version: str) -> None:
    socket = url.removeprefix("unix://")
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://daemon/v1.41") as http:
        answer = http.post(f"/images/{image}/tag", params={"repo": repository, "tag": version})
        assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("daemon", ["dockerd", "podman"])
def test_a_version_runs_in_a_daemon_and_an_image_comes_from_there(
    berth_factory: BerthFactory, daemon: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = str(request.getfixturevalue(daemon))
    berth = berth_factory().start()
    client = Berth(berth.url, berth.admin_token)
    client.projects.create("lab", policy="open")
    client.registries.add("engine", kind="daemon", url=url, takes_open=True)
    assert any("linux/amd64" in note for note in client.registries.probe("engine")["capabilities"]["notes"])
    with pytest.raises(InvalidInput, match="repacks"):
        client.projects.set("lab", home="engine")

    # Out: the image of the daemon's platform, by name; the weights stay here.
    one = runnable(tmp_path / "one", "1.0.0", says="one runs", filler=os.urandom(200_000))
    push(berth, tmp_path / "one", "lab/says:1.0.0")
    client.sync.add("out", source="depot", target="engine", project="lab")
    assert [item["action"] for item in carried_out(client, "out", plan=True)["items"]] == ["copy"]
    assert named(url, "lab/says:1.0.0") is None
    first = carried_out(client, "out")
    assert (first["state"], first["bytes_transferred"]) == ("succeeded", int(one["layer_bytes"]))
    assert named(url, "lab/says:1.0.0") == one["config"]
    assert runs(url, "lab/says:1.0.0") == "one runs"
    again = carried_out(client, "out")
    assert (again["state"], again["bytes_transferred"]) == ("succeeded", 0)
    assert [(item["action"], item["code"]) for item in again["items"]] == [("skip", "same")]

    # Another image under a version's name is a conflict, and is left alone.
    two = runnable(tmp_path / "two", "2.0.0", says="two runs")
    tag(url, one["config"], "localhost/lab/says" if daemon == "podman" else "lab/says", "2.0.0")
    push(berth, tmp_path / "two", "lab/says:2.0.0")
    clash = carried_out(client, "out")
    assert {item["tag"]: item["code"] for item in clash["items"]} == {"1.0.0": "same", "2.0.0": "other_digest"}
    assert named(url, "lab/says:2.0.0") == one["config"] != two["config"]

    # What is admitted goes there by itself, and is taken back when it is denied.
    client.sync.add("now", source="depot", target="engine", project="lab", on_admission=True)
    three = runnable(tmp_path / "three", "3.0.0", says="three runs")
    push(berth, tmp_path / "three", "lab/says:3.0.0")

    def places() -> list[tuple[str, str]]:
        return [(p["registry"], p["state"]) for p in client.versions.placements("lab/says:3.0.0")]

    poll(lambda: places() == [("engine", "published")], what="3.0.0 is published")
    assert named(url, "lab/says:3.0.0") == three["config"]
    client.versions.decide("lab/says:3.0.0", "revoked")
    poll(lambda: places() == [("engine", "withdrawn")], what="3.0.0 is withdrawn")
    assert named(url, "lab/says:3.0.0") is None

    # In: a team's own image becomes a version, under a new digest and in quarantine.
    client.projects.create("team", policy="strict")
    tag(url, one["config"], "localhost/team/app" if daemon == "podman" else "team/app", "0.1.0")
    client.sync.add("in", source="engine", target="depot", project="team")
    came = carried_out(client, "in")
    assert came["state"] == "succeeded", came
    [item] = came["items"]
    assert "Repacked" in item["notes"][0]
    version = client.versions.show("team/app:0.1.0")
    assert version["digest"] != one["index"]
    assert version["digest"] in item["notes"][0]
    assert not client.versions.verdict("team/app:0.1.0").allowed
    back = carried_out(client, "in")
    assert (back["state"], back["bytes_transferred"]) == ("succeeded", 0)
    assert [(item["action"], item["code"]) for item in back["items"]] == [("skip", "same")]

    # Through the depot only.
    client.registries.add("shelf", kind="folder", url=f"file://{tmp_path / 'shelf'}")
    client.sync.add("past", source="engine", target="shelf", project="team")
    past = carried_out(client, "past")
    assert past["state"] == "failed"
    assert "through the depot" in past["error"]
