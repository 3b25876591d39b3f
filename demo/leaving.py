"""Who can take an admitted version away, and is it what was built? skopeo, podman, xumi; byte by byte."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tarfile
import time
from pathlib import Path

from demo import podman
from demo.cast import MOUNT, REF, RUN, XUMI, Stage
from demo.prediction import SAMPLE, agree
from demo.service import answers
from demo.show import DemoFailedError
from demo.weights import Source, oracle

CODE = "opt/model/model.py"


def stock_client(stage: Stage) -> Path | None:
    """skopeo copies the image; its folder, or None without skopeo."""
    story = stage.story
    story.step("A stock client takes the image")
    if shutil.which("skopeo") is None:
        story.skip("skopeo is not installed")
        return None
    target = RUN / "copied"
    story.run(stage.skopeo_copy(target), env={})
    blobs = [path for path in target.iterdir() if path.name not in ("manifest.json", "version")]
    for blob in blobs:
        with blob.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                raise DemoFailedError(f"{blob} does not have the digest it is named after")
    if code_in_layers(target) != (stage.folder / "model.py").read_bytes():
        raise DemoFailedError("the code in the image is not the code that was built")
    size = sum(blob.stat().st_size for blob in blobs) / 1e6
    story.good(f"{len(blobs)} blobs, {size:.0f} MB, every digest right; /{CODE} is the file that was built",
               summary="skopeo copied the admitted image; its code is what was built")  # fmt: skip
    return target


def code_in_layers(copied: Path) -> bytes | None:
    """The model's code out of the uppermost layer that has it."""
    layers = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))["layers"]
    for layer in reversed(layers):
        with tarfile.open(copied / layer["digest"].partition(":")[2]) as archive:
            for member in archive:
                if member.name.removeprefix("./") == CODE and (file := archive.extractfile(member)):
                    return file.read()
    return None


def container_engine(stage: Stage, *, source: Source, image: Path | None) -> None:
    """podman pulls and runs it with the weights mounted, and it answers; left out where containers are forbidden."""
    story = stage.story
    story.step("A container engine pulls and runs it, weights mounted")
    engine = podman.Podman(RUN / "podman")
    problem = engine.ready()
    if problem:
        story.skip(problem)
        return
    try:
        reference = f"{stage.service.address}/{REF}"
        access = ["--tls-verify=false", "--creds", stage.credentials]
        access += ["--signature-policy", str(engine.home / "policy.json")]
        story.run([*engine.command, "pull", "--quiet", *access, reference], env=engine.env)
        try:
            container, port = podman.run_model(engine, reference, weights=stage.folder / "weights", mount=MOUNT)
        except OSError as error:
            story.good("pulled", summary="podman pulled the admitted image")
            story.skip(f"running it is not possible here: {story.plain(str(error))}")
            return
        wait_ready(engine, container, port)
        content = base64.b64encode(SAMPLE.read_bytes()).decode()
        said = podman.post_json(f"http://127.0.0.1:{port}/invoke", {"content": {"data": content}})
        agree(said, oracle(source, SAMPLE))
        story.good(
            f"pulled, started, asked: {json.dumps(said)}", summary="podman pulled and ran it, and it answered right"
        )
    finally:
        engine.clean()


def wait_ready(engine: podman.Podman, container: str, port: int) -> None:
    deadline = time.monotonic() + 60
    while not answers(f"http://127.0.0.1:{port}/healthz/ready"):
        running = engine.call("inspect", "--format", "{{.State.Running}}", container).stdout.strip()
        if running != "true" or time.monotonic() > deadline:
            logs = engine.call("logs", container)
            raise DemoFailedError(f"the container is not ready:\n{logs.stdout}{logs.stderr}")
        time.sleep(0.1)


def pull_and_compare(stage: Stage) -> Path:
    """xumi pull brings code and weights; every file of the folder must come back as it was."""
    story = stage.story
    story.step("xumi pull takes code and weights")
    target = RUN / "pulled"
    story.run([XUMI, "pull", REF, "-o", target], env={**stage.people.reader, "XUMI_HOME": str(RUN / "elsewhere")})
    for name in ("model.py", "model.onnx", "config.min.json"):
        original = next(stage.folder.rglob(name))
        copies = [path for path in target.rglob(name) if path.is_file()]
        if not copies:
            raise DemoFailedError(f"{name} did not come back: {sorted(str(p) for p in target.rglob('*'))[:40]}")
        if any(copy.read_bytes() != original.read_bytes() for copy in copies):
            raise DemoFailedError(f"{name} came back changed")
        story.good(f"{name}: {original.stat().st_size} bytes, the same bytes as in ada's folder")
    story.results.append(("✓", "xumi pull brought code and weights back, byte by byte the originals"))
    return target
