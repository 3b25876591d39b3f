"""What does Berth do, shown on real components: one model's way from a folder to a prediction somewhere else.

A real Debian base, real ONNX weights, real Trivy, skopeo and podman; everything below .demo/, nothing left running.
Usage: make demo        (REAL_DB=1 uses Trivy's public database, KEEP=1 leaves the service running)
"""

from __future__ import annotations

import argparse
import shutil
import sys

from demo import admission, leaving, making, prediction, setting
from demo.cast import ROOT, RUN, Stage
from demo.service import Service
from demo.show import DemoFailedError, Story, paint


def main() -> int:
    options = arguments()
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    story = Story()
    service = Service(RUN / "data", log=RUN / "berth.log")
    story.shorten = {str(RUN): ".demo/run", str(ROOT): ".", service.address: "BERTH"}
    try:
        tell(story, service, real_db=options.real_db)
    except DemoFailedError as error:
        print(f"\n{paint('The demo failed.', 'red')} {story.plain(str(error))}", file=sys.stderr)
        print(f"\nLast lines of the service's log (.demo/run/berth.log):\n{service.tail(15)}", file=sys.stderr)
        service.stop()
        return 1
    except BaseException:
        service.stop()
        raise
    story.end()
    if options.keep and service.process is not None:
        print(f"\nBerth is still running: {service.url}")
        print(f"  export BERTH_URL={service.url} BERTH_TOKEN=$(cat .demo/run/data/admin.token)")
        print(f"  kill {service.process.pid}      # ends it")
    else:
        service.stop()
        print("\nBerth is stopped; its data and log are in .demo/run. KEEP=1 leaves it running.")
    return 0


def tell(story: Story, service: Service, *, real_db: bool) -> None:
    """The chapters in order. Raises DemoFailedError where one does not do what it says."""
    source, base_note = setting.real_things(story)
    setting.start(story, service)
    if real_db:
        story.say("REAL_DB=1: Trivy fetches its public database at the first scan, which takes a while")
    else:
        setting.advisories(story, service)
    stage = Stage(story, service, making.people(story, service), making.folder(source))
    making.build(stage, base_note=base_note)
    making.push(stage)
    admission.refused(stage)
    admission.sign_and_approve(stage)
    if not admission.allowed(stage, real_db=real_db):
        return
    image = leaving.stock_client(stage)
    leaving.container_engine(stage, source=source, image=image)
    pulled = leaving.pull_and_compare(stage)
    prediction.compare(stage, pulled=pulled, source=source)
    admission.malicious_twin(stage)
    admission.revoke(stage)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real-db", action="store_true", help="Trivy's public database instead of our small one")
    parser.add_argument("--keep", action="store_true", help="leave the service running")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
