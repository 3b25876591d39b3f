"""A small vulnerability database of our own in Trivy's format, for the demo and for tests: build it, push it.

  python -m demo.advisories build OUT [ADVISORIES.json]
  python -m demo.advisories push OUT REGISTRY REPOSITORY TAG [--user USER --password PASSWORD]

The advisories in `advisories.json` are ours; those with a CVE number describe real ones in our words.
"""

from __future__ import annotations

from demo.advisories.artifact import as_artifact, push
from demo.advisories.database import ADVISORIES, build, load

__all__ = ["ADVISORIES", "as_artifact", "build", "load", "push"]
