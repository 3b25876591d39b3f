"""What does the environment say? The only file of the runtime that reads it.

XUMI_MANIFEST       manifest as JSON            /opt/xumi/manifest.json
XUMI_CODE           folder of the model's code  /opt/model
XUMI_HOST           address to listen on        0.0.0.0
XUMI_PORT           port; 0 takes a free one    the manifest's runtime.port
XUMI_CONCURRENCY    calls of predict() at once  the manifest's runtime.concurrency
XUMI_MAX_BODY       largest request in bytes    67108864
XUMI_WEIGHTS_DIR    weights lie in DIR/<checkpoint> instead of at the mount paths
XUMI_WEIGHTS_URL    where missing weights are fetched, as URL/<digest>
XUMI_WEIGHTS_TOKEN  bearer token for that
XUMI_WEIGHTS_VERIFY 1 checks the digest of weights that are already there, too
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, Optional

from xumi.problems import StartFailed

DEFAULT_MAX_BODY = 64 * 1024 * 1024


class Settings:
    """The runtime's settings; `environ` is the process environment."""

    def __init__(self, environ: Optional[Dict[str, str]] = None) -> None:
        env = dict(os.environ) if environ is None else environ
        self.manifest = Path(env.get("XUMI_MANIFEST") or "/opt/xumi/manifest.json")
        self.code = Path(env.get("XUMI_CODE") or "/opt/model")
        self.host = env.get("XUMI_HOST") or "0.0.0.0"  # noqa: S104 - a container serves its network
        self.port = _number(env, "XUMI_PORT")
        self.concurrency = _number(env, "XUMI_CONCURRENCY")
        self.max_body = _number(env, "XUMI_MAX_BODY") or DEFAULT_MAX_BODY
        directory = env.get("XUMI_WEIGHTS_DIR")
        self.weights_dir: Optional[Path] = Path(directory) if directory else None
        self.weights_url = (env.get("XUMI_WEIGHTS_URL") or "").rstrip("/")
        self.weights_token = env.get("XUMI_WEIGHTS_TOKEN") or ""
        self.weights_verify = env.get("XUMI_WEIGHTS_VERIFY") == "1"


def _number(env: Dict[str, str], name: str) -> Optional[int]:
    text = env.get(name)
    if not text:
        return None
    if not text.isdigit():
        raise StartFailed(f"{name} must be a whole number, not {text!r}.", 2)
    return int(text)
