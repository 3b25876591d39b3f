"""Does the pulled model work? Started with the runtime, asked over HTTP, compared with the original library."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from berth.authoring.manifest import load
from demo.cast import MOUNT, ROOT, RUN, Stage
from demo.podman import post_json
from demo.service import answers, free_port
from demo.show import DemoFailedError
from demo.weights import Source, oracle

SAMPLE = ROOT / "demo/run.py"


def compare(stage: Stage, *, pulled: Path, source: Source) -> None:
    story = stage.story
    story.step("The pulled model answers, elsewhere, what the original library answers")
    expected = oracle(source, SAMPLE)
    story.say(f"asked about demo/run.py, the library magika says: {expected[0]} ({expected[1]:.6f})")
    said = ask(pulled)
    agree(said, expected)
    story.good(f"python -m xumi, on pulled code and weights, says: {json.dumps(said)}",
               summary="the pulled model's answer equals the original library's")  # fmt: skip


def agree(said: object, expected: tuple[str, float]) -> None:
    """Raises DemoFailedError unless label and score are what the library said."""
    label, score = expected
    if not isinstance(said, dict) or said.get("label") != label or label != "python":
        raise DemoFailedError(f"the label must be python, as magika says: {said}")
    if abs(float(said["score"]) - score) > 1e-4:
        raise DemoFailedError(f"the score must be {score}: {said}")


def ask(pulled: Path) -> object:
    """One call of the model, served by the runtime from the pulled files."""
    port = free_port()
    log = RUN / "model.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "xumi"],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT / "src"),
                **where(pulled),
                "XUMI_HOST": "127.0.0.1",
                "XUMI_PORT": str(port),
            },
            stdout=out,
            stderr=out,
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/healthz/ready"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailedError(f"the pulled model does not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.1)
        content = base64.b64encode(SAMPLE.read_bytes()).decode()
        return post_json(f"http://127.0.0.1:{port}/invoke", {"content": {"data": content}})
    finally:
        process.terminate()
        process.wait()


def where(pulled: Path) -> dict[str, str]:
    """Tell the runtime where manifest, code and weights are, out of what `xumi pull` wrote."""
    runtime = RUN / "runtime"
    (runtime / "weights").mkdir(parents=True, exist_ok=True)
    # The image has the manifest as JSON; the folder has the text that it was made of.
    manifest = json.dumps(load(pulled).manifest.to_json())
    (runtime / "manifest.json").write_text(manifest, encoding="utf-8")
    link = runtime / "weights" / Path(MOUNT).name
    link.symlink_to(next(pulled.rglob("model.onnx")).parent.resolve())
    return {
        "XUMI_CODE": str(next(pulled.rglob("model.py")).parent),
        "XUMI_WEIGHTS_DIR": str(runtime / "weights"),
        "XUMI_MANIFEST": str(runtime / "manifest.json"),
    }
