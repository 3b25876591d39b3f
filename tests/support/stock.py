"""What stock clients do in stories."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.processes import BerthProcess, needs


def push(berth: BerthProcess, layout: Path, name: str) -> None:
    """skopeo pushes a whole version out of an OCI layout, as the first admin."""
    said = subprocess.run(
        [
            needs("skopeo"), "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false",
            f"--dest-creds=admin:{berth.admin_token}", f"oci:{layout}:{name.rpartition(':')[2]}",
            f"docker://{berth.host}/{name}",
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
