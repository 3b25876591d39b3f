"""A project whose home is an object store: what is admitted goes there whole, comes back, and is taken back."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import obstore

from berth.client import Berth
from tests.support.daemons import runnable
from tests.support.processes import BerthFactory, needs, poll
from tests.support.seaweedfs import BUCKET, KEY, SECRET, Weed
from tests.support.stock import push


def test_an_object_store_is_a_home(berth_factory: BerthFactory, weed: Weed, tmp_path: Path) -> None:
    berth = berth_factory().start()
    client = Berth(berth.url, berth.admin_token)
    client.projects.create("lab", policy="open")
    options = {"endpoint": weed.url}
    client.registries.add(
        "shelf",
        kind="objects",
        url=f"s3://{BUCKET}/home",
        username=KEY,
        secret=SECRET,
        options=options,
        takes_open=True,
    )
    assert (
        "conditional writes: yes" in client.registries.probe("shelf", repository="lab/probe")["capabilities"]["notes"]
    )
    client.projects.set("lab", home="shelf")
    made = runnable(tmp_path / "one", "1.0.0", says="one", filler=os.urandom(12_000_000))
    push(berth, tmp_path / "one", "lab/says:1.0.0")

    def places() -> list[tuple[str, str]]:
        return [(p["registry"], p["state"]) for p in client.versions.placements("lab/says:1.0.0")]

    poll(lambda: places() == [("shelf", "published")], what="1.0.0 is published")
    # Any tool reads it, once it is on a disk.
    store = weed.store()
    for item in obstore.list(store, "home/lab/says").collect():
        file = tmp_path / item["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(obstore.get(store, item["path"]).bytes()))
    said = subprocess.run(
        [needs("skopeo"), "inspect", "--raw", f"oci:{tmp_path / 'home/lab/says'}:1.0.0"],
        capture_output=True,
        check=True,
    )
    assert "sha256:" + hashlib.sha256(said.stdout).hexdigest() == made["index"]

    # Back, into another project, byte for byte; a second time nothing moves.
    client.projects.create("copies", policy="open")
    client.sync.add("back", source="shelf", target="depot", project="lab", terms={"target_project": "copies"})
    for sent in (True, False):
        run = client.sync.wait(int(client.sync.run("back")["id"]), timeout=120)
        assert (run["state"], bool(run["bytes_transferred"])) == ("succeeded", sent)
    assert client.versions.show("copies/says:1.0.0")["digest"] == made["index"]

    client.versions.decide("lab/says:1.0.0", "revoked")
    poll(lambda: places() == [("shelf", "withdrawn")], what="1.0.0 is withdrawn")
    assert b'"1.0.0"' not in bytes(obstore.get(store, "home/lab/says/index.json").bytes())
