"""The command line of `demo.advisories`; its usage stands there."""

from __future__ import annotations

import argparse
from pathlib import Path

from demo import advisories


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.advisories", description="Make a small Trivy database.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write trivy.db, metadata.json and db.tar.gz into a folder")
    build.add_argument("out", type=Path)
    build.add_argument("advisories", type=Path, nargs="?", default=advisories.ADVISORIES)
    push = commands.add_parser("push", help="push a built database to a registry")
    push.add_argument("out", type=Path)
    push.add_argument("registry", help="http[s]://host[:port]")
    push.add_argument("repository")
    push.add_argument("tag")
    push.add_argument("--user")
    push.add_argument("--password")
    given = parser.parse_args()
    if given.command == "build":
        print(advisories.build(given.out, advisories.load(given.advisories)))
        return
    reference = f"{given.registry.rstrip('/')}/{given.repository}:{given.tag}"
    print(advisories.push(given.out, reference, username=given.user, password=given.password))


if __name__ == "__main__":
    main()
