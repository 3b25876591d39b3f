"""How is a model made and sent? People with one role each, a folder, a build that repeats to the byte, a push."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from demo.cast import BERTH, HOME, REF, ROOT, RUN, XUMI, People, Stage
from demo.service import Service
from demo.show import DemoFailedError, Story
from demo.weights import Source


def people(story: Story, service: Service) -> People:
    story.step("A project with the policy `strict`, and three people with one role each")
    admin = {"BERTH_URL": service.url, "BERTH_TOKEN": service.token, "XUMI_HOME": str(RUN / "xumi")}
    story.run([BERTH, "project", "create", "demo", "--policy", "strict"], env=admin)

    def person(name: str, role: str) -> dict[str, str]:
        story.run([BERTH, "user", "add", name], env=admin, show=False)
        command: list[str | Path] = [
            BERTH,
            "token",
            "create",
            "--user",
            name,
            "--project",
            "demo",
            "--role",
            role,
            "-o",
            "json",
        ]
        token = str(json.loads(story.run(command, env=admin, show=False).stdout)["token"])
        story.shorten[token] = "TOKEN"
        return {**admin, "BERTH_USER": name, "BERTH_TOKEN": token}

    cast = People(admin, person("ada", "developer"), person("rita", "reviewer"), person("cluster", "reader"))
    story.good("ada pushes (developer), rita approves (reviewer), cluster pulls (reader)")
    return cast


def folder(source: Source) -> Path:
    """A copy of demo/model with the weights in it; what an engineer's folder looks like."""
    target = HOME / "model"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "demo/model", target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "weights").mkdir()
    for file in (source.network, source.config):
        shutil.copyfile(file, target / "weights" / file.name)
    return target


def build(stage: Stage, *, base_note: str) -> None:
    story = stage.story
    story.step("ada builds the model: an OCI image and a checkpoint, without a container engine")
    story.say(f"base image by {base_note}; packages as in requirements.txt, by hash, from the machine's package index")
    story.run([XUMI, "validate", stage.folder], env=stage.people.engineer)
    first = digest_of_build(stage, stage.folder)
    again = digest_of_build(stage, stage.folder, home=RUN / "another")
    if first != again:
        raise DemoFailedError(f"two builds of one folder must be the same bytes: {first}, {again}")
    story.good(
        f"built twice, the second time from nothing, same digest: {first}",
        summary="two builds of one folder gave the same digest",
    )


def digest_of_build(stage: Stage, source: Path, *, home: Path = RUN / "xumi") -> str:
    env = {**stage.people.engineer, "XUMI_HOME": str(home)}
    made = stage.story.run([XUMI, "build", source, "-o", "json"], env=env, show=False)
    return str(json.loads(made.stdout)["digest"])


def push(stage: Stage) -> None:
    story = stage.story
    story.step("ada pushes; it waits in quarantine while Trivy and the weight scanner look at it")
    story.run([XUMI, "push", REF, "--wait"], env=stage.people.engineer)
    story.good("received, scanned, not admitted", summary="scanned in quarantine by Trivy and the weight scanner")
