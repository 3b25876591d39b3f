"""The child's door: one job as JSON on stdin, one answer as JSON on stdout.

Job: {"manifest": text, "paths": {digest: file}, "limits": {…}, "memory_bytes": n, "cpu_seconds": n}.
Answer: `Findings.to_json()` with "sandbox" and "tool"; no answer at all if a resource limit ended the process.
"""

from __future__ import annotations

import json
import logging
import sys
from importlib.metadata import version

from berth.adapters.scanners.weights_child import layers, sandbox
from berth.adapters.scanners.weights_child.findings import Findings, LimitExceededError, Limits


def main() -> None:
    """Read the job, lock ourselves in, scan, answer."""
    job = json.load(sys.stdin)
    # Opened for reading the metadata of the package, hence before file limits count.
    tool = {"name": "picklescan", "version": version("picklescan")}
    state = sandbox.enter(memory_bytes=int(job["memory_bytes"]), cpu_seconds=int(job["cpu_seconds"]))
    # picklescan logs every name it finds; findings go into the answer instead.
    logging.disable(logging.CRITICAL)
    findings = Findings(limits=Limits.from_json(job["limits"]))
    try:
        layers.scan(job["manifest"].encode(), job["paths"], findings)
    except LimitExceededError:
        pass  # noted where it was reached
    except MemoryError:
        findings.add_problem(
            "file.too_large", "The content needs more memory than a scan may use; raise BERTH_SCAN_MEMORY_BYTES."
        )
    json.dump({**findings.to_json(), "sandbox": state, "tool": tool}, sys.stdout)


if __name__ == "__main__":
    main()
