"""An image pushed, refused, judged and let out again, with the programs people have: skopeo, podman, curl, Trivy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.stories.images import DEBIAN, installed, layout, malicious_pickle
from tests.support.advisories import AdvisoryRegistry
from tests.support.advisories import advisory_registry as advisory_registry
from tests.support.processes import BerthProcess, factory, needs, note_peer

BIN = Path(sys.executable).parent


class Site:
    """A running Berth with a strict project `ml` and one person per role."""

    def __init__(self, berth: BerthProcess, home: Path) -> None:
        self.berth = berth
        self.home = home
        self.tokens = {"admin": berth.admin_token}
        self.run("berth", "project", "create", "ml")
        for name, role in (("dev", "developer"), ("rita", "reviewer"), ("rae", "reader"), ("max", "maintainer")):
            self.run("berth", "user", "add", name)
            made = self.run("berth", "token", "create", "--user", name, "--project", "ml", "--role", role, "-o", "json")
            self.tokens[name] = json.loads(made.stdout)["token"]

    def run(
        self,
        program: str,
        *words: str,
        user: str = "admin",
        status: int | None = 0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """One of our two programs as a user would call it, with that user's token."""
        environment = {
            **os.environ,
            "BERTH_URL": self.berth.url,
            "BERTH_TOKEN": self.tokens[user],
            "XUMI_HOME": str(self.home / "xumi"),
            **(env or {}),
        }
        done = subprocess.run(
            [BIN / program, *words],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=self.home,
            timeout=180,
        )
        assert status is None or done.returncode == status, (
            f"{program} {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    def skopeo(self, user: str, *words: str) -> subprocess.CompletedProcess[str]:
        """skopeo with that user's credentials; `docker://ml/x` stands for the repository here."""
        skopeo = needs("skopeo")
        credentials = f"{user}:{self.tokens[user]}"
        command = [skopeo, words[0]]
        if words[0] == "copy":
            command += ["--src-tls-verify=false", "--dest-tls-verify=false"]
            side = "--dest-creds" if words[-1].startswith("docker://") else "--src-creds"
            command += [side, credentials]
        else:
            command += ["--tls-verify=false", "--creds", credentials]
        command += [word.replace("docker://", f"docker://{self.berth.host}/") for word in words[1:]]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def push(self, files: Mapping[str, bytes], reference: str) -> str:
        """Push an image of these files with skopeo as the developer; returns its digest."""
        folder = self.home / reference.replace("/", "-").replace(":", "-")
        digest = layout(folder, files)
        done = self.skopeo("dev", "copy", f"oci:{folder}:image", f"docker://{reference}")
        assert done.returncode == 0, done.stderr
        return digest

    def judged(self, reference: str) -> dict[str, Any]:
        """The verdict once the scans have ended."""
        self.run("xumi", "scans", reference, "--wait", status=None, user="rita")
        return dict(json.loads(self.run("xumi", "explain", reference, "-o", "json", user="rae", status=None).stdout))

    def admit(self, reference: str) -> None:
        key = self.home / "key"
        if not key.with_suffix(".key").exists():
            self.run("xumi", "key", "generate", "--out", str(key))
            self.run("berth", "key", "trust", "release", "--project", "ml", "--key", f"{key}.pub", user="max")
        self.run("xumi", "sign", reference, "--key", f"{key}.key", user="dev")
        self.run("xumi", "approve", reference, user="rita")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, advisory_registry: AdvisoryRegistry) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with factory(folder) as make:
        berth = make(env={"BERTH_TRIVY_DB_REPOSITORY": advisory_registry.reference}).start()
        note_peer("trivy", "the real program in a story")
        yield Site(berth, folder)


def test_a_stock_clients_image_is_refused_with_the_reasons_and_leaves_once_admitted(site: Site, tmp_path: Path) -> None:
    digest = site.push({**DEBIAN, "opt/model/code.py": b"print(1)\n"}, "ml/plain:1.0.0")
    refused = site.skopeo("rae", "copy", "docker://ml/plain:1.0.0", f"dir:{tmp_path / 'no'}")
    assert refused.returncode != 0
    assert "signature.missing" in refused.stderr
    assert "approval.missing" in refused.stderr
    verdict = site.judged("ml/plain:1.0.0")
    assert verdict["verdict"] == "deny"
    assert {reason["code"] for reason in verdict["reasons"]} == {"signature.missing", "approval.missing"}
    site.admit("ml/plain:1.0.0")
    assert json.loads(site.run("xumi", "explain", "ml/plain:1.0.0", "-o", "json").stdout)["verdict"] == "allow"
    served = site.skopeo("rae", "copy", "docker://ml/plain:1.0.0", f"dir:{tmp_path / 'yes'}")
    assert served.returncode == 0, served.stderr
    again = site.skopeo("rae", "inspect", "docker://ml/plain:latest")
    assert json.loads(again.stdout)["Digest"] == digest


def test_a_known_vulnerability_with_a_fix_keeps_an_image_in_whoever_signs_it(site: Site, tmp_path: Path) -> None:
    site.push({**DEBIAN, **installed("berth-vulnerable-example", "1.0.0")}, "ml/vulnerable:1.0.0")
    site.judged("ml/vulnerable:1.0.0")
    site.admit("ml/vulnerable:1.0.0")
    verdict = site.judged("ml/vulnerable:1.0.0")
    assert [reason["code"] for reason in verdict["reasons"] if reason["code"].startswith("scan")] == ["scan.vulnerable"]
    assert site.skopeo("rae", "copy", "docker://ml/vulnerable:1.0.0", f"dir:{tmp_path / 'no'}").returncode != 0
    report = site.run("xumi", "evidence", "report", "ml/vulnerable:1.0.0", "vulnerabilities", user="rae")
    assert "BERTH-TEST-0001" in report.stdout


def test_a_malicious_pickle_keeps_an_image_in_under_any_name(site: Site) -> None:
    site.push({**DEBIAN, "opt/model/readme.txt": malicious_pickle()}, "ml/malicious:1.0.0")
    verdict = site.judged("ml/malicious:1.0.0")
    assert "weights.malicious" in {reason["code"] for reason in verdict["reasons"]}


def test_podman_signs_in_and_is_gated_like_everybody(
    site: Site, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    podman = needs("podman")
    site.push({**DEBIAN, "bin/true": b"\x7fELF not really"}, "ml/podman:1.0.0")
    short = Path(tempfile.mkdtemp(prefix="podman-"))  # podman wants a runroot of at most 50 characters
    request.addfinalizer(lambda: shutil.rmtree(short, ignore_errors=True))
    config = tmp_path / "containers.conf"
    config.write_text('[engine]\nruntime = "runc"\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\n')

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [podman, "--root", str(short / "root"), "--runroot", str(short / "run"), *words]
        environment = {
            **os.environ,
            "CONTAINERS_CONF": str(config),
            "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"),
        }
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)

    wrong = run("login", "--tls-verify=false", "-u", "rae", "-p", "berth_wrong", site.berth.host)
    assert wrong.returncode != 0
    signed_in = run("login", "--tls-verify=false", "-u", "rae", "-p", site.tokens["rae"], site.berth.host)
    assert signed_in.returncode == 0, signed_in.stderr
    image = f"{site.berth.host}/ml/podman:1.0.0"
    refused = run("pull", "-q", "--tls-verify=false", image)
    assert refused.returncode != 0
    assert "approval.missing" in refused.stderr
    site.judged("ml/podman:1.0.0")
    site.admit("ml/podman:1.0.0")
    pulled = run("pull", "-q", "--tls-verify=false", image)
    assert pulled.returncode == 0, pulled.stderr


def test_a_version_made_by_xumi_goes_through_skopeo_unchanged(site: Site, tmp_path: Path) -> None:
    """`copy --all` of the index, weights included, there and back: the digest is the same at every place."""
    base = tmp_path / "base"
    layout(base, {**DEBIAN, "usr/bin/python3": b"#!/bin/sh\n"})
    project = tmp_path / "echo"
    site.run("xumi", "init", "ml/echo", "--template", "command", "--directory", str(project))
    weights = os.urandom(3_000_000)
    manifest = (project / "xumi.yaml").read_text()
    if "checkpoints:" not in manifest:
        manifest += "\ncheckpoints:\n  - name: network\n    files: [network.bin]\n"
    (project / "xumi.yaml").write_text(manifest)
    (project / "weights").mkdir(exist_ok=True)
    (project / "weights/network.bin").write_bytes(weights)
    built = json.loads(
        site.run("xumi", "build", str(project), "--base", f"oci-layout:{base}:image", "-o", "json").stdout
    )
    reference = built["reference"]
    site.run("xumi", "push", reference, "--wait", user="dev")
    site.judged(reference)
    site.admit(reference)
    copied = site.skopeo("rae", "copy", "--all", f"docker://{reference}", f"oci:{tmp_path / 'copy'}:one")
    assert copied.returncode == 0, copied.stderr
    index = json.loads((tmp_path / "copy/index.json").read_text())
    assert index["manifests"][0]["digest"] == built["digest"]
    site.run("xumi", "pull", reference, "-o", str(tmp_path / "pulled"), user="rae")
    assert (tmp_path / "pulled/weights/network/network.bin").read_bytes() == weights
    assert (tmp_path / "pulled/xumi.yaml").read_text() == manifest


def test_curl_can_do_it_by_hand(site: Site) -> None:
    """The protocol without any client: challenge, token, manifest."""
    curl = needs("curl")

    def fetch(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([curl, "-sS", *words], capture_output=True, text=True, check=True, timeout=30)

    challenge = fetch("-i", f"{site.berth.url}/v2/").stdout
    assert f'realm="{site.berth.url}/v2/token"' in challenge
    where = f"{site.berth.url}/v2/token?service=berth&scope=repository:ml/none:pull"
    token = json.loads(fetch("-u", f"rae:{site.tokens['rae']}", where).stdout)["token"]
    missing = fetch("-i", "-H", f"Authorization: Bearer {token}", f"{site.berth.url}/v2/ml/none/manifests/1.0.0").stdout
    assert "404" in missing.splitlines()[0]
    assert "MANIFEST_UNKNOWN" in missing
