"""A copy meets a full disk, ours or another's: it says so, shows no part, and goes on when there is room."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from berth.adapters.registries.folder import FolderRegistry
from berth.errors import StorageFull
from berth.sync.copy import copy_version
from tests.stories.test_crash_uploads import Pusher, depot_files
from tests.stories.test_sync import inspect, make_version, registry, run, skopeo
from tests.support.disks import small_disk
from tests.support.processes import BerthFactory, BerthProcess, poll
from tests.unit.sync.made import content, push_image
from tests.unit.wire.registry_process import running_registry

LAYERS = 3
MEGABYTES = 3
# One layer fits, the second does not.
DISK = 5


def push(layout: Path, tag: str, host: str) -> None:
    skopeo("copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:{tag}", f"docker://{host}/lab/net:{tag}")


def add(berth: BerthProcess, name: str, host: str) -> None:
    marked = ("--kind", "distribution", "--takes-open")
    run(berth, "berth", "registry", "add", name, *marked, "--url", f"http://{host}")


def item(done: Any, tag: str) -> tuple[str, str]:
    """State and error of a version in a run."""
    (found,) = [one for one in done["items"] if one["tag"] == tag]
    return found["state"], found["error"] or ""


@pytest.mark.slow
def test_a_depot_that_is_full_fails_what_does_not_fit_and_takes_it_once_there_is_room(
    berth_factory: BerthFactory, tmp_path: Path
) -> None:
    data = tmp_path / "berth"
    with registry(tmp_path / "hub") as hub, small_disk(data / "depot", megabytes=DISK) as disk:
        _, small = make_version(tmp_path / "small", "1.0.0", size=100_000)
        _, large = make_version(tmp_path / "large", "2.0.0", layers=LAYERS, size=MEGABYTES * 1_000_000)
        push(tmp_path / "small", "1.0.0", hub)
        push(tmp_path / "large", "2.0.0", hub)
        berth = berth_factory(data=data).start()
        pusher = Pusher(berth)
        run(berth, "berth", "project", "create", "lab", "--policy", "open")
        add(berth, "hub", hub)
        rule = ("--source", "hub", "--target", "depot", "--project", "lab", "--parallel", "1")
        run(berth, "berth", "sync", "rule", "add", "in", *rule)

        first = carried_out(berth, "in")
        assert first["state"] == "failed"
        assert item(first, "1.0.0") == ("done", "")
        state, error = item(first, "2.0.0")
        # What is wrong, and the next step.
        assert (state, "The depot's disk is full" in error, "Free space" in error) == ("failed", True, True)
        # One layer fitted beside the small version, and nobody sees it.
        assert small + MEGABYTES * 1_000_000 <= first["bytes_transferred"] < small + 2 * MEGABYTES * 1_000_000
        assert tags(pusher) == ["1.0.0"]
        assert pusher.request("GET", "/v2/lab/net/manifests/2.0.0")[0] == 404
        assert depot_files(berth, "uploads") == []

        disk.grow(40)
        second = carried_out(berth, "in")
        assert (second["state"], item(second, "2.0.0")) == ("succeeded", ("done", ""))
        assert first["bytes_transferred"] + second["bytes_transferred"] == small + large
        assert tags(pusher) == ["1.0.0", "2.0.0"]
        berth.stop()


@pytest.mark.slow
def test_a_full_registry_gets_no_tag_and_its_publication_says_why_until_there_is_room(
    berth_factory: BerthFactory, tmp_path: Path
) -> None:
    """Debian's docker-registry answers 500, with the error of its disk inside."""
    (tmp_path / "harbour").mkdir()
    with (
        small_disk(tmp_path / "harbour" / "data", megabytes=DISK) as disk,
        running_registry(tmp_path / "harbour") as url,
        registry(tmp_path / "hub") as hub,
    ):
        harbour = url.removeprefix("http://")
        digest, _ = make_version(tmp_path / "large", "2.0.0", layers=LAYERS, size=MEGABYTES * 1_000_000)
        push(tmp_path / "large", "2.0.0", hub)
        berth = berth_factory().start()
        run(berth, "berth", "project", "create", "lab", "--policy", "open")
        add(berth, "hub", hub)
        add(berth, "harbour", harbour)
        run(berth, "berth", "project", "set", "lab", "--home", "harbour", "--parallel", "1")
        run(berth, "berth", "sync", "rule", "add", "in", "--source", "hub", "--target", "depot", "--project", "lab")
        run(berth, "berth", "sync", "run", "in", "--wait")

        def place() -> Any:
            (found,) = run(berth, "xumi", "where", "lab/net:2.0.0")["placements"]
            return found

        failed = poll(lambda: (now := place())["state"] == "failed" and now, what="the publication fails")
        assert "has no space left" in failed["error"]
        assert "Free some space there" in failed["error"]
        assert inspect(harbour, "lab/net", "2.0.0") is None

        disk.grow(40)
        # Whoever does not wait for the next try has it begin now; there is nothing to stop when that was faster.
        if run(berth, "berth", "sync", "hold", "lab/net:2.0.0", expect=None) is not None:
            run(berth, "berth", "sync", "release", "lab/net:2.0.0")
        poll(
            lambda: place()["state"] == "published", what="it is published", shown=lambda: (place(), berth.log[-4000:])
        )
        assert inspect(harbour, "lab/net", "2.0.0") == digest


async def test_a_full_folder_says_so_at_once_and_keeps_no_part_of_a_blob(tmp_path: Path) -> None:
    source = FolderRegistry(tmp_path / "source")
    layers = [os.urandom(MEGABYTES * 1_000_000) for _ in range(LAYERS)]
    digest = await push_image(source, "lab/net", "2.0.0", layers=layers)
    with small_disk(tmp_path / "usb", megabytes=DISK) as disk:
        target = FolderRegistry(tmp_path / "usb")
        with pytest.raises(StorageFull, match="is full"):
            await copy_version(source, target, "lab/net", "lab/net", digest, "2.0.0")
        assert await target.stat("lab/net", "2.0.0") is None
        assert list((tmp_path / "usb").rglob("*.part")) == []
        disk.grow(40)
        await copy_version(source, target, "lab/net", "lab/net", digest, "2.0.0")
        assert await content(target, "lab/net", "2.0.0") == await content(source, "lab/net", "2.0.0")
        await target.close()
    await source.close()


def tags(pusher: Pusher) -> list[str]:
    status, _, body = pusher.request("GET", "/v2/lab/net/tags/list")
    assert status == 200
    return sorted(json.loads(body)["tags"])


def carried_out(berth: BerthProcess, rule: str) -> Any:
    """A run of a rule that has ended, well or not."""
    number = run(berth, "berth", "sync", "run", rule)["id"]

    def ended() -> Any:
        now = run(berth, "berth", "sync", "status", "--run", str(number))
        return now if now["state"] not in ("queued", "running") else None

    return poll(ended, what="the run ends")
