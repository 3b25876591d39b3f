"""`xumi sync`: a laptop follows a service, through kills, restarts and refusals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stories.test_sync import inspect, make_version, registry, run, skopeo
from tests.support.processes import ROOT, BerthFactory, BerthProcess, poll


def environment(berth: BerthProcess, home: Path) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.upper().startswith("BERTH_")}
    return env | {
        "PYTHONPATH": str(ROOT / "src"),
        "BERTH_URL": berth.url,
        "BERTH_TOKEN": berth.admin_token,
        "XUMI_HOME": str(home),
    }


def xumi(*words: str) -> list[str]:
    return [sys.executable, "-c", "from berth.cli.main import xumi; xumi()", *words]


def command(*words: str) -> list[str]:
    return xumi("sync", *words)


def sync(berth: BerthProcess, home: Path, *words: str, status: int = 0) -> Any:
    done = subprocess.run(
        command(*words, "-o", "json"),
        env=environment(berth, home),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def push(berth: BerthProcess, folder: Path, name: str, *, layers: int = 1, size: int = 300_000) -> str:
    """A version pushed by skopeo; its digest."""
    version = name.rpartition(":")[2]
    digest, _ = make_version(folder, version, layers=layers, size=size)
    skopeo("copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", f"admin:{berth.admin_token}",
           f"oci:{folder}:{version}", f"docker://{berth.host}/{name}")  # fmt: skip
    return digest


def states(found: Any) -> list[tuple[str, str, str]]:
    return [(item["version"], item["state"], item["code"]) for item in found["items"]]


@pytest.fixture(scope="module")
def service(berth: BerthProcess) -> BerthProcess:
    run(berth, "berth", "project", "create", "lab", "--policy", "open")
    run(berth, "berth", "project", "create", "quiet", "--policy", "strict")
    return berth


@contextmanager
def staying(berth: BerthProcess, home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A sync that stays; killed at the end if the test has not ended it."""
    process = subprocess.Popen(
        command(*words, "-o", "json"),
        env=environment(berth, home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_higher_versions_come_once_and_refused_ones_say_why(service: BerthProcess, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = push(service, tmp_path / "one", "lab/net:1.0.0")
    push(service, tmp_path / "quiet", "quiet/net:1.0.0")

    planned = sync(service, home, "lab/*", "--dry-run")
    assert (states(planned), planned["bytes_transferred"]) == ([("1.0.0", "planned", "missing")], 0)
    came = sync(service, home, "lab/*")
    assert (states(came), came["bytes_transferred"] > 300_000) == ([("1.0.0", "done", "missing")], True)
    inside = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{home}/oci:lab/net:1.0.0"], capture_output=True, check=True, timeout=60
    )
    assert "sha256:" + hashlib.sha256(inside.stdout).hexdigest() == first
    again = sync(service, home, "lab/*")
    assert (states(again), again["bytes_transferred"]) == ([("1.0.0", "skipped", "same")], 0)

    refused = sync(service, home, "quiet/net")
    assert states(refused) == [("1.0.0", "skipped", "denied")]
    assert "approval.missing" in refused["items"][0]["error"]

    # One line in a file is a rule; a lower version comes only when asked for.
    push(service, tmp_path / "low", "lab/net:0.9.0")
    push(service, tmp_path / "high", "lab/net:1.1.0")
    (home / "sync.yaml").write_text(f"- lab/net ^1\n- lab/net folder:{tmp_path}/usb all\n")
    both = sync(service, home)
    assert [(item["to"], item["version"], item["state"]) for item in both["items"]] == [
        ("local", "0.9.0", "skipped"),
        ("local", "1.0.0", "skipped"),
        ("local", "1.1.0", "done"),
        (f"folder:{tmp_path}/usb", "0.9.0", "done"),
        (f"folder:{tmp_path}/usb", "1.0.0", "done"),
        (f"folder:{tmp_path}/usb", "1.1.0", "done"),
    ]
    skopeo("inspect", f"oci:{tmp_path}/usb/lab/net:1.1.0")


def test_signatures_that_come_later_follow_the_version_to_folders_and_registries(
    service: BerthProcess, tmp_path: Path
) -> None:
    home, usb = tmp_path / "home", tmp_path / "usb"
    digest = push(service, tmp_path / "one", "lab/signed:1.0.0")
    key = tmp_path / "release"

    def do(*words: str) -> None:
        done = subprocess.run(
            xumi(*words), env=environment(service, home), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr

    do("key", "generate", "--out", str(key))
    with registry(tmp_path / "registry") as host:
        places = (f"folder:{usb}", f"http://{host}", "local")
        for place in places:
            assert states(sync(service, home, "lab/signed", "--to", place)) == [("1.0.0", "done", "missing")]
            assert states(sync(service, home, "lab/signed", "--to", place)) == [("1.0.0", "skipped", "same")]
        do("sign", "lab/signed:1.0.0", "--key", f"{key}.key")
        signature = digest.replace(":", "-") + ".sig"
        for place in places[:2]:
            planned = sync(service, home, "lab/signed", "--to", place, "--dry-run")
            assert states(planned) == [("1.0.0", "planned", "evidence_missing")]
            came = sync(service, home, "lab/signed", "--to", place)
            assert states(came) == [("1.0.0", "done", "evidence_missing")]
            # The version's own bytes stay where they are.
            assert 0 < came["bytes_transferred"] < 20_000
            assert states(sync(service, home, "lab/signed", "--to", place)) == [("1.0.0", "skipped", "same")]
        assert inspect(host, "lab/signed", signature) is not None
        skopeo("inspect", "--raw", f"oci:{usb}/lab/signed:{signature}")
        # What `xumi` works with on this machine holds versions, and no signatures about them.
        assert states(sync(service, home, "lab/signed")) == [("1.0.0", "skipped", "same")]


@pytest.mark.slow
def test_the_daemon_follows_survives_and_ends_in_order(berth_factory: BerthFactory, tmp_path: Path) -> None:
    berth = berth_factory().start()
    run(berth, "berth", "project", "create", "lab", "--policy", "open")
    push(berth, tmp_path / "one", "lab/net:1.0.0")
    home = tmp_path / "home"
    with (
        registry(tmp_path / "registry") as host,
        staying(berth, home, "lab/net", "--to", f"http://{host}", "--every", "1s") as daemon,
    ):
        poll(lambda: inspect(host, "lab/net", "1.0.0"), what="the first version is there")
        second = subprocess.run(
            command("lab/net"), env=environment(berth, home), capture_output=True, text=True, timeout=60, check=False
        )
        assert (second.returncode, "Another sync is at work" in second.stderr) == (1, True)
        url = berth.url
        os.kill(berth.children["server"], signal.SIGKILL)
        poll(lambda: _answers(url), what="the server is back", seconds=120)
        newer = push(berth, tmp_path / "two", "lab/net:1.1.0")
        poll(lambda: inspect(host, "lab/net", "1.1.0") == newer, what="the next version follows", seconds=120)
        daemon.send_signal(signal.SIGTERM)
        out, err = daemon.communicate(timeout=60)
        assert (daemon.returncode, "Stopped." in err) == (0, True), err
        rounds = [json.loads(line) for line in out.splitlines()]
        assert sum(found["bytes_transferred"] for found in rounds) > 600_000


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_a_killed_sync_goes_on_with_the_part_it_has(service: BerthProcess, tmp_path: Path) -> None:
    home = tmp_path / "home"
    size = 200_000_000
    push(service, tmp_path / "large", "lab/large:1.0.0", size=size)
    with staying(service, home, "lab/large") as broken:
        part = poll(
            lambda: next((p for p in home.glob("oci/blobs/*/.sync-*.part") if p.stat().st_size > 8_000_000), None),
            what="some of it has come",
        )
        broken.send_signal(signal.SIGKILL)
        broken.wait()
    held = part.stat().st_size if part.exists() else 0
    assert 8_000_000 < held < size
    assert not list(home.glob("oci/blobs/*/" + part.name.removeprefix(".sync-").removesuffix(".part")))
    came = sync(service, home, "lab/large")
    assert states(came) == [("1.0.0", "done", "missing")]
    assert came["bytes_transferred"] < size + 200_000 - held + 70_000


@pytest.mark.slow
def test_own_builds_go_up_and_nothing_is_overwritten(service: BerthProcess, tmp_path: Path) -> None:
    home = tmp_path / "home"
    mine = tmp_path / "mine"
    digest, _ = make_version(home / "oci", "lab/own:1.0.0")
    theirs = push(service, mine, "lab/other:1.0.0")
    make_version(home / "oci", "lab/other:1.0.0")
    found = sync(service, home, "lab/*", "--push")
    assert [(item["model"], item["state"], item["code"]) for item in found["items"]] == [
        ("lab/other", "conflict", "other_digest"),
        ("lab/own", "done", "missing"),
    ]
    shown = run(service, "berth", "version", "show", "lab/own:1.0.0")
    assert shown["digest"] == digest
    assert run(service, "berth", "version", "show", "lab/other:1.0.0")["digest"] == theirs
    assert sync(service, home, "lab/own", "--push")["bytes_transferred"] == 0
