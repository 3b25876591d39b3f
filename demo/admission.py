"""What does it take to leave? Refused, signed, approved, allowed; a malicious twin; an approval taken back."""

from __future__ import annotations

import json
import pickle
import shutil
from typing import Any

from demo.cast import BERTH, HOME, MODEL, REF, RUN, XUMI, Stage
from demo.making import digest_of_build
from demo.show import DemoFailedError


def refused(stage: Stage) -> None:
    story = stage.story
    story.step("The cluster may pull from this project, but not this version")
    if stock_client_refused(stage):
        story.good("skopeo was refused, with the reasons", summary="a stock client was refused and told why")
    story.run([XUMI, "explain", REF], env=stage.people.reader, expect=3)
    story.good("xumi explain: the same reasons, exit status 3")


def stock_client_refused(stage: Stage) -> bool:
    """False when there is no skopeo. Raises DemoFailedError when it was not refused, or for another reason."""
    if shutil.which("skopeo") is None:
        stage.story.skip("skopeo is not installed")
        return False
    said = stage.story.run(stage.skopeo_copy(RUN / "refused"), env={}, expect=None)
    if "denied" not in (said.stdout + said.stderr).lower():
        raise DemoFailedError(f"the refusal must be the gate's DENIED: {said.stderr}")
    return True


def sign_and_approve(stage: Stage) -> None:
    story, people, key = stage.story, stage.people, RUN / "release"
    story.step("ada signs, the project trusts her key, rita approves")
    story.run([XUMI, "key", "generate", "--out", key], env=people.engineer)
    story.run([BERTH, "key", "trust", "release", "--project", "demo", "--key", f"{key}.pub"], env=people.admin)
    story.run([XUMI, "sign", REF, "--key", f"{key}.key"], env=people.engineer)
    story.run([XUMI, "approve", REF], env=people.reviewer)


def allowed(stage: Stage, *, real_db: bool) -> bool:
    """False when Trivy's public database knows something against the demo's own packages; that ends the story."""
    story = stage.story
    story.step("Now the verdict is: allow")
    said = story.run([XUMI, "explain", REF], env=stage.people.reader, expect=(0, 3) if real_db else 0)
    story.run([XUMI, "evidence", "ls", REF], env=stage.people.engineer)
    if said.returncode:
        story.good("not today: the public database has findings with fixes", summary="refused for real vulnerabilities")
        return False
    story.good("every scan is on record", summary="admitted by evidence: scans, a trusted signature, an approval")
    return True


def malicious_twin(stage: Stage) -> None:
    """The same model with a pickle among its weights that would start a program when loaded."""
    story = stage.story
    story.step("Version 1.0.1 has a pickle among its weights that runs a program when it is loaded")
    twin = HOME / "twin"
    shutil.rmtree(twin, ignore_errors=True)
    shutil.copytree(stage.folder, twin)
    manifest = twin / "xumi.yaml"
    text = manifest.read_text(encoding="utf-8")
    text = text.replace("version: 1.0.0", "version: 1.0.1").replace("config.min.json]", "config.min.json, notes.bin]")
    manifest.write_text(text, encoding="utf-8")
    # An innocent name: the scanner goes by content.
    (twin / "weights/notes.bin").write_bytes(pickle.dumps(Surprise()))
    digest_of_build(stage, twin)
    twin_ref = f"{MODEL}:1.0.1"
    story.run([XUMI, "push", twin_ref, "--wait"], env=stage.people.engineer, show=False)
    said = story.run([XUMI, "explain", twin_ref, "-o", "json"], env=stage.people.reader, expect=3, show=False)
    reasons: list[dict[str, Any]] = json.loads(said.stdout)["reasons"]
    found = [reason for reason in reasons if "malicious" in json.dumps(reason).lower()]
    if not found:
        raise DemoFailedError(f"the pickle must be among the reasons: {said.stdout}")
    story.say(f"{found[0].get('code')}: {found[0].get('message')}")
    story.good("refused", summary="a malicious pickle under an innocent name was found and refused")


class Surprise:
    """Pickles to a call of os.system; nothing in the demo or in Berth ever loads it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("echo this would have run",)


def revoke(stage: Stage) -> None:
    story = stage.story
    story.step("rita takes her approval of 1.0.0 back")
    story.run([XUMI, "revoke", REF], env=stage.people.reviewer)
    story.run([XUMI, "explain", REF], env=stage.people.reader, expect=3)
    if stock_client_refused(stage):
        story.good("refused with the next request", summary="an approval taken back counts with the next request")
